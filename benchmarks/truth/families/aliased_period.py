"""A sinusoid sampled so seldom that several periods fit."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PERIODS = (2.0, 12.0)
SIZE, NOISE = 2.0, 0.8
ENGINES = ("nuts", "emcee")


def model(t, y=None):
    period = numpyro.sample("period", dist.Uniform(*PERIODS))
    a = numpyro.sample("a", dist.Normal(0.0, SIZE))
    b = numpyro.sample("b", dist.Normal(0.0, SIZE))
    phase = 2 * jnp.pi * t / period
    numpyro.sample("y", dist.Normal(a * jnp.cos(phase) + b * jnp.sin(phase), NOISE), obs=y)


def dataset(rng):
    t = np.sort(rng.uniform(0, 60, 14))
    phase, (a, b) = 2 * np.pi * t / rng.uniform(*PERIODS), rng.normal(0, SIZE, 2)
    return {"t": t, "y": a * np.cos(phase) + b * np.sin(phase) + NOISE * rng.standard_normal(14)}


def exact(t, y):
    """The amplitudes are normal given the period, so the grid is over the period alone."""
    from benchmarks.truth.exact import Exact

    edges = np.linspace(*PERIODS, 20_001)
    periods = 0.5 * (edges[1:] + edges[:-1])
    phase = 2 * np.pi * t / periods[:, None]
    design = np.stack([np.cos(phase), np.sin(phase)], axis=2)
    covariance = np.linalg.inv(np.swapaxes(design, 1, 2) @ design / NOISE**2 + np.eye(2) / SIZE**2)
    mean = np.einsum("pij,pnj,n->pi", covariance, design, y) / NOISE**2
    fit = 0.5 * np.einsum("pi,pij,pj->p", mean, np.linalg.inv(covariance), mean)
    log_evidence = fit + 0.5 * np.linalg.slogdet(covariance)[1]
    share = np.exp(log_evidence - log_evidence.max())
    share /= share.sum()
    values = np.column_stack([periods, mean])
    centre = share @ values
    within = np.concatenate([[0.0], share @ np.diagonal(covariance, axis1=1, axis2=2)])
    sd = np.sqrt(share @ (values - centre) ** 2 + within)
    names = ("period", "a", "b")
    return Exact(dict(zip(names, centre.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))
