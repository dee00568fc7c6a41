"""Two peaks of known width on a flat background, the second one above the first."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

WIDTH, HEIGHT = 0.4, 4.0
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    place = numpyro.sample("place", dist.Uniform(0.0, 6.0))
    gap = numpyro.sample("gap", dist.Uniform(0.0, 4.0))
    h = numpyro.sample("h", dist.Normal(0.0, HEIGHT).expand([2]).to_event(1))
    base = numpyro.sample("base", dist.Normal(0.0, 2.0))
    peaks = [h[k] * jnp.exp(-0.5 * ((x - place - k * gap) / WIDTH) ** 2) for k in range(2)]
    numpyro.sample("y", dist.Normal(base + peaks[0] + peaks[1], 1.0), obs=y)


def dataset(rng):
    x, h = np.linspace(0, 10, 50), rng.normal(0, HEIGHT, 2)
    place, gap = rng.uniform(0, 6), rng.uniform(0, 4)
    peaks = [h[k] * np.exp(-0.5 * ((x - place - k * gap) / WIDTH) ** 2) for k in range(2)]
    return {"x": x, "y": rng.normal(0, 2) + peaks[0] + peaks[1] + rng.standard_normal(50)}


def exact(x, y):
    """The heights are normal given the places, which have a grid."""
    from benchmarks.truth.exact import averaged, normals, on_grid

    def given(places):
        place, gap = places.T[..., None]
        peaks = [np.exp(-0.5 * ((x - centre) / WIDTH) ** 2) for centre in (place, place + gap)]
        return normals(np.stack([*peaks, np.ones_like(peaks[0])], axis=2), y, 1.0, np.diag([HEIGHT, HEIGHT, 2.0]) ** 2)

    grid = on_grid(lambda places: given(places)[0], [(0, 6), (0, 4)], cells=200)
    _, mean, variance = given(grid.centres)
    names = ("place", "gap", "h[0]", "h[1]", "base")
    return averaged(
        names, grid.share, np.hstack([grid.centres, mean]), np.hstack([np.zeros_like(grid.centres), variance])
    )
