"""Places of a heavy-tailed distribution, with outliers that may be the mode."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("point", 6):
        numpyro.sample("y", dist.StudentT(2.0, mu, 0.5), obs=y)


def dataset(rng):
    return {"y": rng.normal(0, 3) + 0.5 * rng.standard_t(2, 6)}


def exact(y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        mu = theta[:, 0]
        return -0.5 * (mu / 10) ** 2 - 1.5 * np.log1p((((y - mu[:, None]) / 0.5) ** 2) / 2).sum(axis=1)

    return grid_posterior(("mu",), log_density, [(-80, 80)])
