"""Three points that say little: the posterior is nearly the prior."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a + b * x, 5.0), obs=y)


def dataset(rng):
    x = np.array([0.0, 0.5, 1.0])
    return {"x": x, "y": rng.normal() + rng.normal() * x + 5 * rng.standard_normal(3)}


def exact(x, y):
    from benchmarks.truth.exact import linear, named

    return named(("a", "b"), *linear(np.stack([np.ones_like(x), x], axis=1), y, 5.0, 1.0))
