r"""The maps from a parameter's support to the whole real line, on which NUTS, SNPE and importance sampling work.

They are NumPyro's own bijections, except for intervals: there :math:`\theta = low + (high - low) \Phi(z)` with the
normal distribution function :math:`\Phi`, so that a uniform prior is a standard normal one of ``z``. A posterior that a
bound cuts off then has a normal tail in ``z``; under the logistic function it would have an exponential one, tens of
scales long, along which chains move slowly and which the kernels of importance sampling do not reach.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc, ndtri
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import IndependentTransform, Transform

from chainsweep.numerics.arrays import Array

_INTERVALS = tuple(
    type(support)
    for support in (constraints.interval(0.0, 1.0), constraints.open_interval(0.0, 1.0), constraints.unit_interval)
)


def free_transform(support: Any) -> Any:
    """The bijection from the unconstrained space to a support of NumPyro's."""
    if type(support) in _INTERVALS:
        return NormalToInterval(support.lower_bound, support.upper_bound)
    if isinstance(support, constraints.independent):
        return IndependentTransform(free_transform(support.base_constraint), support.reinterpreted_batch_ndims)
    return biject_to(support)


def normal_share(z: Array) -> Array:
    """The normal distribution function, never 0 or 1: a bound itself may have an infinite density."""
    share = 0.5 * erfc(-z * np.sqrt(0.5))
    limits = jnp.finfo(jnp.result_type(share))
    return jnp.clip(share, limits.tiny, 1.0 - limits.eps)


def constrained(transform: Any, z: Array, share: Array) -> Array:
    """Return ``transform(z)`` for a bijection of ``free_transform``, where ``share`` is ``normal_share(z)``."""
    base = transform.base_transform if isinstance(transform, IndependentTransform) else transform
    return base.at(share) if isinstance(base, NormalToInterval) else transform(z)


def unconstrained(transform: Any, value: Array) -> tuple[Array, bool]:
    """The inverse of a bijection of ``free_transform`` at ``value``; also True if ``ndtri`` is still to be applied."""
    base = transform.base_transform if isinstance(transform, IndependentTransform) else transform
    return (base.share(value), True) if isinstance(base, NormalToInterval) else (transform.inv(value), False)


class NormalToInterval(Transform):
    """The map ``low + (high - low) * Phi(z)``, elementwise; bounds broadcast."""

    def __init__(self, low: Array, high: Array) -> None:
        self.low, self.high = low, high

    @property
    def codomain(self) -> Any:
        """The interval between the bounds."""
        return constraints.interval(self.low, self.high)

    def __call__(self, z: Array) -> Array:
        """The values in the interval at ``z``."""
        return self.at(normal_share(z))

    def at(self, share: Array) -> Array:
        """The values at the relative positions ``share``, 0 to 1, between the bounds."""
        return self.low + (self.high - self.low) * share

    def _inverse(self, y: Array) -> Array:
        return ndtri(self.share(y))

    def share(self, y: Array) -> Array:
        """The relative positions of values between the bounds, 0 to 1."""
        return (y - self.low) / (self.high - self.low)

    def log_abs_det_jacobian(self, z: Array, y: Array, intermediates: Any = None) -> Array:
        """Log of the derivative, elementwise."""
        return jnp.log(self.high - self.low) - 0.5 * (z**2 + np.log(2.0 * np.pi))

    def tree_flatten(self) -> Any:
        """The arrays and names of this pytree, in the form that NumPyro uses to register it with JAX."""
        return (self.low, self.high), (("low", "high"), {})
