"""A mean and a standard deviation of a few points."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
    with numpyro.plate("point", 8):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def dataset(rng):
    return {"y": rng.normal(0, 10) + np.abs(rng.normal(0, 5)) * rng.standard_normal(8)}


def exact(y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        mu, sigma = theta.T
        chi = ((y - mu[:, None]) ** 2).sum(axis=1) / sigma**2
        return -0.5 * (mu / 10) ** 2 - 0.5 * (sigma / 5) ** 2 - 0.5 * chi - len(y) * np.log(sigma)

    return grid_posterior(("mu", "sigma"), log_density, [(-80, 80), (1e-4, 40)])
