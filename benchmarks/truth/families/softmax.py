"""Kinds of three that depend on a coordinate: a categorical regression."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

ENGINES = ("nuts", "emcee")


def model(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
    logits = jnp.concatenate([jnp.zeros((*x.shape, 1)), b[:, 0] + x[..., None] * b[:, 1]], axis=-1)
    numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


def dataset(rng):
    x, b = np.linspace(-1.5, 1.5, 30), rng.normal(0, 2, (2, 2))
    logits = np.column_stack([np.zeros(30), b[:, 0] + x[:, None] * b[:, 1]])
    return {"x": x, "y": (logits + rng.gumbel(size=(30, 3))).argmax(axis=1)}


def exact(x, y):
    from benchmarks.truth.longrun import by_weights

    def log_density(points):
        first, second = (points[:, [k]] + points[:, [k + 1]] * x for k in (0, 2))
        chosen = np.where(y == 1, first, 0) + np.where(y == 2, second, 0)
        return (chosen - np.logaddexp(np.logaddexp(0, first), second)).sum(axis=1) - (points**2).sum(axis=1) / 8

    return by_weights(("b[0,0]", "b[0,1]", "b[1,0]", "b[1,1]"), log_density, np.zeros(4))
