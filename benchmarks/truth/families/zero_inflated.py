"""Counts of which some are zero for a reason of their own."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    gate = numpyro.sample("gate", dist.Uniform(0.0, 1.0))
    rate = numpyro.sample("rate", dist.LogNormal(0.5, 1.0))
    with numpyro.plate("point", 15):
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate=rate * jnp.ones(15)), obs=y)


def dataset(rng):
    return {"y": rng.poisson(rng.lognormal(0.5, 1), 15) * (rng.random(15) > rng.random())}


def exact(y):
    from benchmarks.truth.exact import averaged, on_grid

    empty = int((y == 0).sum())

    def log_density(theta):
        gate, log_rate = theta.T
        rate = np.exp(log_rate)
        seen = (len(y) - empty) * (np.log1p(-gate) - rate) + y.sum() * log_rate
        return seen + empty * np.log(gate + (1 - gate) * np.exp(-rate)) - 0.5 * (log_rate - 0.5) ** 2

    grid = on_grid(log_density, [(0, 1), (-8, 8)])
    return averaged(("gate", "rate"), grid.share, np.column_stack([grid.centres[:, 0], np.exp(grid.centres[:, 1])]))
