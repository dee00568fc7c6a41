"""Two groups of points that may change names."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    mixture = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.5])), dist.Normal(mu, 0.6))
    numpyro.sample("y", mixture.expand(jnp.shape(x)), obs=y)


ENGINES = ("nuts", "emcee")


def dataset(rng):
    places = rng.normal(0, 3, 2)
    return {"x": np.zeros(14), "y": places[rng.integers(0, 2, 14)] + 0.6 * rng.standard_normal(14)}


def exact(x, y):
    from benchmarks.truth.exact import Exact, on_grid

    def log_density(theta):
        terms = [-0.5 * ((y - theta[:, [k]]) / 0.6) ** 2 for k in range(2)]
        return -0.5 * (theta**2).sum(axis=1) / 9 + np.logaddexp(*terms).sum(axis=1)

    grid = on_grid(log_density, [(-15, 15)] * 2)
    mean, sd = grid.moments(grid.centres)
    names = ("mu[0]", "mu[1]")
    ordered = dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True))
    return Exact(*ordered, (0.5, 0.5), lambda draws: (draws["mu"][..., 0] > draws["mu"][..., 1]).astype(int))
