"""A thin curved ridge: the sum of a parameter and the square of another one is measured."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal((a + b**2) * jnp.ones_like(x), 0.2), obs=y)


def dataset(rng):
    return {"x": np.zeros(4), "y": rng.normal(0, 2) + rng.normal() ** 2 + 0.2 * rng.standard_normal(4)}


def exact(x, y):
    """The first parameter is normal given the second one, which has a grid."""
    from benchmarks.truth.exact import averaged, shares

    b = np.linspace(-7, 7, 20_001)
    precision = 1 / 4 + len(y) / 0.04
    mean = (y.sum() - len(y) * b**2) / 0.04 / precision
    total = 4 + 0.04 / len(y)
    share = shares(-0.5 * b**2 - 0.5 * (y.mean() - b**2) ** 2 / total)
    spreads = np.column_stack([np.full_like(b, 1 / precision), np.zeros_like(b)])
    return averaged(("a", "b"), share, np.column_stack([mean, b]), spreads)
