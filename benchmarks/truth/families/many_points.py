"""A line through 2,000 points."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Normal(0.0, 3.0))
    numpyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def dataset(rng):
    x = np.linspace(0, 10, 2000)
    return {"x": x, "y": rng.normal(0, 3) + rng.normal(0, 3) * x + 0.5 * rng.standard_normal(2000)}


def exact(x, y):
    from benchmarks.truth.exact import linear, named

    return named(("a", "b"), *linear(np.stack([np.ones_like(x), x], axis=1), y, 0.5, 3.0))
