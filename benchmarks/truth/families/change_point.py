"""A level that jumps at an unknown time: the density does not depend on the time between two points."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(t, y=None):
    when = numpyro.sample("when", dist.Uniform(0.0, 10.0))
    level = numpyro.sample("level", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.where(t < when, level[0], level[1]), 1.0), obs=y)


def dataset(rng):
    t = np.linspace(0.25, 9.75, 20)
    level = rng.normal(0, 2, 2)
    return {"t": t, "y": np.where(t < rng.uniform(0, 10), *level) + rng.standard_normal(20)}


def exact(t, y):
    """The levels are normal given the time, which has a grid with cells that end at the points."""
    from benchmarks.truth.exact import averaged, normals, shares

    when = (np.arange(4000) + 0.5) / 400
    before = (t < when[:, None]).astype(float)
    log_evidence, mean, variance = normals(np.stack([before, 1 - before], axis=2), y, 1.0, 4 * np.eye(2))
    columns, variance = np.column_stack([when, mean]), np.column_stack([np.zeros_like(when), variance])
    return averaged(("when", "level[0]", "level[1]"), shares(log_evidence), columns, variance)
