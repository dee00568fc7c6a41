r"""A Student-t mixture per data set: density and draws.

With weights :math:`w_k`, means :math:`\mu_k` and scale matrices :math:`L_k L_k^T`::

    q(z) = sum_k w_k t_nu(z; mu_k, L_k L_k^T),   nu = 4 or 5

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

from chainsweep.engines.random_numbers import normals, uniforms
from chainsweep.errors import ChainsweepError
from chainsweep.model.loops import apart, map_datasets, one_by_one_here

Array = Any

UNROLLED_DIMENSIONS = 8
"""Up to here densities go by a fused loop three times as fast, in which ratios of densities may not underflow."""


def degrees(nz: int) -> int:
    """Degrees of freedom in ``nz`` dimensions: the density is a whole power then, without a root."""
    return 4 + nz % 2


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
    nz = mixture.mean.shape[2]

    def one(mixture: Mixture, key: Array) -> Array:
        return _draw_one(mixture, random_numbers(key, draws, nz))

    return map_datasets(one, (mixture, keys.astype(jnp.uint32)), draws * nz**2)


class Numbers(NamedTuple):
    """Random numbers of draws: ``uniform`` ``(draw,)``, standard normal ``noise`` ``(nz, draw)``, and ``stretch``
    ``(draw,)``, the root of ``nu`` over a chi-squared number, which makes a normal step a Student-t one."""

    uniform: Array
    noise: Array
    stretch: Array


def random_numbers(key: Array, count: int, nz: int) -> Numbers:
    """``Numbers`` of ``count`` draws from a raw key ``(2,)``."""
    odd = nz % 2

    def shaped(uniform: Array) -> Numbers:
        plain, for_noise = jnp.split(uniform, [3 * count])
        uniform, first, second = plain.reshape(3, count)
        noise = normals(for_noise).reshape(nz + odd, count)
        square = -2.0 * jnp.log(first * second)
        if odd:
            square = square + noise[nz] ** 2
        return Numbers(uniform, noise[:nz], jnp.sqrt(degrees(nz) / square))

    return apart(shaped, apart(lambda key: uniforms(key, (3 + nz + odd) * count), key))


class Prepared(NamedTuple):
    """One data set's mixture, made ready for densities and draws at one point after another.

    ``chol`` ``(component, nz, nz)`` and its ``inverse`` ``(nz, nz, component)`` over the root of ``nu``; ``mean``
    ``(component, nz)`` and ``offset`` ``(nz, component)``, the means times that; ``height`` ``(component,)``, densities
    at the means, weights included, over the largest one, whose log is ``log_top``, and ``log_height``; ``cumulated``
    ``(component,)`` weights.
    """

    chol: Array
    inverse: Array
    mean: Array
    offset: Array
    height: Array
    log_height: Array
    cumulated: Array
    log_top: Array

    def draws(self, numbers: Numbers) -> Array:
        """Independent draws ``(draw, nz)``."""
        k = jnp.searchsorted(self.cumulated / self.cumulated[-1], numbers.uniform, side="right")
        return _drawn(self.mean, self.chol, k.clip(0, self.cumulated.shape[0] - 1), numbers)

    def log_density(self, z: Array) -> Array:
        """Log of the density at ``z`` ``(draw, nz)``, up to the factor of ``parts``; shape ``(draw,)``."""
        n, nz = z.shape
        if not one_by_one_here():
            return jnp.log(self.height @ (1.0 / _power(self.bases(z), nz)))

        def add(k: Any, total: Array) -> Array:
            return total + self.height[k] / _power(_base(z.T, self.inverse[..., k], self.offset[:, k]), nz)

        return jnp.log(jax.lax.fori_loop(0, self.height.shape[0], add, jnp.zeros(n, z.dtype)))

    def parts(self, z: Array) -> Array:
        """Density of each component ``(component,)`` at ``z`` ``(nz,)``, up to one factor for the whole mixture.

        All are 0 in a distance of some 1e30 scales.
        """
        return self.height / _power(_base(z, self.inverse, self.offset), z.shape[0])

    def log_parts(self, bases: Array) -> Array:
        """Logs of ``parts``, shape ``(component, draw)``, however small they are."""
        nz = self.mean.shape[1]
        return self.log_height[:, None] - 0.5 * (degrees(nz) + nz) * jnp.log(bases)

    def bases(self, z: Array) -> Array:
        """``1 + distance / nu`` of each component from each of ``z`` ``(draw, nz)``, shape ``(component, draw)``."""
        if not one_by_one_here():
            return _base(z.T[:, None], self.inverse[..., None], self.offset[..., None])
        return jax.lax.map(lambda part: _base(z.T, *part), (jnp.moveaxis(self.inverse, -1, 0), self.offset.T))


def prepared(mixture: Mixture) -> Prepared:
    """The mixture of one data set, made ready."""
    nz = mixture.mean.shape[-1]
    nu = degrees(nz)
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, jnp.eye(nz), lower=True))(mixture.chol)
    inverse = jnp.moveaxis(inverse, 0, -1) / math.sqrt(nu)
    offset = jnp.einsum("ijk,kj->ik", inverse, mixture.mean)
    norm = math.lgamma(0.5 * (nu + nz)) - math.lgamma(0.5 * nu) - 0.5 * nz * math.log(nu * math.pi)
    log_det = jnp.sum(jnp.log(jnp.diagonal(mixture.chol, axis1=-2, axis2=-1)), axis=-1)
    log_height = mixture.log_weight + norm - log_det
    top = jnp.max(log_height)
    log_height = log_height - top
    cumulated = jnp.cumsum(jax.nn.softmax(mixture.log_weight))
    return Prepared(mixture.chol, inverse, mixture.mean, offset, jnp.exp(log_height), log_height, cumulated, top)


def picked(cumulated: Array, uniform: Array) -> Array:
    """The index that a uniform number in 0..1 picks, given cumulated weights."""
    return jnp.minimum(jnp.sum(cumulated <= uniform * cumulated[-1]), cumulated.shape[0] - 1)


def _base(z: Array, inverse: Array, offset: Array) -> Array:
    """``1 + distance / nu`` from points ``z`` ``(nz, ...)``, given parts of ``Prepared``."""
    nz = z.shape[0]
    if nz > UNROLLED_DIMENSIONS:
        y = jnp.einsum("ij...,j...->i...", inverse, z)
        return 1.0 + ((y - offset.reshape(offset.shape + (1,) * (y.ndim - offset.ndim))) ** 2).sum(axis=0)
    base = jnp.ones((), z.dtype)
    for i in range(nz):
        y = -offset[i]
        for j in range(i + 1):
            y = y + z[j] * inverse[i, j]
        base = base + y * y
    return base


def _power(base: Array, nz: int) -> Array:
    return jax.lax.integer_pow(base, (degrees(nz) + nz) // 2)


def _drawn(mean: Array, chol: Array, component: Array, numbers: Numbers) -> Array:
    step = jnp.einsum("nij,jn->ni", chol[component], numbers.noise)
    return mean[component] + step * numbers.stretch[:, None]


def shares(mixture: Mixture, z: Array) -> tuple[Array, Array]:
    """Of one data set, at ``z`` ``(draw, nz)``: each component's share of the density, and ``Prepared.bases``.

    Both ``(component, draw)``.
    """
    nz = z.shape[-1]
    one = prepared(mixture)
    bases = one.bases(z)
    if nz > UNROLLED_DIMENSIONS:
        return jax.nn.softmax(one.log_parts(bases), axis=0), bases
    density = one.height[:, None] / _power(bases, nz)
    return density / density.sum(axis=0), bases


def systematic(uniform: Array, log_weight: Array, draws: int) -> Array:
    """Systematic resampling by one uniform number: indices ``(draws,)`` in ascending order."""
    total = jnp.cumsum(jax.nn.softmax(log_weight))
    places = (jnp.arange(draws) + uniform) / draws
    return jnp.searchsorted(total / total[-1], places, side="right").clip(0, log_weight.shape[0] - 1)


def _log_density_one(mixture: Mixture, z: Array) -> Array:
    one = prepared(mixture)
    if z.shape[-1] > UNROLLED_DIMENSIONS:
        return jax.nn.logsumexp(one.log_parts(one.bases(z)), axis=0) + one.log_top
    return one.log_density(z) + one.log_top


def _draw_one(mixture: Mixture, numbers: Numbers) -> Array:
    draws = len(numbers.uniform)
    # A stride mixes the components, and leaves any run of consecutive draws a stratified sample.
    order = (np.arange(draws) * _stride(draws)) % draws
    component = systematic(numbers.uniform[0], mixture.log_weight, draws)[order]
    return _drawn(mixture.mean, mixture.chol, component, numbers)


def _stride(draws: int) -> int:
    """A number near the golden section of ``draws`` that has no divisor in common with it."""
    stride = max(1, round(draws * 0.6180339887))
    while math.gcd(stride, draws) != 1:
        stride += 1
    return stride
