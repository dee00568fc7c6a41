"""A sinusoid as a black box: a period with neighbours that fit nearly as well."""

import numpy as np
import numpyro.distributions as dist

PERIODS, NOISE = (2.0, 6.0), 1.0
ENGINES = ("emcee",)
prior = {"period": dist.Uniform(*PERIODS), "a": dist.Normal(0.0, 2.0), "b": dist.Normal(0.0, 2.0)}


def log_likelihood(params, t, y):
    phase = 2 * np.pi * t / params["period"]
    rest = y - params["a"] * np.cos(phase) - params["b"] * np.sin(phase)
    return -0.5 * float(rest @ rest) / NOISE**2


def dataset(rng):
    t = np.sort(rng.uniform(0, 20, 16))
    phase, (a, b) = 2 * np.pi * t / rng.uniform(*PERIODS), rng.normal(0, 2, 2)
    return {"t": t, "y": a * np.cos(phase) + b * np.sin(phase) + NOISE * rng.standard_normal(16)}


def exact(t, y):
    """The amplitudes are normal given the period, which has a grid."""
    from benchmarks.truth.exact import averaged, normals, shares

    edges = np.linspace(*PERIODS, 20_001)
    periods = 0.5 * (edges[1:] + edges[:-1])
    phase = 2 * np.pi * t / periods[:, None]
    log_evidence, mean, variance = normals(np.stack([np.cos(phase), np.sin(phase)], axis=2), y, NOISE, 4 * np.eye(2))
    columns, variance = np.column_stack([periods, mean]), np.column_stack([np.zeros_like(periods), variance])
    return averaged(("period", "a", "b"), shares(log_evidence), columns, variance)
