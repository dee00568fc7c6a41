"""Logistic growth by a differential equation, whose solution is known."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.experimental.ode import odeint

START = 0.2
ENGINES = ("nuts", "emcee")


def model(t, y=None):
    r = numpyro.sample("r", dist.LogNormal(0.0, 0.5))
    k = numpyro.sample("k", dist.LogNormal(1.0, 0.5))
    curve = odeint(lambda n, _: r * n * (1 - n / k), jnp.float64(START), t, rtol=1e-8, atol=1e-8)
    numpyro.sample("y", dist.Normal(curve, 0.2), obs=y)


def grown(r, k, t):
    """The solution, of arrays ``r`` and ``k`` ``(..., 1)``."""
    return k / (1 + (k / START - 1) * np.exp(-r * t))


def dataset(rng):
    t = np.linspace(0, 6, 12)
    return {"t": t, "y": grown(rng.lognormal(0, 0.5), rng.lognormal(1, 0.5), t) + 0.2 * rng.standard_normal(12)}


def exact(t, y):
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        r, k = np.exp(theta[:, :1]), np.exp(theta[:, 1:])
        likelihood = -0.5 * (((y - grown(r, k, t)) / 0.2) ** 2).sum(axis=1)
        return -0.5 * (theta[:, 0] / 0.5) ** 2 - 0.5 * ((theta[:, 1] - 1) / 0.5) ** 2 + likelihood

    grid = on_grid(log_density, [(-4, 4), (-3, 5)])
    mean, sd = grid.moments(np.exp(grid.centres))
    return Exact(dict(zip("rk", mean.tolist(), strict=True)), dict(zip("rk", sd.tolist(), strict=True)))
