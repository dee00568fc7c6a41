"""The density of a Student-t mixture at many points, and a form of the mixture for compiled programs.

A processor computes one component after another, or a few at a time, and ends at the last component with weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from chainsweep.numerics.arrays import Array
from chainsweep.numerics.loops import isolated, on_cpu
from chainsweep.numerics.random_numbers import normals, uniforms

UNROLLED_DIMENSIONS = 8
"""The most dimensions in which densities are computed without logs, by a fused loop that is three times as fast. Ratios
of densities must not underflow there."""
COMPONENTS = 40
"""The number of components that a processor computes together."""


def degrees(nz: int) -> int:
    """Degrees of freedom in ``nz`` dimensions, chosen so that the density is a power with an integer exponent."""
    return 4 + nz % 2


class Mixture(NamedTuple):
    """The components of the mixtures of all data sets.

    ``log_weight`` ``(dataset, component)``, normalised, -inf where unused; ``mean`` ``(dataset, component, nz)``;
    ``chol`` ``(dataset, component, nz, nz)``, lower triangular.
    """

    log_weight: Array
    mean: Array
    chol: Array


class Numbers(NamedTuple):
    """The random numbers of draws.

    ``uniform`` ``(draw,)``, standard normal ``noise`` ``(nz, draw)``, and ``stretch`` ``(draw,)``, the root of ``nu``
    over a chi-squared number, which makes a normal step a Student-t one.
    """

    uniform: Array
    noise: Array
    stretch: Array


def random_numbers(key: Array, count: int, nz: int) -> Numbers:
    """The ``Numbers`` of ``count`` draws from a raw key ``(2,)``."""
    odd = nz % 2

    def shaped(uniform: Array) -> Numbers:
        plain, for_noise = jnp.split(uniform, [3 * count])
        uniform, first, second = plain.reshape(3, count)
        noise = normals(for_noise).reshape(nz + odd, count)
        square = -2.0 * jnp.log(first * second)
        if odd:
            square = square + noise[nz] ** 2
        return Numbers(uniform, noise[:nz], jnp.sqrt(degrees(nz) / square))

    return isolated(shaped, isolated(lambda key: uniforms(key, (3 + nz + odd) * count), key))


class Prepared(NamedTuple):
    """The mixture of one data set, prepared for densities and draws at one point after another.

    ``chol`` ``(component, nz, nz)``; ``inverse`` ``(nz, nz, component)``, its inverse over the root of ``nu``; ``mean``
    ``(component, nz)``; ``offset`` ``(nz, component)``, ``inverse`` times the means; ``height`` ``(component,)``, the
    densities at the means, weights included, over the largest one, whose log is ``log_top``; ``log_height``, its log;
    ``cumulated`` ``(component,)``, the cumulated weights. Only the first ``used`` components have weight.
    """

    chol: Array
    inverse: Array
    mean: Array
    offset: Array
    height: Array
    log_height: Array
    cumulated: Array
    log_top: Array
    used: Array

    def draws(self, numbers: Numbers) -> Array:
        """Independent draws ``(draw, nz)``."""
        k = jnp.searchsorted(self.cumulated / self.cumulated[-1], numbers.uniform, side="right")
        k = k.clip(0, self.cumulated.shape[0] - 1)
        step = jnp.einsum("nij,jn->ni", self.chol[k], numbers.noise)
        return self.mean[k] + step * numbers.stretch[:, None]

    def log_density(self, z: Array) -> Array:
        """Log density at ``z`` ``(draw, nz)`` less ``log_top``; shape ``(draw,)``."""
        n, nz = z.shape
        if nz > UNROLLED_DIMENSIONS:
            return self._log_density_in_logs(z)
        if not on_cpu():
            return jnp.log(self.height @ (1.0 / power(self.bases(z), nz)))

        def add(k: Any, total: Array) -> Array:
            return total + self.height[k] / power(_base(z.T, self.inverse[..., k], self.offset[:, k]), nz)

        return jnp.log(jax.lax.fori_loop(0, self.used, add, jnp.zeros(n, z.dtype)))

    def _log_density_in_logs(self, z: Array) -> Array:
        def add(some: Prepared, total: Array, _: Any) -> Array:
            return jnp.logaddexp(total, jax.nn.logsumexp(some.log_parts(some.bases(z)), axis=0))

        return self.over_components(add, jnp.full(len(z), -jnp.inf, z.dtype))

    def over_components(self, add: Callable, start: Any) -> Any:
        """Accumulate ``so_far = add(some, so_far, place)`` from ``start``, over ``COMPONENTS`` components at a time.

        ``some`` holds these components, the first of which is number ``place``. The last step may repeat components of
        the step before, which then have height 0. An accelerator takes all components in one step.
        """
        size = self.height.shape[0]
        if not on_cpu() or size <= COMPONENTS:
            return add(self, start, 0)

        def step(k: Any, so_far: Any) -> Any:
            first = jnp.minimum(k * COMPONENTS, size - COMPONENTS)
            new = first + jnp.arange(COMPONENTS) >= k * COMPONENTS

            def cut(array: Array, axis: int) -> Array:
                return jax.lax.dynamic_slice_in_dim(array, first, COMPONENTS, axis)

            some = self._replace(
                inverse=cut(self.inverse, 2),
                offset=cut(self.offset, 1),
                height=jnp.where(new, cut(self.height, 0), 0.0),
                log_height=jnp.where(new, cut(self.log_height, 0), -jnp.inf),
            )
            return add(some, so_far, first)

        return jax.lax.fori_loop(0, -(-self.used // COMPONENTS), step, start)

    def parts(self, z: Array) -> Array:
        """Density of each component ``(component,)`` at ``z`` ``(nz,)``, up to one factor for the whole mixture.

        All are 0 at a distance of some 1e30 scales.
        """

        def put(some: Prepared, whole: Array, place: Any) -> Array:
            density = some.height / power(_base(z, some.inverse, some.offset), z.shape[0])
            before = jax.lax.dynamic_slice_in_dim(whole, place, density.shape[0])
            return jax.lax.dynamic_update_slice_in_dim(whole, before + density, place, 0)

        return self.over_components(put, jnp.zeros(self.height.shape, z.dtype))

    def log_parts(self, bases: Array) -> Array:
        """The logs of ``parts`` for ``bases``, shape ``(component, draw)``; they do not underflow."""
        nz = self.mean.shape[1]
        return self.log_height[:, None] - 0.5 * (degrees(nz) + nz) * jnp.log(bases)

    def bases(self, z: Array) -> Array:
        """The ``1 + distance^2 / nu`` of each of ``z`` ``(draw, nz)`` from each component, shape ``(component, draw)``.

        The distance is that of Mahalanobis, in units of the component's scale.
        """
        if not on_cpu():
            return _base(z.T[:, None], self.inverse[..., None], self.offset[..., None])
        return jax.lax.map(lambda part: _base(z.T, *part), (jnp.moveaxis(self.inverse, -1, 0), self.offset.T))


def prepared(mixture: Mixture) -> Prepared:
    """The mixture of one data set, prepared for densities and draws."""
    nz = mixture.mean.shape[-1]
    nu = degrees(nz)
    inverse = inverse_of(jnp.moveaxis(mixture.chol, 0, -1)) / math.sqrt(nu)
    offset = jnp.einsum("ijk,kj->ik", inverse, mixture.mean)
    norm = math.lgamma(0.5 * (nu + nz)) - math.lgamma(0.5 * nu) - 0.5 * nz * math.log(nu * math.pi)
    log_det = jnp.sum(jnp.log(jnp.diagonal(mixture.chol, axis1=-2, axis2=-1)), axis=-1)
    log_height = mixture.log_weight + norm - log_det
    top = jnp.max(log_height)
    log_height = log_height - top
    cumulated = jnp.cumsum(jax.nn.softmax(mixture.log_weight))
    used = jnp.max(jnp.where(jnp.isfinite(log_height), jnp.arange(1, len(log_height) + 1), 0))
    return Prepared(mixture.chol, inverse, mixture.mean, offset, jnp.exp(log_height), log_height, cumulated, top, used)


def cholesky(matrices: Array) -> Array:
    """Lower triangular factors of ``(component, n, n)``, NaN where there are none."""
    n = matrices.shape[-1]
    if n > UNROLLED_DIMENSIONS:
        return jnp.linalg.cholesky(matrices)
    chol = [[jnp.zeros_like(matrices[:, 0, 0])] * n for _ in range(n)]
    for j in range(n):
        chol[j][j] = jnp.sqrt(matrices[:, j, j] - sum((chol[j][k] ** 2 for k in range(j)), 0.0))
        for i in range(j + 1, n):
            inner = sum((chol[i][k] * chol[j][k] for k in range(j)), 0.0)
            chol[i][j] = (matrices[:, i, j] - inner) / chol[j][j]
    return jnp.stack([jnp.stack(row, axis=-1) for row in chol], axis=-2)


def inverse_of(chol: Array) -> Array:
    """Inverses of lower triangular matrices ``(n, n, component)``."""
    n = chol.shape[0]
    if n > UNROLLED_DIMENSIONS:
        eye = jnp.eye(n)
        rows = jnp.moveaxis(chol, -1, 0)
        return jnp.moveaxis(jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, eye, lower=True))(rows), 0, -1)
    zero = jnp.zeros_like(chol[0, 0])
    inverse = [[zero] * n for _ in range(n)]
    for j in range(n):
        inverse[j][j] = 1.0 / chol[j, j]
        for i in range(j + 1, n):
            inner = sum((chol[i, k] * inverse[k][j] for k in range(j, i)), zero)
            inverse[i][j] = -inner / chol[i, i]
    return jnp.stack([jnp.stack(row) for row in inverse])


def picked(cumulated: Array, uniform: Array) -> Array:
    """The index that a uniform number in 0..1 picks, given cumulated weights."""
    return jnp.minimum(jnp.sum(cumulated <= uniform * cumulated[-1]), cumulated.shape[0] - 1)


def _base(z: Array, inverse: Array, offset: Array) -> Array:
    """The ``1 + distance^2 / nu`` of points ``z`` ``(nz, ...)``, given ``inverse`` and ``offset`` of ``Prepared``."""
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


def power(base: Array, nz: int) -> Array:
    """The inverse of the density of a component of height 1, given its ``bases``."""
    return jax.lax.integer_pow(base, (degrees(nz) + nz) // 2)
