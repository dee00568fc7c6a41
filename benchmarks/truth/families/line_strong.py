"""A line that the data know a million times better than the prior does."""

import numpy as np
import numpyro
import numpyro.distributions as dist

ERROR = 1e-5


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(a + b * x, ERROR), obs=y)


def dataset(rng):
    x = np.linspace(0, 1, 20)
    return {"x": x, "y": rng.normal(0, 10) + rng.normal(0, 10) * x + ERROR * rng.standard_normal(20)}


def exact(x, y):
    from benchmarks.truth.exact import linear, named

    return named(("a", "b"), *linear(np.stack([np.ones_like(x), x], axis=1), y, ERROR, 10.0))
