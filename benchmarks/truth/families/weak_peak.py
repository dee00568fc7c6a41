"""A peak on a flat background, hardly above the noise: place and height are known or not."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    h = numpyro.sample("h", dist.HalfNormal(2.0))
    m = numpyro.sample("m", dist.Uniform(0.0, 10.0))
    numpyro.sample("y", dist.Normal(h * jnp.exp(-0.5 * ((x - m) / 0.5) ** 2), 1.0), obs=y)


def dataset(rng):
    x = np.linspace(0, 10, 40)
    peak = np.abs(rng.normal(0, 2)) * np.exp(-0.5 * ((x - rng.uniform(0, 10)) / 0.5) ** 2)
    return {"x": x, "y": peak + rng.standard_normal(40)}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        h, m = theta[:, :1], theta[:, 1:]
        curve = h * np.exp(-0.5 * ((x - m) / 0.5) ** 2)
        return -0.5 * (h[:, 0] / 2) ** 2 - 0.5 * ((y - curve) ** 2).sum(axis=1)

    return grid_posterior(("h", "m"), log_density, [(0, 16), (0, 10)])
