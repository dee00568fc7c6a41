"""A line whose offset is of size 1e-9 and whose slope is of size 1e9."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1e-9))
    b = numpyro.sample("b", dist.Normal(0.0, 1e9))
    numpyro.sample("y", dist.Normal(a + b * x, 2e-10), obs=y)


def dataset(rng):
    x = 1e-18 * np.linspace(-1, 1, 25)
    return {"x": x, "y": rng.normal(0, 1e-9) + rng.normal(0, 1e9) * x + 2e-10 * rng.standard_normal(25)}


def exact(x, y):
    from benchmarks.truth.exact import linear, named

    return named(("a", "b"), *linear(np.stack([np.ones_like(x), x], axis=1), y, 2e-10, np.array([1e-9, 1e9])))
