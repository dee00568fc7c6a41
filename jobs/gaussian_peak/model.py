"""A Gaussian peak on a linear background, with an error on each point.

    mu(x) = l exp(-(x - m)^2 / (2 s^2)) + a + b x

Two priors over the same curve: ``broad`` knows next to nothing, ``narrow`` knows that there is a peak in view.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def observe(x, y_err, y, l, m, s, a, b):  # noqa: E741 (l is the height's name in the literature)
    mu = numpyro.deterministic("mu", l * jnp.exp(-((x - m) ** 2) / (2 * s**2)) + a + b * x)
    numpyro.sample("obs", dist.Normal(mu, y_err), obs=y)


def broad(x, y_err, y=None):
    l = numpyro.sample("l", dist.Uniform(-2, 2))  # noqa: E741
    m = numpyro.sample("m", dist.Uniform(-2, 2))
    s = numpyro.sample("s", dist.Uniform(0, 2))
    a = numpyro.sample("a", dist.Uniform(-2, 2))
    b = numpyro.sample("b", dist.Uniform(-2, 2))
    observe(x, y_err, y, l, m, s, a, b)


def narrow(x, y_err, y=None):
    l = numpyro.sample("l", dist.Uniform(0, 2))  # noqa: E741
    m = numpyro.sample("m", dist.Uniform(0, 1))
    s = numpyro.sample("s", dist.Uniform(0, 1))
    a = numpyro.sample("a", dist.Uniform(-1, 1))
    b = numpyro.sample("b", dist.Uniform(0, 1))
    observe(x, y_err, y, l, m, s, a, b)
