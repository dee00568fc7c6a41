r"""A Student-t mixture per data set: density and draws.

With weights :math:`w_k`, means :math:`\mu_k` and scale matrices :math:`L_k L_k^T`::

    q(z) = sum_k w_k t_nu(z; mu_k, L_k L_k^T),   nu = 4 or 5

heavy enough in the tails to bound importance weights against Gaussian, logistic and exponential tails.

On a processor one program serves any number of components, points and data sets: arrays are filled up to a few fixed
sizes, and loops go as far as there is something. No data set's numbers depend on its neighbours.

Reference: Cappe, Douc, Guillin, Marin, Robert 2008, Statistics and Computing 18, 447 (population Monte Carlo).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.engines.random_numbers import normals, uniforms
from chainsweep.errors import ChainsweepError
from chainsweep.model.batched import blocks_of
from chainsweep.model.loops import apart, first_of, lanes_of, one_by_one_here

Array = Any
Floats = NDArray[np.float64]

UNROLLED_DIMENSIONS = 8
"""Up to here densities go by a fused loop three times as fast, in which ratios of densities may not underflow."""
BLOCK = 512
"""Points of one data set that a processor computes together."""
FULL_BLOCKS = 16
"""Points are filled up to a multiple of so many blocks."""
COMPONENTS = 40
"""Components that a processor computes together."""
MOST_COMPONENTS = 560
"""Components are filled up to a multiple of this."""


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


def combine(*parts: tuple[float, Mixture]) -> Mixture:
    """One mixture out of several with their shares; shares are normalised, parts without weight drop out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = [np.log(share) + np.asarray(part.log_weight) for share, part in parts]
    log_weight = _normalised_logs(np.concatenate(weights, axis=-1))
    mean = np.concatenate([np.asarray(part.mean) for _, part in parts], axis=-2)
    return Mixture(log_weight, mean, np.concatenate([np.asarray(part.chol) for _, part in parts], axis=-3))


def _normalised_logs(log_weight: Array) -> Array:
    top = log_weight.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return log_weight - top - np.log(np.exp(log_weight - top).sum(axis=-1, keepdims=True))


def require_float64() -> None:
    """Raise ChainsweepError where JAX computes in single precision: narrow components would be noise."""
    if not jax.config.read("jax_enable_x64"):
        raise ChainsweepError("importance sampling needs float64: set jax_enable_x64 before the first array")


