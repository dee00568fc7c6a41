"""A parameter whose sign the data cannot tell, with a prior that prefers one sign."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.5, 1.5))
    numpyro.sample("y", dist.Normal(jnp.abs(a) * x, 0.7), obs=y)


def dataset(rng):
    x = np.linspace(0.2, 1, 10)
    return {"x": x, "y": rng.uniform(1.2, 2.5) * x + 0.7 * rng.standard_normal(10)}


def exact(x, y):
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        a = theta[:, 0]
        return -0.5 * ((a - 0.5) / 1.5) ** 2 - 0.5 * (((y - np.abs(theta) * x) / 0.7) ** 2).sum(axis=1)

    grid = on_grid(log_density, [(-12, 12)])
    (mean,), (sd,) = grid.moments(grid.centres)
    right = float(grid.share[grid.centres[:, 0] > 0].sum())
    return Exact({"a": float(mean)}, {"a": float(sd)}, (1 - right, right), lambda draws: (draws["a"] > 0).astype(int))
