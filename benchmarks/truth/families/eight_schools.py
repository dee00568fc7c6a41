"""Effects of eight schools around a common mean, centred."""

import numpy as np
import numpyro
import numpyro.distributions as dist

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
ENGINES = ("nuts", "emcee")


def model(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, SIGMA), obs=y)


def dataset(rng):
    theta = rng.normal(0, 5) + np.abs(rng.normal(0, 5)) * rng.standard_normal(8)
    return {"y": theta + SIGMA * rng.standard_normal(8)}


def exact(y):
    """The effects are normal given mean and spread, which have a grid."""
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(point):
        mu, tau = point.T
        total = tau[:, None] ** 2 + SIGMA**2
        likelihood = -0.5 * ((y - mu[:, None]) ** 2 / total + np.log(total)).sum(axis=1)
        return -0.5 * (mu / 5) ** 2 - 0.5 * (tau / 5) ** 2 + likelihood

    grid = on_grid(log_density, [(-40, 40), (0, 40)])
    mu, tau = grid.centres.T
    precision = 1 / SIGMA**2 + 1 / np.maximum(tau[:, None], 1e-12) ** 2
    conditional = (y / SIGMA**2 + mu[:, None] / np.maximum(tau[:, None], 1e-12) ** 2) / precision
    values = np.column_stack([mu, tau, conditional])
    mean = grid.share @ values
    within = np.concatenate([[0.0, 0.0], grid.share @ (1 / precision)])
    sd = np.sqrt(grid.share @ (values - mean) ** 2 + within)
    names = ("mu", "tau", *(f"theta[{k}]" for k in range(8)))
    return Exact(dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))
