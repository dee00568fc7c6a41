"""A line whose offset is a million of its errors away from zero."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(1e6, 100.0))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)


def dataset(rng):
    x = np.linspace(-1, 1, 20)
    return {"x": x, "y": 1e6 + rng.normal(0, 100) + rng.normal(0, 10) * x + rng.standard_normal(20)}


def exact(x, y):
    from benchmarks.truth.exact import linear, named

    mean, covariance = linear(np.stack([np.ones_like(x), x], axis=1), y - 1e6, 1.0, np.array([100.0, 10.0]))
    return named(("a", "b"), mean + np.array([1e6, 0.0]), covariance)
