"""Measurements of a line, of which some are upper limits and some are lower ones."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm

NOISE = 0.5
ENGINES = ("nuts", "emcee")


def model(x, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    mu = a + b * x
    beyond = norm.logcdf(kind * ((0.0 if y is None else y) - mu) / NOISE)
    with numpyro.handlers.mask(mask=kind == 0):
        numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)
    numpyro.factor("limits", jnp.where(kind == 0, 0.0, beyond).sum())


def dataset(rng):
    """A kind of 1 is an upper limit, and of -1 a lower one, half an error or more away from the value."""
    x, kind = np.linspace(-1, 1, 12), rng.choice([0, 0, 1, -1], 12)
    y = rng.normal(0, 2) + rng.normal(0, 2) * x + NOISE * rng.standard_normal(12)
    return {"x": x, "kind": kind, "y": y + kind * rng.uniform(0.25, 2, 12)}


def exact(x, kind, y):
    from scipy.special import log_ndtr

    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        gap = (y - theta[:, :1] - theta[:, 1:] * x) / NOISE
        terms = np.where(kind == 0, -0.5 * gap**2, log_ndtr(kind * gap))
        return -(theta**2).sum(axis=1) / 8 + terms.sum(axis=1)

    return grid_posterior(("a", "b"), log_density, [(-16, 16)] * 2)
