"""A planet on a circle: velocities of a star, with any period of two decades."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PERIODS, SPAN, SIZE, NOISE = (1.0, 100.0), 120.0, 5.0, 1.0
ENGINES = ("nuts", "emcee")


def model(t, y=None):
    period = numpyro.sample("period", dist.LogUniform(*PERIODS))
    a = numpyro.sample("a", dist.Normal(0.0, SIZE))
    b = numpyro.sample("b", dist.Normal(0.0, SIZE))
    offset = numpyro.sample("offset", dist.Normal(0.0, SIZE))
    phase = 2 * jnp.pi * t / period
    numpyro.sample("y", dist.Normal(offset + a * jnp.cos(phase) + b * jnp.sin(phase), NOISE), obs=y)


def dataset(rng):
    t = np.sort(rng.uniform(0, SPAN, 18))
    phase, (a, b, offset) = 2 * np.pi * t / np.exp(rng.uniform(*np.log(PERIODS))), rng.normal(0, SIZE, 3)
    return {"t": t, "y": offset + a * np.cos(phase) + b * np.sin(phase) + NOISE * rng.standard_normal(18)}


def exact(t, y):
    """The velocities are linear given the period, which has a grid that is finest at the shortest periods."""
    from benchmarks.truth.exact import averaged, normals, shares

    edges = np.linspace(1 / PERIODS[1], 1 / PERIODS[0], 60_001)
    frequency = 0.5 * (edges[1:] + edges[:-1])
    phase = 2 * np.pi * t * frequency[:, None]
    design = np.stack([np.cos(phase), np.sin(phase), np.ones_like(phase)], axis=2)
    log_evidence, mean, variance = normals(design, y, NOISE, SIZE**2 * np.eye(3))
    columns = np.column_stack([1 / frequency, mean])
    variance = np.column_stack([np.zeros(len(mean)), variance])
    return averaged(("period", "a", "b", "offset"), shares(log_evidence - np.log(frequency)), columns, variance)
