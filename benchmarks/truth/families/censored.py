"""Measurements of which those below a limit are only known to be below it."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm

LIMIT = 0.5
ENGINES = ("nuts", "emcee")


def model(x, seen, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    mu = a + b * x
    below = norm.logcdf((LIMIT - mu) / 0.4)
    with numpyro.handlers.mask(mask=seen > 0.5):
        numpyro.sample("y", dist.Normal(mu, 0.4), obs=y)
    numpyro.factor("limits", jnp.where(seen > 0.5, 0.0, below).sum())


def dataset(rng):
    x = np.linspace(0, 1, 15)
    y = rng.normal(0, 1) + rng.normal(0, 1) * x + 0.4 * rng.standard_normal(15)
    seen = (y > LIMIT).astype(float)
    return {"x": x, "seen": seen, "y": np.where(seen > 0, y, LIMIT)}


def exact(x, seen, y):
    from scipy.special import log_ndtr

    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        mu = theta[:, :1] + theta[:, 1:] * x
        terms = np.where(seen > 0.5, -0.5 * ((y - mu) / 0.4) ** 2, log_ndtr((LIMIT - mu) / 0.4))
        return -0.5 * (theta**2).sum(axis=1) / 4 + terms.sum(axis=1)

    return grid_posterior(("a", "b"), log_density, [(-16, 16)] * 2)
