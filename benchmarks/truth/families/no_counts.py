"""Poisson counts that are all zero."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    rate = numpyro.sample("rate", dist.Exponential(0.5))
    with numpyro.plate("point", 6):
        numpyro.sample("y", dist.Poisson(rate + 0.0 * jnp.ones(6)), obs=y)


def dataset(rng):
    return {"y": rng.poisson(0.05, 6)}


def exact(y):
    """A gamma distribution."""
    from benchmarks.truth.exact import Exact

    shape, rate = 1.0 + y.sum(), 0.5 + len(y)
    return Exact({"rate": float(shape / rate)}, {"rate": float(np.sqrt(shape) / rate)})
