"""Counts that scatter more than Poisson's, with unknown mean and concentration."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    mean = numpyro.sample("mean", dist.LogNormal(1.0, 1.0))
    concentration = numpyro.sample("concentration", dist.LogNormal(0.5, 1.0))
    with numpyro.plate("point", 20):
        numpyro.sample("y", dist.NegativeBinomial2(mean * jnp.ones(20), concentration), obs=y)


def dataset(rng):
    concentration = rng.lognormal(0.5, 1)
    return {"y": rng.poisson(rng.gamma(concentration, rng.lognormal(1, 1) / concentration, 20))}


def exact(y):
    from scipy.special import gammaln

    from benchmarks.truth.exact import averaged, on_grid

    def log_density(theta):
        mean, shape = np.exp(theta[:, :1]), np.exp(theta[:, 1:])
        counts = gammaln(y + shape) - gammaln(shape) + shape * np.log(shape) + y * np.log(mean)
        likelihood = (counts - (y + shape) * np.log(mean + shape)).sum(axis=1)
        return likelihood - 0.5 * (theta[:, 0] - 1) ** 2 - 0.5 * (theta[:, 1] - 0.5) ** 2

    grid = on_grid(log_density, [(-7, 9), (-7.5, 8.5)], cells=400)
    return averaged(("mean", "concentration"), grid.share, np.exp(grid.centres))
