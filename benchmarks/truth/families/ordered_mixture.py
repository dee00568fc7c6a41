"""Two groups of points, whose places are ordered, with an unknown share."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import OrderedTransform

FIRST, GAP, WIDTH = (-1.0, 2.0), (0.8, 0.7), 0.7
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    base = dist.Normal(jnp.array([FIRST[0], GAP[0]]), jnp.array([FIRST[1], GAP[1]])).to_event(1)
    mu = numpyro.sample("mu", dist.TransformedDistribution(base, OrderedTransform()))
    w = numpyro.sample("w", dist.Beta(2.0, 2.0))
    mixture = dist.MixtureSameFamily(dist.Categorical(jnp.stack([w, 1 - w])), dist.Normal(mu, WIDTH))
    numpyro.sample("y", mixture.expand(jnp.shape(x)), obs=y)


def dataset(rng):
    low, gap, w = rng.normal(*FIRST), np.exp(rng.normal(*GAP)), rng.beta(2, 2)
    return {"x": np.zeros(20), "y": low + gap * (rng.random(20) > w) + WIDTH * rng.standard_normal(20)}


def exact(x, y):
    from benchmarks.truth.exact import averaged, on_grid

    def log_density(theta):
        low, gap, w = theta.T[..., None]
        terms = [-0.5 * ((y - place) / WIDTH) ** 2 for place in (low, low + np.exp(gap))]
        likelihood = np.logaddexp(np.log(w) + terms[0], np.log1p(-w) + terms[1]).sum(axis=1)
        prior = -0.5 * (((low - FIRST[0]) / FIRST[1]) ** 2 + ((gap - GAP[0]) / GAP[1]) ** 2) + np.log(w) + np.log1p(-w)
        return prior[:, 0] + likelihood

    grid = on_grid(log_density, [(-13, 11), (-3.5, 5), (0, 1)], cells=60)
    low, gap, w = grid.centres.T
    return averaged(("mu[0]", "mu[1]", "w"), grid.share, np.column_stack([low, low + np.exp(gap), w]))
