"""A level that wanders, seen with noise, by `scan`; both sds are unknown."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

LENGTH = 8
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    step = numpyro.sample("step", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([LENGTH]).to_event(1))

    def wander(level, change):
        return level + step * change, level + step * change

    _, levels = jax.lax.scan(wander, jnp.zeros_like(step), z)
    numpyro.sample("y", dist.Normal(levels + 0.0 * x, noise), obs=y)


def dataset(rng):
    levels = np.abs(rng.normal()) * np.cumsum(rng.standard_normal(LENGTH))
    return {"x": np.zeros(LENGTH), "y": levels + np.abs(rng.normal()) * rng.standard_normal(LENGTH)}


def exact(x, y):
    """All but the sds is normal, and the sds have a grid."""
    from benchmarks.truth.exact import averaged, normals, on_grid

    def given(sds):
        design = np.maximum(sds[:, :1, None], 1e-12) * np.tril(np.ones((LENGTH, LENGTH)))
        return normals(design, y, sds[:, 1], np.eye(LENGTH))

    grid = on_grid(lambda sds: given(sds)[0] - 0.5 * (sds**2).sum(axis=1), [(0, 6), (0, 6)], cells=160)
    _, mean, variance = given(grid.centres)
    names = ("step", "noise", *(f"z[{k}]" for k in range(LENGTH)))
    return averaged(
        names, grid.share, np.hstack([grid.centres, mean]), np.hstack([np.zeros_like(grid.centres), variance])
    )
