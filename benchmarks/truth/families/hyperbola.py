"""Two factors of which only the product is measured: two ridges along the axes, of either sign."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.5))
    b = numpyro.sample("b", dist.Normal(0.0, 1.5))
    numpyro.sample("y", dist.Normal(a * b * jnp.ones_like(x), 0.5), obs=y)


def dataset(rng):
    return {"x": np.zeros(4), "y": rng.uniform(0.5, 1.5) + 0.5 * rng.standard_normal(4)}


def exact(x, y):
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        product = theta[:, :1] * theta[:, 1:]
        return -0.5 * (theta**2).sum(axis=1) / 2.25 - 0.5 * (((y - product) / 0.5) ** 2).sum(axis=1)

    grid = on_grid(log_density, [(-9, 9)] * 2)
    mean, sd = grid.moments(grid.centres)
    columns = dict(zip("ab", mean.tolist(), strict=True)), dict(zip("ab", sd.tolist(), strict=True))
    right = float(grid.share[grid.centres[:, 0] > 0].sum())
    return Exact(*columns, (1 - right, right), lambda draws: (draws["a"] > 0).astype(int))
