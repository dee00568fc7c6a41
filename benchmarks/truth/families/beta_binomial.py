"""A probability, of a few trials."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(y=None):
    p = numpyro.sample("p", dist.Beta(0.7, 1.5))
    with numpyro.plate("point", 5):
        numpyro.sample("y", dist.Bernoulli(probs=p * jnp.ones(5)), obs=y)


def dataset(rng):
    return {"y": rng.binomial(1, rng.beta(0.7, 1.5), 5)}


def exact(y):
    from benchmarks.truth.exact import Exact

    a, b = 0.7 + y.sum(), 1.5 + len(y) - y.sum()
    return Exact({"p": float(a / (a + b))}, {"p": float(np.sqrt(a * b / (a + b + 1)) / (a + b))})
