"""Shares of a whole, from counts of three kinds."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PRIOR = np.array([1.5, 2.5, 1.0])
ENGINES = ("nuts", "emcee")


def model(y=None):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array(PRIOR)))
    with numpyro.plate("point", 20):
        numpyro.sample("y", dist.Categorical(probs=p), obs=y)


def dataset(rng):
    return {"y": rng.choice(3, 20, p=rng.dirichlet(PRIOR))}


def exact(y):
    from benchmarks.truth.exact import named

    alpha = PRIOR + np.bincount(y.astype(int), minlength=3)
    mean, total = alpha / alpha.sum(), alpha.sum()
    return named([f"p[{k}]" for k in range(3)], mean, np.diag(mean * (1 - mean) / (total + 1)))
