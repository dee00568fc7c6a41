"""A black box that is not a number beyond an edge, far away from the posterior: a square root of what is negative."""

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {"a": dist.Normal(4.0, 1.5), "b": dist.Normal(0.0, 1.0)}


def log_likelihood(params, x, y):
    with np.errstate(invalid="ignore"):
        curve = np.sqrt(params["a"] + params["b"] * x)
    return -0.5 * float(np.sum(((y - curve) / 0.2) ** 2))


def dataset(rng):
    x = np.linspace(-1, 1, 12)
    inside = np.maximum(rng.normal(5, 0.7) + rng.normal(0, 0.7) * x, 1)
    return {"x": x, "y": np.sqrt(inside) + 0.2 * rng.standard_normal(12)}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        a, b = theta[:, :1], theta[:, 1:]
        squares = (((y - np.sqrt(a + b * x)) / 0.2) ** 2).sum(axis=1)
        return -0.5 * ((a[:, 0] - 4) / 1.5) ** 2 - 0.5 * b[:, 0] ** 2 - 0.5 * squares

    return grid_posterior(("a", "b"), log_density, [(-4, 13), (-7, 7)])
