"""A series in which each value remembers the one before, by `scan`."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

LENGTH = 25
ENGINES = ("nuts", "emcee")


def model(y=None):
    memory = numpyro.sample("memory", dist.Uniform(-1.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))

    def step(before, value):
        now = numpyro.sample("y", dist.Normal(memory * before, sigma), obs=value)
        return now, None

    scan(step, jnp.float64(0.0), y, length=LENGTH)


def dataset(rng):
    memory, sigma, values = rng.uniform(-1, 1), np.abs(rng.normal()), [0.0]
    for _ in range(LENGTH):
        values.append(memory * values[-1] + sigma * rng.standard_normal())
    return {"y": np.array(values[1:])}


def exact(y):
    from benchmarks.truth.exact import grid_posterior

    before = np.r_[0.0, y[:-1]]

    def log_density(theta):
        memory, sigma = theta.T
        squares = y @ y - 2 * memory * (y @ before) + memory**2 * (before @ before)
        return -0.5 * sigma**2 - 0.5 * squares / sigma**2 - len(y) * np.log(sigma)

    return grid_posterior(("memory", "sigma"), log_density, [(-1, 1), (1e-4, 7)])
