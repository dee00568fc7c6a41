"""A line of small or large numbers, whose noise is unknown."""

import numpy as np
import numpyro
import numpyro.distributions as dist

VARIANTS = {"1e-9": {"UNIT": 1e-9}, "1e9": {"UNIT": 1e9}}
UNIT = 1.0
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 3.0 * UNIT))
    b = numpyro.sample("b", dist.Normal(0.0, 3.0 * UNIT))
    sigma = numpyro.sample("sigma", dist.HalfNormal(UNIT))
    numpyro.sample("y", dist.Normal(a + b * x, sigma), obs=y)


def dataset(rng):
    x = np.linspace(-1, 1, 12)
    return {
        "x": x,
        "y": UNIT * (3 * (rng.normal() + rng.normal() * x) + np.abs(rng.normal()) * rng.standard_normal(12)),
    }


def exact(x, y):
    """The line is normal given the noise, which has a grid."""
    from benchmarks.truth.exact import averaged, normals, shares

    sigma = np.exp(np.linspace(-9, 2, 8001))
    design = np.broadcast_to(np.stack([np.ones_like(x), x], axis=1), (len(sigma), len(x), 2))
    log_evidence, mean, variance = normals(design, y / UNIT, sigma, 9 * np.eye(2))
    share = shares(log_evidence - 0.5 * sigma**2 + np.log(sigma))
    columns, variance = np.column_stack([mean, sigma]), np.column_stack([variance, np.zeros_like(sigma)])
    return averaged(("a", "b", "sigma"), share, UNIT * columns, UNIT**2 * variance)
