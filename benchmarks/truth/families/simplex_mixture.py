"""Shares of three known populations among points, on a simplex."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

PLACES, PRIOR = np.array([-1.5, 0.0, 2.0]), np.array([1.0, 1.0, 1.5])
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array(PRIOR)))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=p), dist.Normal(jnp.array(PLACES), 1.0))
    numpyro.sample("y", mixture.expand(jnp.shape(x)), obs=y)


def dataset(rng):
    return {"x": np.zeros(25), "y": rng.choice(PLACES, 25, p=rng.dirichlet(PRIOR)) + rng.standard_normal(25)}


def exact(x, y):
    from benchmarks.truth.exact import averaged, on_grid

    terms = np.exp(-0.5 * (y - PLACES[:, None]) ** 2)

    def log_density(theta):
        last = 1 - theta.sum(axis=1, keepdims=True)
        p = np.hstack([theta, np.where(last > 0, last, np.nan)])
        return np.log(p @ terms).sum(axis=1) + ((PRIOR - 1) * np.log(p)).sum(axis=1)

    grid = on_grid(log_density, [(0, 1)] * 2)
    last = 1 - grid.centres.sum(axis=1, keepdims=True)
    return averaged([f"p[{k}]" for k in range(3)], grid.share, np.hstack([grid.centres, last]))
