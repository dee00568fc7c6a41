"""The length scale and the noise of a Gaussian process."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

X = np.linspace(0, 3, 14)
ENGINES = ("nuts", "emcee")


def model(y=None):
    length = numpyro.sample("length", dist.LogNormal(0.0, 0.7))
    noise = numpyro.sample("noise", dist.HalfNormal(0.5))
    kernel = jnp.exp(-0.5 * ((X[:, None] - X) / length) ** 2) + (noise**2 + 1e-6) * jnp.eye(len(X))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(X)), kernel), obs=y)


def dataset(rng):
    kernel = np.exp(-0.5 * ((X[:, None] - X) / rng.lognormal(0, 0.7)) ** 2)
    kernel += (np.abs(rng.normal(0, 0.5)) ** 2 + 1e-6) * np.eye(len(X))
    return {"y": np.linalg.cholesky(kernel) @ rng.standard_normal(len(X))}


def exact(y):
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        log_length, noise = theta.T
        kernel = np.exp(-0.5 * ((X[:, None] - X) / np.exp(log_length)[:, None, None]) ** 2)
        root = np.linalg.cholesky(kernel + (noise**2 + 1e-6)[:, None, None] * np.eye(len(X)))
        white = np.linalg.solve(root, np.broadcast_to(y, (len(theta), len(y)))[..., None])[..., 0]
        likelihood = -0.5 * (white**2).sum(axis=1) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        return -0.5 * (log_length / 0.7) ** 2 - 0.5 * (noise / 0.5) ** 2 + likelihood

    grid = on_grid(log_density, [(-4, 4), (1e-4, 4)], cells=120)
    mean, sd = grid.moments(np.stack([np.exp(grid.centres[:, 0]), grid.centres[:, 1]], axis=1))
    names = ("length", "noise")
    return Exact(dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))
