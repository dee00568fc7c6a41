"""A linear regression with few or many coefficients."""

import numpy as np
import numpyro
import numpyro.distributions as dist

FEW, MORE, MANY = ("nuts", "emcee", "snpe"), ("nuts", "emcee"), ("nuts",)
VARIANTS = {
    "5": {"COEFFICIENTS": 5, "ENGINES": FEW},
    "12": {"COEFFICIENTS": 12, "ENGINES": FEW},
    "25": {"COEFFICIENTS": 25, "ENGINES": MORE},
    "60": {"COEFFICIENTS": 60, "ENGINES": MANY, "DATASETS": 2},
}
COEFFICIENTS = 5
ENGINES = FEW
DATASETS = 5
DESIGN = np.random.default_rng(COEFFICIENTS).standard_normal((4 * COEFFICIENTS, COEFFICIENTS))


def model(row, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([COEFFICIENTS]).to_event(1))
    numpyro.sample("y", dist.Normal(row @ b, 1.0), obs=y)


def dataset(rng):
    b = rng.normal(0, 2, COEFFICIENTS)
    return {"row": DESIGN, "y": DESIGN @ b + rng.standard_normal(len(DESIGN))}


def exact(row, y):
    from benchmarks.truth.exact import linear, named

    return named([f"b[{k}]" for k in range(COEFFICIENTS)], *linear(row, y, 1.0, 2.0))
