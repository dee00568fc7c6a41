"""Waiting times with unknown shape and rate."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    shape = numpyro.sample("shape", dist.LogNormal(0.5, 0.7))
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("point", 10):
        numpyro.sample("y", dist.Gamma(shape, rate * jnp.ones(10)), obs=y)


def dataset(rng):
    return {"y": rng.gamma(rng.lognormal(0.5, 0.7), 1 / rng.lognormal(0, 1), 10) + 1e-12}


def exact(y):
    from scipy.special import gammaln

    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        shape, log_rate = np.exp(theta[:, 0]), theta[:, 1]
        likelihood = len(y) * (shape * log_rate - gammaln(shape)) + (shape - 1) * np.log(y).sum()
        likelihood -= np.exp(log_rate) * y.sum()
        return -0.5 * ((theta[:, 0] - 0.5) / 0.7) ** 2 - 0.5 * log_rate**2 + likelihood

    grid = on_grid(log_density, [(-5, 6), (-8, 8)])
    mean, sd = grid.moments(np.exp(grid.centres))
    names = ("shape", "rate")
    return Exact(dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))
