"""Counts whose rate grows exponentially."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Poisson(np.e ** (a + b * x)), obs=y)


def dataset(rng):
    x = np.linspace(-1, 1, 15)
    return {"x": x, "y": rng.poisson(np.exp(rng.normal(0, 1.5) + rng.normal() * x))}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        a, b = theta[:, :1], theta[:, 1:]
        rate = a + b * x
        return -0.5 * (a[:, 0] / 2) ** 2 - 0.5 * b[:, 0] ** 2 + (y * rate - np.exp(rate)).sum(axis=1)

    return grid_posterior(("a", "b"), log_density, [(-16, 16), (-8, 8)])