def log_density(mixture: Mixture, z: Array) -> Floats:
    """Log density at ``z`` ``(dataset, draw, nz)``, shape ``(dataset, draw)``."""
    z = np.asarray(z, float)
    datasets, draws, nz = z.shape
    block, whole, found = points_together(draws), widened(mixture), np.empty((datasets, draws))
    most = block * FULL_BLOCKS if one_by_one_here() else draws
    for rows in blocks_of(datasets, lanes_of(draws * whole.mean.shape[1])):
        some, own = Mixture(*(part[rows] for part in whole)), np.unique(rows)
        for first in range(0, draws, most):
            part = z[rows, first : first + most]
            sizes = np.asarray(own.size), np.asarray(-(-part.shape[1] // block))
            points = filled(part, 1, most).reshape(len(rows), -1, block, nz)
            density = np.asarray(_log_densities(some, points, *sizes)).reshape(len(rows), -1)
            found[own, first : first + most] = density[: own.size, : part.shape[1]]
    return found


@jax.jit
def _log_densities(mixture: Mixture, z: Array, count: Any, blocks: Any) -> Array:
    """``(dataset, block, point)`` of the first ``count`` data sets and their first ``blocks``."""

    def of_dataset(mixture: Mixture, z: Array) -> Array:
        one = prepared(mixture)
        return first_of(lambda z: one.log_density(z) + one.log_top, (z,), blocks)

    return first_of(of_dataset, (mixture, z), count)


def draw(mixture: Mixture, keys: NDArray[np.uint32], draws: int) -> Floats:
    """``(dataset, draws, nz)`` from raw keys ``(dataset, 2)``.

    Components are taken systematically, each as often as its weight says to within one draw, well mixed: any run of
    consecutive draws is a stratified sample.
    """
    log_weight, mean, chol = (np.asarray(part) for part in mixture)
    # A stride mixes the components, and leaves any run of consecutive draws a stratified sample.
    order = (np.arange(draws) * _stride(draws)) % draws
    z = np.empty((len(mean), draws, mean.shape[-1]))
    for row, key in enumerate(keys):
        rng = np.random.Generator(np.random.Philox(key=int(key[0]) << 32 | int(key[1])))
        component = systematic(rng.random(), log_weight[row], draws)[order]
        noise, nu = rng.standard_normal((draws, mean.shape[-1])), degrees(mean.shape[-1])
        step = np.einsum("nij,nj->ni", chol[row, component], noise)
        z[row] = mean[row, component] + step * np.sqrt(nu / rng.chisquare(nu, draws))[:, None]
    return z


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
    ``(component,)`` weights. Behind the first ``used`` components none has weight.
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
        """Log of the density at ``z`` ``(draw, nz)``, up to the factor of ``parts``; shape ``(draw,)``."""
        n, nz = z.shape
        if nz > UNROLLED_DIMENSIONS:
            return self._log_density_in_logs(z)
        if not one_by_one_here():
            return jnp.log(self.height @ (1.0 / power(self.bases(z), nz)))

        def add(k: Any, total: Array) -> Array:
            return total + self.height[k] / power(_base(z.T, self.inverse[..., k], self.offset[:, k]), nz)

        return jnp.log(jax.lax.fori_loop(0, self.used, add, jnp.zeros(n, z.dtype)))

    def _log_density_in_logs(self, z: Array) -> Array:
        def add(some: Prepared, total: Array, _: Any) -> Array:
            return jnp.logaddexp(total, jax.nn.logsumexp(some.log_parts(some.bases(z)), axis=0))

        return self.over_components(add, jnp.full(len(z), -jnp.inf, z.dtype))

    def over_components(self, add: Callable, start: Any) -> Any:
        """``add(some, so_far, place)``, one after the other, of some components at a time, the first at ``place``.

        The last ones may come twice, then without height. An accelerator takes all together.
        """
        size = self.height.shape[0]
        if not one_by_one_here() or size <= COMPONENTS:
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

        All are 0 in a distance of some 1e30 scales.
        """

        def put(some: Prepared, whole: Array, place: Any) -> Array:
            density = some.height / power(_base(z, some.inverse, some.offset), z.shape[0])
            before = jax.lax.dynamic_slice_in_dim(whole, place, density.shape[0])
            return jax.lax.dynamic_update_slice_in_dim(whole, before + density, place, 0)

        return self.over_components(put, jnp.zeros(self.height.shape, z.dtype))

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


def power(base: Array, nz: int) -> Array:
    """One over the density of a component of height 1."""
    return jax.lax.integer_pow(base, (degrees(nz) + nz) // 2)


def systematic(uniform: float, log_weight: Array, draws: int) -> NDArray[np.int64]:
    """Systematic resampling by one uniform number: indices ``(draws,)`` in ascending order."""
    total = np.cumsum(np.exp(log_weight - log_weight.max()))
    places = (np.arange(draws) + uniform) / draws
    return np.searchsorted(total / total[-1], places, side="right").clip(0, len(log_weight) - 1)


def points_together(draws: int) -> int:
    """Points of one data set that are computed together: a block, on an accelerator all."""
    return BLOCK if one_by_one_here() else draws


def padded_to(count: int, size: int) -> int:
    """The least multiple of ``size`` that holds ``count``; on an accelerator there is no padding."""
    return -(-count // size) * size if one_by_one_here() else count


def filled(array: Array, axis: int, size: int) -> Array:
    """``array`` with zeros behind it along ``axis``, up to ``size``."""
    gap = size - array.shape[axis]
    if not gap:
        return array
    return np.pad(array, [(0, gap if k == axis else 0) for k in range(array.ndim)])


def widened(mixture: Mixture) -> Mixture:
    """The same with components without weight behind it, up to ``MOST_COMPONENTS`` or a multiple."""
    count, nz = np.shape(mixture.mean)[1:]
    size = padded_to(count, MOST_COMPONENTS)
    log_weight, mean, chol = (np.asarray(part, float) for part in mixture)
    whole = Mixture(
        np.full((len(mean), size), -np.inf), filled(mean, 1, size), np.tile(np.eye(nz), (len(mean), size, 1, 1))
    )
    whole.log_weight[:, :count], whole.chol[:, :count] = log_weight, chol
    return whole


def _stride(draws: int) -> int:
    """A number near the golden section of ``draws`` that has no divisor in common with it."""
    stride = max(1, round(draws * 0.6180339887))
    while math.gcd(stride, draws) != 1:
        stride += 1
    return stride
