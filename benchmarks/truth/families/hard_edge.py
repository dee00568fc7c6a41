"""A posterior that a prior's edge cuts off: the data lie outside of the prior."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Uniform(0.0, 1.0))
    b = numpyro.sample("b", dist.Uniform(-1.0, 1.0))
    numpyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)


def dataset(rng):
    x = np.linspace(-1, 1, 12)
    return {"x": x, "y": rng.uniform(-1.5, 0.2) + rng.uniform(0.8, 2.0) * x + rng.standard_normal(12)}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        return -0.5 * ((y - theta[:, :1] - theta[:, 1:] * x) ** 2).sum(axis=1)

    return grid_posterior(("a", "b"), log_density, [(0, 1), (-1, 1)])
