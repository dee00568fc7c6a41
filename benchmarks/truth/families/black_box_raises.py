"""A black box that raises where its rate is not positive, which is a place of little mass.

An exception is a failure of the model: what raises has `failed`, and the message names it. A data set is therefore
right if it is `failed`, or if no call of it met that place and the draws are the posterior.
"""

import math

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {"a": dist.Normal(3.0, 1.0), "b": dist.Normal(0.0, 0.5)}


def log_likelihood(params, x, y):
    rates = [params["a"] + params["b"] * each for each in x]
    return sum(count * math.log(rate) - rate for count, rate in zip(y, rates, strict=True))


def dataset(rng):
    x = np.linspace(-1, 1, 12)
    return {"x": x, "y": rng.poisson(np.maximum(rng.normal(3, 0.5) + rng.normal(0, 0.5) * x, 0.5))}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        a, b = theta[:, :1], theta[:, 1:]
        rate = a + b * x
        likelihood = (y * np.log(np.where(rate > 0, rate, np.nan)) - rate).sum(axis=1)
        return -0.5 * (a[:, 0] - 3) ** 2 - 0.5 * (b[:, 0] / 0.5) ** 2 + likelihood

    return grid_posterior(("a", "b"), log_density, [(-1, 9), (-4, 4)])
