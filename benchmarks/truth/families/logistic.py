"""Successes of 5 trials each, with a logistic curve."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Binomial(5, probs=jax.nn.sigmoid(a + b * x)), obs=y)


def dataset(rng):
    x = np.linspace(-2, 2, 10)
    return {"x": x, "y": rng.binomial(5, 1 / (1 + np.exp(-rng.normal(0, 2) - rng.normal(0, 2) * x)))}


def exact(x, y):
    from benchmarks.truth.exact import grid_posterior

    def log_density(theta):
        a, b = theta[:, :1], theta[:, 1:]
        logit = a + b * x
        likelihood = (y * logit - 5 * np.logaddexp(0, logit)).sum(axis=1)
        return -0.5 * (theta**2).sum(axis=1) / 4 + likelihood

    return grid_posterior(("a", "b"), log_density, [(-16, 16), (-16, 16)])
