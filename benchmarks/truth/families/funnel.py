"""Neal's funnel, about which the data say nothing."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(x, y=None):
    v = numpyro.sample("v", dist.Normal(0.0, 1.5))
    u = numpyro.sample("u", dist.Normal(0.0, jnp.exp(v / 2)).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(0.0 * x + 0.0 * u.sum(), 1.0), obs=y)


def dataset(rng):
    return {"x": np.zeros(3), "y": rng.standard_normal(3)}


def exact(x, y):
    from benchmarks.truth.exact import Exact

    wide = float(np.exp(1.5**2 / 4))
    return Exact({"v": 0.0, "u[0]": 0.0, "u[1]": 0.0}, {"v": 1.5, "u[0]": wide, "u[1]": wide})
