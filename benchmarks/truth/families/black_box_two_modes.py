"""A black box that knows the square of a parameter, with a prior that prefers one sign."""

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {"a": dist.Normal(0.5, 1.5), "b": dist.Normal(0.0, 1.0)}


def log_likelihood(params, x, y):
    return -0.5 * float(np.sum(((y - params["a"] ** 2 * x - params["b"]) / 0.7) ** 2))


def dataset(rng):
    x = np.linspace(0, 1, 12)
    return {"x": x, "y": rng.uniform(1.0, 2.5) ** 2 * x + rng.normal() + 0.7 * rng.standard_normal(12)}


def exact(x, y):
    """The offset is normal given the other parameter, which has a grid."""
    from benchmarks.truth.exact import Exact, averaged, shares

    a = np.linspace(-12, 12, 40_001)
    precision = 1 + len(y) / 0.49
    rest = y - a[:, None] ** 2 * x
    mean = rest.sum(axis=1) / 0.49 / precision
    share = shares(-0.5 * ((a - 0.5) / 1.5) ** 2 - 0.5 * (rest**2).sum(axis=1) / 0.49 + 0.5 * mean**2 * precision)
    spreads = np.column_stack([np.zeros_like(a), np.full_like(a, 1 / precision)])
    found = averaged(("a", "b"), share, np.column_stack([a, mean]), spreads)
    right = float(share[a > 0].sum())
    return Exact(found.mean, found.sd, (1 - right, right), lambda draws: (draws["a"] > 0).astype(int))
