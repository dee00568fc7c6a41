"""From supports to the real line: intervals by the normal distribution function, all else as NumPyro has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints
from scipy import stats

from chainsweep.model.transforms import NormalToInterval, free_transform

INTERVALS = (
    dist.Uniform(-2.0, 3.0),
    dist.Beta(2.0, 2.0),
    dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0),
    dist.Uniform(jnp.array([0.0, -1.0]), 2.0).to_event(1),
)


@pytest.mark.parametrize("distribution", INTERVALS)
def test_there_and_back_and_the_jacobian(distribution):
    transform = free_transform(distribution.support)
    z = jnp.broadcast_to(jnp.linspace(-4.0, 4.0, 41)[:, None], (41, *(distribution.event_shape or (1,))))
    value = transform(z)
    np.testing.assert_allclose(transform.inv(value), z, atol=1e-9)
    derivative = jax.vmap(jax.jacfwd(transform))(z)
    jacobian = transform.log_abs_det_jacobian(z, value)
    np.testing.assert_allclose(jacobian.reshape(41, -1).sum(axis=1), jnp.linalg.slogdet(derivative)[1], rtol=1e-9)


def test_a_uniform_prior_is_a_standard_normal():
    prior = dist.Uniform(-2.0, 3.0)
    transform, z = free_transform(prior.support), np.linspace(-7, 7, 29)
    density = prior.log_prob(transform(z)) + transform.log_abs_det_jacobian(z, transform(z))
    np.testing.assert_allclose(density, stats.norm.logpdf(z), rtol=1e-12)


def test_no_value_is_a_bound_however_far_out():
    transform = free_transform(dist.Beta(0.5, 0.5).support)
    values = transform(jnp.array([-60.0, -38.0, 9.0, 60.0]))
    assert bool(((values > 0.0) & (values < 1.0)).all())
    assert bool(jnp.isfinite(dist.Beta(0.5, 0.5).log_prob(values)).all())


@pytest.mark.parametrize("support", [constraints.positive, constraints.real, constraints.simplex, constraints.circular])
def test_other_supports_are_numpyros(support):
    transform = free_transform(support)
    assert type(transform) is type(biject_to(support))
    assert not isinstance(transform, NormalToInterval)
