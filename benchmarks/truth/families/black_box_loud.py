"""A black box that warns at each call and prints, which is neither an error nor a reason to stop."""

import warnings

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {"a": dist.Normal(0.0, 3.0), "b": dist.Uniform(0.0, 4.0)}


def log_likelihood(params, x, y):
    warnings.warn("a simulator has a lot to say", RuntimeWarning, stacklevel=1)
    with np.errstate(divide="warn"):
        np.log(np.zeros(1))
    return -0.5 * float(np.sum(((y - params["a"] - params["b"] * x) / 0.8) ** 2))


def dataset(rng):
    x = np.linspace(-1, 1, 10)
    return {"x": x, "y": rng.normal(0, 3) + rng.uniform(-0.5, 2) * x + 0.8 * rng.standard_normal(10)}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        a, b = theta[:, :1], theta[:, 1:]
        return -0.5 * (a[:, 0] / 3) ** 2 - 0.5 * (((y - a - b * x) / 0.8) ** 2).sum(axis=1)

    return grid_posterior(("a", "b"), log_density, [(-20, 20), (0, 4)])
