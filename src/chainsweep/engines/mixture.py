r"""A Student-t mixture per data set: density and draws.

With weights :math:`w_k`, means :math:`\mu_k` and scale matrices :math:`L_k L_k^T`::

    q(z) = sum_k w_k t_nu(z; mu_k, L_k L_k^T),   nu = 4

heavy enough in the tails to bound importance weights against Gaussian, logistic and exponential tails. One
data set after another goes through a compiled loop, so memory is that of one data set (a few on an accelerator)
and no data set's numbers depend on its neighbours.

Reference: Cappe, Douc, Guillin, Marin, Robert 2008, Statistics and Computing 18, 447 (population Monte Carlo).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chainsweep.engines.loops import map_datasets
from chainsweep.errors import ChainsweepError

Array = Any

DEGREES = 4
"""Degrees of freedom: chi-squared is then the log of a product of two uniforms, powers are whole or half."""
UNROLLED_DIMENSIONS = 8
"""Up to here densities go by a fused loop three times as fast, in which ratios of densities may not underflow."""


class Mixture(NamedTuple):
    """Components of every data set.

    ``log_weight`` ``(dataset, component)``, normalised, -inf where unused; ``mean`` ``(dataset, component, nz)``;
    ``chol`` ``(dataset, component, nz, nz)``, lower triangular.
    """

    log_weight: Array
    mean: Array
    chol: Array


@jax.jit
def combine(*parts: tuple[float, Mixture]) -> Mixture:
    """One mixture out of several with their shares; shares are normalised, parts without weight drop out."""
    log_weight = jnp.concatenate([jnp.log(share) + part.log_weight for share, part in parts], axis=-1)
    log_weight = log_weight - jax.nn.logsumexp(log_weight, axis=-1, keepdims=True)
    mean = jnp.concatenate([part.mean for _, part in parts], axis=-2)
    return Mixture(log_weight, mean, jnp.concatenate([part.chol for _, part in parts], axis=-3))


def require_float64() -> None:
    """Raise ChainsweepError where JAX computes in single precision: narrow components would be noise."""
    if not jax.config.read("jax_enable_x64"):
        raise ChainsweepError("importance sampling needs float64: set jax_enable_x64 before the first array")


@jax.jit
def log_density(mixture: Mixture, z: Array) -> Array:
    """Log density at ``z`` ``(dataset, draw, nz)``, shape ``(dataset, draw)``."""
    numbers = z.shape[1] * mixture.mean.shape[1]
    return map_datasets(_log_density_one, (mixture, z), numbers)


@partial(jax.jit, static_argnums=2)
def draw(mixture: Mixture, keys: Array, draws: int) -> Array:
    """``(dataset, draws, nz)`` from raw keys ``(dataset, 2)``.

    Components are taken systematically, each as often as its weight says to within one draw, well mixed: any run of
    consecutive draws is a stratified sample.
    """
    return map_datasets(partial(_draw_one, draws=draws), (mixture, keys), draws * mixture.mean.shape[2] ** 2)


class Prepared(NamedTuple):
    """One data set's mixture, made ready for densities and draws at one point after another.

    ``chol`` ``(component, nz, nz)`` and its inverse ``(nz, nz, component)``; ``mean`` ``(component, nz)`` and
    ``offset`` ``(nz, component)``, the means whitened; ``height`` ``(component,)``, densities at the means, weights
    included, over the largest one, whose log is ``log_top``; ``cumulated`` ``(component,)`` weights.
    """

    chol: Array
    inverse: Array
    mean: Array
    offset: Array
    height: Array
    cumulated: Array
    log_top: Array

    def draws(self, key: Array, count: int) -> Array:
        """Independent draws ``(count, nz)``."""
        for_component, for_noise, for_radius = jax.random.split(key, 3)
        uniform = jax.random.uniform(for_component, (count,))
        k = jnp.searchsorted(self.cumulated / self.cumulated[-1], uniform, side="right")
        k = k.clip(0, self.cumulated.shape[0] - 1)
        noise = jax.random.normal(for_noise, (count, self.mean.shape[1]))
        step = jnp.einsum("nij,nj->ni", self.chol[k], noise)
        return self.mean[k] + step * _stretch(for_radius, (count,))[:, None]

    def log_density(self, z: Array) -> Array:
        """Log of the density at ``z`` ``(draw, nz)``, up to the factor of ``parts``; shape ``(draw,)``."""
        return jnp.log((1.0 / self._power(z[:, :, None])) @ self.height)

    def parts(self, z: Array) -> Array:
        """Density of each component ``(component,)`` at ``z`` ``(nz,)``, up to one factor for the whole mixture.

        All are 0 in a distance of some 1e30 scales.
        """
        return self.height / self._power(z[None, :, None])[0]

    def _power(self, z: Array) -> Array:
        """``(1 + distance / nu) ** ((nu + nz) / 2)`` at ``z`` ``(draw, nz, 1)``, shape ``(draw, component)``."""
        nz = z.shape[1]
        if nz > UNROLLED_DIMENSIONS:
            base = 1.0 + ((jnp.einsum("ijk,djl->dik", self.inverse, z) - self.offset) ** 2).sum(axis=1) / DEGREES
            return _power(base, nz)
        base = 1.0
        for i in range(nz):
            y = -self.offset[i]
            for j in range(i + 1):
                y = y + z[:, j] * self.inverse[i, j]
            base = base + y * y / DEGREES
        return _power(base, nz)


def prepared(mixture: Mixture) -> Prepared:
    """The mixture of one data set, made ready."""
    inverse, offset, constant = _prepared(mixture)
    cumulated = jnp.cumsum(jax.nn.softmax(mixture.log_weight))
    top = jnp.max(constant)
    inverse = jnp.moveaxis(inverse, 0, -1)
    return Prepared(mixture.chol, inverse, mixture.mean, offset, jnp.exp(constant - top), cumulated, top)


def picked(cumulated: Array, uniform: Array) -> Array:
    """The index that a uniform number in 0..1 picks, given cumulated weights."""
    return jnp.minimum(jnp.sum(cumulated <= uniform * cumulated[-1]), cumulated.shape[0] - 1)


def _power(base: Array, nz: int) -> Array:
    """``base ** ((DEGREES + nz) / 2)``, without a logarithm."""
    power = jax.lax.integer_pow(base, (DEGREES + nz) // 2)
    return power * jnp.sqrt(base) if nz % 2 else power


def _stretch(key: Array, shape: tuple[int, ...]) -> Array:
    """The root of ``DEGREES`` over a chi-squared number: what makes a normal step a Student-t one."""
    uniforms = jax.random.uniform(key, (2, *shape), minval=jnp.finfo(jnp.zeros(()).dtype).tiny)
    return jnp.sqrt(DEGREES / (-2.0 * jnp.log(uniforms[: DEGREES // 2]).sum(axis=0)))


def component_densities(mixture: Mixture, z: Array) -> tuple[Array, Array]:
    """Squared distances and log densities with weights, both ``(draw, component)``, of one data set."""
    nz = z.shape[-1]
    inverse, offset, constant = _prepared(mixture)

    def add_axis(total: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        return total + (z @ row[0].T - row[1]) ** 2, None

    start = jnp.zeros((z.shape[0], mixture.mean.shape[0]), z.dtype)
    distance, _ = jax.lax.scan(add_axis, start, (jnp.swapaxes(inverse, 0, 1), offset))
    return distance, constant - 0.5 * (DEGREES + nz) * jnp.log1p(distance / DEGREES)


def systematic(key: Array, log_weight: Array, draws: int) -> Array:
    """Systematic resampling: indices ``(draws,)`` in ascending order."""
    total = jnp.cumsum(jax.nn.softmax(log_weight))
    places = (jnp.arange(draws) + jax.random.uniform(key)) / draws
    return jnp.searchsorted(total / total[-1], places, side="right").clip(0, log_weight.shape[0] - 1)


def _prepared(mixture: Mixture) -> tuple[Array, Array, Array]:
    """Inverse roots ``(component, nz, nz)``, whitened means ``(nz, component)`` and log densities at the means."""
    nz = mixture.mean.shape[-1]
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, jnp.eye(nz), lower=True))(mixture.chol)
    offset = jnp.einsum("kij,kj->ik", inverse, mixture.mean)
    norm = math.lgamma(0.5 * (DEGREES + nz)) - math.lgamma(0.5 * DEGREES) - 0.5 * nz * math.log(DEGREES * math.pi)
    log_det = jnp.sum(jnp.log(jnp.diagonal(mixture.chol, axis1=-2, axis2=-1)), axis=-1)
    return inverse, offset, mixture.log_weight + norm - log_det


def _log_density_one(mixture: Mixture, z: Array) -> Array:
    nz = z.shape[-1]
    if nz > UNROLLED_DIMENSIONS:
        return jax.nn.logsumexp(component_densities(mixture, z)[1], axis=-1)
    one = prepared(mixture)
    return one.log_density(z) + one.log_top


def _draw_one(mixture: Mixture, key: Array, draws: int) -> Array:
    for_component, for_noise, for_radius = jax.random.split(key, 3)
    # A stride mixes the components, and leaves any run of consecutive draws a stratified sample.
    order = (np.arange(draws) * _stride(draws)) % draws
    component = systematic(for_component, mixture.log_weight, draws)[order]
    noise = jax.random.normal(for_noise, (draws, mixture.mean.shape[-1]))
    radius = _stretch(for_radius, (draws,))
    step = jnp.einsum("nij,nj->ni", mixture.chol[component], noise)
    return mixture.mean[component] + step * radius[:, None]


def _stride(draws: int) -> int:
    """A number near the golden section of ``draws`` that has no divisor in common with it."""
    stride = max(1, round(draws * 0.6180339887))
    while math.gcd(stride, draws) != 1:
        stride += 1
    return stride
