"""Two planets on circles, each with a range of periods of its own."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

INNER, OUTER, SIZE = (3.0, 6.0), (8.0, 20.0), 2.0
ENGINES = ("nuts", "emcee")


def model(t, y=None):
    inner = numpyro.sample("inner", dist.Uniform(*INNER))
    outer = numpyro.sample("outer", dist.Uniform(*OUTER))
    a = numpyro.sample("a", dist.Normal(0.0, SIZE).expand([4]).to_event(1))
    phases = [2 * jnp.pi * t / period for period in (inner, outer)]
    curve = sum(a[2 * k] * jnp.cos(phases[k]) + a[2 * k + 1] * jnp.sin(phases[k]) for k in range(2))
    numpyro.sample("y", dist.Normal(curve, 1.0), obs=y)


def dataset(rng):
    t, a = np.sort(rng.uniform(0, 40, 24)), rng.normal(0, SIZE, 4)
    phases = [2 * np.pi * t / rng.uniform(*periods) for periods in (INNER, OUTER)]
    curve = sum(a[2 * k] * np.cos(phases[k]) + a[2 * k + 1] * np.sin(phases[k]) for k in range(2))
    return {"t": t, "y": curve + rng.standard_normal(24)}


def exact(t, y):
    """The velocities are linear given the periods, which have a grid."""
    from benchmarks.truth.exact import averaged, normals, on_grid

    def given(periods):
        phases = 2 * np.pi * t / periods[..., None]
        columns = [shape(phases[:, k]) for k in range(2) for shape in (np.cos, np.sin)]
        return normals(np.stack(columns, axis=2), y, 1.0, SIZE**2 * np.eye(4))

    grid = on_grid(lambda periods: given(periods)[0], [INNER, OUTER], cells=250)
    _, mean, variance = given(grid.centres)
    names = ("inner", "outer", *(f"a[{k}]" for k in range(4)))
    return averaged(
        names, grid.share, np.hstack([grid.centres, mean]), np.hstack([np.zeros_like(grid.centres), variance])
    )
