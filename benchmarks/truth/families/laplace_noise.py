"""A place with two-sided exponential errors, whose density has a kink at each point."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("point", 7):
        numpyro.sample("y", dist.Laplace(mu * jnp.ones(7), 0.5), obs=y)


def dataset(rng):
    return {"y": rng.normal(0, 5) + rng.laplace(0, 0.5, 7)}


def exact(y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        return -0.5 * (theta[:, 0] / 5) ** 2 - (np.abs(y - theta) / 0.5).sum(axis=1)

    return grid_posterior(("mu",), log_density, [(-40, 40)])
