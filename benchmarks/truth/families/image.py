"""A point source on a small image: place, flux, and background."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PIXELS, WIDTH, FLUX = 9, 1.0, 6.0
ENGINES = ("nuts", "emcee")


def model(row, y=None):
    place = numpyro.sample("place", dist.Uniform(0.0, PIXELS - 1.0).expand([2]).to_event(1))
    flux = numpyro.sample("flux", dist.Normal(0.0, FLUX))
    sky = numpyro.sample("sky", dist.Normal(0.0, 1.0))
    rows = jnp.exp(-0.5 * ((row - place[0]) / WIDTH) ** 2)
    columns = jnp.exp(-0.5 * ((jnp.arange(PIXELS) - place[1]) / WIDTH) ** 2)
    numpyro.sample("y", dist.Normal(sky + flux * rows[:, None] * columns, 1.0).to_event(1), obs=y)


def dataset(rng):
    row, place = np.arange(PIXELS, dtype=float), rng.uniform(0, PIXELS - 1, 2)
    rows, columns = (np.exp(-0.5 * ((row - centre) / WIDTH) ** 2) for centre in place)
    noise = rng.standard_normal((PIXELS, PIXELS))
    return {"row": row, "y": rng.normal() + rng.normal(0, FLUX) * rows[:, None] * columns + noise}


def exact(row, y):
    """The flux and the background are normal given the place, which has a grid."""
    from benchmarks.truth.exact import averaged, normals, on_grid

    def given(places):
        rows, columns = (np.exp(-0.5 * ((row - places[:, [k]]) / WIDTH) ** 2) for k in range(2))
        source = (rows[:, :, None] * columns[:, None, :]).reshape(len(places), -1)
        return normals(np.stack([source, np.ones_like(source)], axis=2), y.ravel(), 1.0, np.diag([FLUX, 1.0]) ** 2)

    grid = on_grid(lambda places: given(places)[0], [(0, PIXELS - 1)] * 2, cells=160)
    _, mean, variance = given(grid.centres)
    return averaged(
        ("place[0]", "place[1]", "flux", "sky"),
        grid.share,
        np.hstack([grid.centres, mean]),
        np.hstack([np.zeros_like(grid.centres), variance]),
    )
