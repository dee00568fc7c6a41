"""A line as a black box: prior and likelihood as plain functions."""

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {"a": dist.Normal(0.0, 3.0), "b": dist.Normal(0.0, 3.0)}


def log_likelihood(params, x, y):
    return -0.5 * float(np.sum(((y - params["a"] - params["b"] * x) / 0.5) ** 2))


def dataset(rng):
    x = np.linspace(0, 1, 10)
    return {"x": x, "y": rng.normal(0, 3) + rng.normal(0, 3) * x + 0.5 * rng.standard_normal(10)}


def exact(x, y):
    from benchmarks.truth.exact import linear, named

    return named(("a", "b"), *linear(np.stack([np.ones_like(x), x], axis=1), y, 0.5, 3.0))
