"""A Gaussian process with unknown size, length scale and noise, on uneven times."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(x, y=None):
    size = numpyro.sample("size", dist.LogNormal(0.0, 0.7))
    length = numpyro.sample("length", dist.LogNormal(0.0, 0.7))
    noise = numpyro.sample("noise", dist.LogNormal(-1.5, 0.7))
    kernel = size**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + noise**2 * jnp.eye(x.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(x.shape[0]), kernel), obs=y)


def dataset(rng):
    x = np.sort(rng.uniform(0, 5, 12))
    size, length, noise = np.exp(np.array([0.0, 0.0, -1.5]) + 0.7 * rng.standard_normal(3))
    kernel = size**2 * np.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + noise**2 * np.eye(12)
    return {"x": x, "y": np.linalg.cholesky(kernel) @ rng.standard_normal(12)}


def exact(x, y):
    """A grid of the logs; that of the length is diagonalised once, for every size and noise."""
    from benchmarks.truth.exact import averaged, on_grid

    def log_density(logs):
        lengths, place = np.unique(logs[:, 1], return_inverse=True)
        values, vectors = np.linalg.eigh(np.exp(-0.5 * ((x[:, None] - x) / np.exp(lengths)[:, None, None]) ** 2))
        turned = np.einsum("lij,i->lj", vectors, y)
        total = np.exp(2 * logs[:, :1]) * np.maximum(values, 0)[place] + np.exp(2 * logs[:, 2:])
        likelihood = -0.5 * (turned[place] ** 2 / total + np.log(total)).sum(axis=1)
        return likelihood - 0.5 * (((logs - np.array([0, 0, -1.5])) / 0.7) ** 2).sum(axis=1)

    grid = on_grid(log_density, [(-5, 5), (-5, 5), (-6.5, 3.5)], cells=60)
    return averaged(("size", "length", "noise"), grid.share, np.exp(grid.centres))
