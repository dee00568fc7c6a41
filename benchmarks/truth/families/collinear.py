"""A regression whose two columns are the same to a thousandth."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(u, v, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    numpyro.sample("y", dist.Normal(a * u + b * v, 0.1), obs=y)


def dataset(rng):
    u = np.linspace(0, 1, 20)
    v = u + 1e-3 * np.sin(20 * u)
    return {"u": u, "v": v, "y": rng.normal(0, 5) * u + rng.normal(0, 5) * v + 0.1 * rng.standard_normal(20)}


def exact(u, v, y):
    from benchmarks.truth.exact import linear, named

    return named(("a", "b"), *linear(np.stack([u, v], axis=1), y, 0.1, 5.0))
