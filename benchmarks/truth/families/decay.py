"""An exponential decay with unknown amplitude and rate."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(t, y=None):
    a = numpyro.sample("a", dist.HalfNormal(3.0))
    k = numpyro.sample("k", dist.LogNormal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a * jnp.exp(-k * t), 0.2), obs=y)


def dataset(rng):
    t = np.linspace(0, 4, 16)
    return {"t": t, "y": np.abs(rng.normal(0, 3)) * np.exp(-rng.lognormal() * t) + 0.2 * rng.standard_normal(16)}


def exact(t, y):
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        a, log_k = theta.T
        curve = a[:, None] * np.exp(-np.exp(log_k)[:, None] * t)
        return -0.5 * (a / 3) ** 2 - 0.5 * log_k**2 - 0.5 * (((y - curve) / 0.2) ** 2).sum(axis=1)

    grid = on_grid(log_density, [(0, 25), (-8, 8)])
    mean, sd = grid.moments(np.stack([grid.centres[:, 0], np.exp(grid.centres[:, 1])], axis=1))
    return Exact(dict(zip("ak", mean.tolist(), strict=True)), dict(zip("ak", sd.tolist(), strict=True)))
