"""A single point, with unknown mean and sd."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("point", 1):
        numpyro.sample("y", dist.Normal(mu, sigma * jnp.ones(1)), obs=y)


def dataset(rng):
    return {"y": rng.normal(0, 3) + np.abs(rng.normal(0, 2)) * rng.standard_normal(1)}


def exact(y):
    """A grid of the mean in units of the sd: the density is infinite where it is the point, and the sd zero."""
    from benchmarks.truth.exact import averaged, on_grid

    def log_density(theta):
        log_sigma, u = theta.T
        sigma = np.exp(log_sigma)
        return -0.5 * ((y[0] + sigma * u) / 3) ** 2 - 0.5 * (sigma / 2) ** 2 - 0.5 * u**2 + log_sigma

    grid = on_grid(log_density, [(-14, 2.5), (-7, 7)])
    sigma = np.exp(grid.centres[:, 0])
    return averaged(("mu", "sigma"), grid.share, np.column_stack([y[0] + sigma * grid.centres[:, 1], sigma]))
