"""The end of a uniform distribution: below the largest point the likelihood is zero."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(y=None):
    end = numpyro.sample("end", dist.HalfNormal(10.0))
    with numpyro.plate("point", 5):
        numpyro.sample("y", dist.Uniform(0.0, end * jnp.ones(5)), obs=y)


def dataset(rng):
    return {"y": rng.uniform(0, np.abs(rng.normal(0, 10)) + 0.1, 5)}


def exact(y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        end = theta[:, 0]
        return np.where(end > y.max(), -0.5 * (end / 10) ** 2 - len(y) * np.log(end), -np.inf)

    return grid_posterior(("end",), log_density, [(1e-3, 80)])
