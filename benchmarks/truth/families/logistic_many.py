"""A logistic regression with many coefficients, of single successes and failures."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

VARIANTS = {
    "12": {"COEFFICIENTS": 12},
    "25": {"COEFFICIENTS": 25},
    "60": {"COEFFICIENTS": 60, "ENGINES": ("nuts",), "DATASETS": 2},
}
COEFFICIENTS = 12
ENGINES = ("nuts", "emcee")
DATASETS = 5
DESIGN = np.random.default_rng(COEFFICIENTS).standard_normal((6 * COEFFICIENTS, COEFFICIENTS))


def model(row, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([COEFFICIENTS]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(probs=jax.nn.sigmoid(row @ b)), obs=y)


def dataset(rng):
    chance = 1 / (1 + np.exp(-DESIGN @ rng.normal(0, 1, COEFFICIENTS)))
    return {"row": DESIGN, "y": rng.binomial(1, chance)}


def exact(row, y):
    from benchmarks.truth.longrun import by_hamiltonian

    def value(b):
        logit = b @ row.T
        return logit @ y - np.logaddexp(0, logit).sum(axis=1) - 0.5 * (b**2).sum(axis=1)

    def gradient(b):
        return (y - 1 / (1 + np.exp(-b @ row.T))) @ row - b

    return by_hamiltonian([f"b[{k}]" for k in range(COEFFICIENTS)], value, gradient)
