"""Successes and failures that a threshold separates, so that the slope has a long tail."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    numpyro.sample("y", dist.Bernoulli(probs=jax.nn.sigmoid(a + b * x)), obs=y)


def dataset(rng):
    x = np.sort(rng.uniform(-2, 2, 12))
    return {"x": x, "y": (x > rng.uniform(-0.5, 0.5)).astype(int)}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        logit = theta[:, :1] + theta[:, 1:] * x
        return -0.5 * (theta**2).sum(axis=1) / 25 + (y * logit - np.logaddexp(0, logit)).sum(axis=1)

    return grid_posterior(("a", "b"), log_density, [(-40, 40)] * 2)
