"""A black box whose call sleeps for a tenth of a millisecond, longer than all else that a step of an ensemble does."""

import time

import numpy as np
import numpyro.distributions as dist

CALL_S = 1e-4
ENGINES = ("emcee",)
prior = {"a": dist.Normal(0.0, 2.0), "b": dist.LogNormal(0.0, 0.5)}


def log_likelihood(params, x, y):
    time.sleep(CALL_S)
    return -0.5 * float(np.sum(((y - params["a"] * x ** params["b"]) / 0.5) ** 2))


def dataset(rng):
    x = np.linspace(0.1, 2, 15)
    return {"x": x, "y": rng.normal(0, 2) * x ** rng.lognormal(0, 0.5) + 0.5 * rng.standard_normal(15)}


def exact(x, y):
    """The amplitude is normal given the power, which has a grid."""
    from benchmarks.truth.exact import averaged, normals, shares

    log_power = np.linspace(-3.5, 3.5, 8001)
    power = np.exp(log_power)
    log_evidence, mean, variance = normals((x ** power[:, None])[..., None], y, 0.5, 4 * np.eye(1))
    share = shares(log_evidence - 0.5 * (log_power / 0.5) ** 2)
    columns, variance = np.column_stack([mean, power]), np.column_stack([variance, np.zeros_like(power)])
    return averaged(("a", "b"), share, columns, variance)
