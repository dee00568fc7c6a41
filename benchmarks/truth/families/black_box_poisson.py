"""Counts of a decaying source above a background, as a black box with bounded parameters."""

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {
    "source": dist.LogNormal(2.0, 0.7),
    "rate": dist.LogNormal(-0.5, 0.7),
    "background": dist.LogNormal(0.5, 0.7),
}


def log_likelihood(params, t, y):
    expected = params["source"] * np.exp(-params["rate"] * t) + params["background"]
    return float(np.sum(y * np.log(expected) - expected))


def dataset(rng):
    t = np.linspace(0, 8, 25)
    source, rate, background = np.exp(np.array([2.0, -0.5, 0.5]) + 0.7 * rng.standard_normal(3))
    return {"t": t, "y": rng.poisson(source * np.exp(-rate * t) + background)}


def exact(t, y):
    """A grid of the logs."""
    from benchmarks.truth.exact import averaged, on_grid

    def log_density(logs):
        source, rate, background = np.exp(logs).T[..., None]
        expected = source * np.exp(-rate * t) + background
        prior = -0.5 * (((logs - np.array([2.0, -0.5, 0.5])) / 0.7) ** 2).sum(axis=1)
        return prior + (y * np.log(expected) - expected).sum(axis=1)

    grid = on_grid(log_density, [(-3, 7), (-5.5, 4.5), (-4.5, 5.5)], cells=70)
    return averaged(("source", "rate", "background"), grid.share, np.exp(grid.centres))
