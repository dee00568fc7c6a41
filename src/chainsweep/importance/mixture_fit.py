r"""Fitting the Student-t mixtures of importance sampling to weighted points.

A fit starts from kernels on resampled points. Where the target's curvature is known, a kernel is as
narrow as the curvature says and, along flat directions, as wide as a share of the whole cloud; a few EM steps
then move weights, means and covariances, each covariance held back by a prior count at its kernel's. On the curved
ridges of weakly constrained models this is worth a factor of 5 to 10 in draws over kernels of one shape.

Reference: Peel & McLachlan 2000, Statistics and Computing 10, 339 (EM for t mixtures); Cappe et al. 2008, Statistics
and Computing 18, 447 (EM on weighted draws).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from chainsweep.importance.mixture import FULL_BLOCKS, MOST_COMPONENTS, filled, padded_to, points_together
from chainsweep.importance.mixture_density import (
    COMPONENTS,
    UNROLLED_DIMENSIONS,
    Mixture,
    Prepared,
    cholesky,
    degrees,
    power,
    prepared,
)
from chainsweep.model.batched import blocks_of
from chainsweep.numerics.arrays import Array, Bools, Floats
from chainsweep.numerics.factors import cholesky_factors
from chainsweep.numerics.keys import uniform_of
from chainsweep.numerics.loops import first_of, lanes_of, on_cpu
from chainsweep.numerics.resampling import effective_draws, systematic, temper

EM_STEPS = 2
WEIGHT_FLOOR = 0.2
"""The share of a fit's weight, relative to the rest, that is spread evenly over its components, so that a small mode is
not lost."""
BANDWIDTH = 1.2
"""The width of a kernel along flat directions, in units of ``components ** (-1 / (nz + 4))`` times the cloud's."""
PRIOR_COUNT_MEAN = 1.0
"""The prior count in EM, in effective points, of a component's mean at its kernel's; that of its covariance is
``nz + 2``."""
TEMPER_STEPS = 18
"""The number of bisections of the power that tempers weights, which is then known to 1e-4."""


class Kernels(NamedTuple):
    """The places of the kernels of a fit.

    ``center`` ``(dataset, component, nz)``; ``root`` ``(dataset, nz, nz)``, Cholesky factor of the covariance of the
    cloud of tempered points; ``power`` and ``size`` ``(dataset,)``, the power that tempered the weights and the
    effective number of points that it leaves.
    """

    center: Array
    root: Array
    power: Array
    size: Array


def place(keys: NDArray[np.uint32], z: Floats, log_weight: Floats, effective: float, components: int) -> Kernels:
    """Place kernels on points resampled from ``z`` ``(dataset, point, nz)``.

    Log weights ``(dataset, point)`` are tempered by the largest power at most 1 that leaves ``effective``
    points. Points that are not finite carry no weight; a data set without any weight gives NaN.
    """
    datasets, _, nz = z.shape
    nan = np.full((datasets, components, nz), np.nan), np.full((datasets, nz, nz), np.nan)
    kernels = Kernels(*nan, np.full(datasets, np.nan), np.full(datasets, np.nan))
    for row, (points, weights, uniform) in enumerate(zip(z, log_weight, uniform_of(keys), strict=True)):
        usable = _usable(points, weights)
        if usable.any():
            found = _place_one(float(uniform), points[usable], weights[usable], effective, components)
            for whole, part in zip(kernels, found, strict=True):
                whole[row] = part
    return kernels


def fit(
    keys: NDArray[np.uint32], z: Floats, log_weight: Floats, kernels: Kernels, precision: Floats, points: int
) -> Mixture:
    """Fit a mixture to ``points`` points resampled with tempered weights, see the module's text.

    ``precision`` ``(dataset, component, nz, nz)`` is the Hessian of the target's negative log density at the
    kernels' centers (any sign, NaN counts as 0), or zeros where it is not known. A data set without any weight
    gives components without weight.
    """
    datasets, components, nz = kernels.center.shape
    fitted = Mixture(
        np.full((datasets, components), -np.inf),
        np.zeros((datasets, components, nz)),
        np.tile(np.eye(nz), (datasets, components, 1, 1)),
    )
    usable = [_usable(*pair) for pair in zip(z, log_weight, strict=True)]
    rows = [row for row, some in enumerate(usable) if some.any()]
    uniform = uniform_of(keys)
    clouds = [
        _cloud(float(uniform[row]), z[row, usable[row]], kernels.power[row] * log_weight[row, usable[row]], points)
        for row in rows
    ]
    whitenings = [(cloud.mean(axis=0), kernels.root[row]) for cloud, row in zip(clouds, rows, strict=True)]
    parts = [
        (_whiten(cloud, *to), _whiten(kernels.center[row], *to), _whitened_precision(precision[row], kernels, row))
        for cloud, to, row in zip(clouds, whitenings, rows, strict=True)
    ]
    size = np.asarray([kernels.size[row] / points for row in rows])
    for row, (origin, root), found in zip(rows, whitenings, _maximised(parts, size), strict=True):
        fitted.log_weight[row] = found.log_weight[:components]
        fitted.mean[row] = origin + found.mean[:components] @ root.T
        fitted.chol[row] = np.einsum("ij,kjl->kil", root, found.chol[:components])
    return without_broken(fitted)


def _maximised(parts: list[tuple[Floats, Floats, Floats]], weight: Floats) -> list[Mixture]:
    """Fit mixtures by EM from kernels: ``parts`` are the whitened ``(cloud, center, precision)`` of each data set.

    ``weight`` ``(dataset,)`` is the number of effective points that each point of the cloud counts for.
    """
    if not parts:
        return []
    points, components = len(parts[0][0]), len(parts[0][1])
    block, size = points_together(points), padded_to(components, MOST_COMPONENTS)
    y, center, precision = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    y = filled(y, 1, padded_to(points, block * FULL_BLOCKS)).reshape(len(y), -1, block, y.shape[-1])
    center, precision = filled(center, 1, size), filled(precision, 1, size)
    sizes = np.asarray(points), np.asarray(components)
    found: list[Mixture] = []
    for rows in blocks_of(len(parts), lanes_of(points * components)):
        count = np.unique(rows).size
        fitted = _maximise_all(np.asarray(count), y[rows], center[rows], precision[rows], weight[rows], *sizes)
        arrays = [np.asarray(part)[:count] for part in fitted]
        found += [Mixture(*one) for one in zip(*arrays, strict=True)]
    return found


@jax.jit
def _maximise_all(
    count: Any, y: Array, center: Array, precision: Array, weight: Array, points: Any, components: Any
) -> Mixture:
    """Fit the mixtures of the first ``count`` data sets by EM, with as many ``points`` and ``components`` as given.

    See ``_maximised``.
    """

    def one(y: Array, center: Array, precision: Array, weight: Array) -> Mixture:
        used = jnp.arange(len(center)) < components
        covariance = _kernel_covariance(precision, components)
        log_weight = jnp.where(used, -jnp.log(components * 1.0), -jnp.inf)
        start = Mixture(log_weight, center, cholesky(covariance))

        def step(current: Mixture, _: None) -> tuple[Mixture, None]:
            return _maximise(y, current, start.mean, covariance, weight, points, components), None

        return jax.lax.scan(step, start, None, length=EM_STEPS)[0]

    return first_of(one, (y, center, precision, weight), count)


def _usable(z: Floats, log_weight: Floats) -> Bools:
    return np.isfinite(log_weight) & np.isfinite(z).all(axis=-1)


def _cloud(uniform: float, z: Floats, log_weight: Floats, points: int) -> Floats:
    return np.asarray(z[systematic(log_weight, points, uniform)])


def _whiten(x: Floats, origin: Floats, root: Floats) -> Floats:
    """The points ``x`` in coordinates in which the cloud's covariance is the identity."""
    return np.asarray(solve_triangular(root, (x - origin).T, lower=True, check_finite=False).T)


def _whitened_precision(precision: Floats, kernels: Kernels, row: int) -> Floats:
    clean = kernels.power[row] * np.nan_to_num(precision, posinf=0.0, neginf=0.0)
    root = kernels.root[row]
    return np.asarray(root.T @ clean @ root)


def _place_one(
    uniform: float, z: Floats, log_weight: Floats, effective: float, components: int
) -> tuple[Floats, Floats, float, float]:
    power = float(temper(log_weight[None], effective, TEMPER_STEPS)[0])
    size = float(effective_draws((log_weight - log_weight.max())[None], np.array([power]))[0])
    tempered = power * log_weight
    weight = np.exp(tempered - tempered.max())
    weight /= weight.sum()
    deviation = z - weight @ z
    root = _root((deviation * weight[:, None]).T @ deviation, size)
    return z[systematic(tempered, components, uniform)], root, power, size


def _kernel_covariance(precision: Array, components: Any) -> Array:
    """The covariances of kernels, in whitened coordinates.

    Along each axis the precision is the positive part of the curvature plus the precision of the bandwidth.
    """
    size, nz = precision.shape[:2]
    bandwidth = jnp.minimum(1.0, BANDWIDTH * (components * 1.0) ** (-1.0 / (nz + 4)))

    def of_some(precision: Array) -> Array:
        curvature, axes = jnp.linalg.eigh(precision)
        variance = 1.0 / (jnp.maximum(curvature, 0.0) + bandwidth**-2)
        return jnp.einsum("kij,kj,klj->kil", axes, variance, axes)

    if not on_cpu():
        return of_some(precision)
    some = precision.reshape(-1, COMPONENTS, nz, nz)
    found = first_of(of_some, (some,), -(-components // COMPONENTS)).reshape(precision.shape)
    return jnp.where((jnp.arange(size) < components)[:, None, None], found, jnp.eye(nz))


def _maximise(
    y: Array, current: Mixture, center: Array, covariance: Array, weight: Array, points: Any, components: Any
) -> Mixture:
    """Make one EM step; each point of ``y`` ``(block, point, nz)`` counts as ``weight`` effective points."""
    blocks, together, nz = y.shape
    ready = prepared(current)
    number = jnp.arange(blocks * together).reshape(blocks, together)

    def add(b: Any, moments: Array) -> Array:
        return _with_moments(moments, ready, y[b], number[b] < points)

    moments = jnp.zeros((len(center), 2 + nz + nz**2))
    moments = jax.lax.fori_loop(0, -(-points // together), add, moments) if on_cpu() else add(0, moments)
    count = moments[:, 0] * weight
    pull = moments[:, 1:] * ((1.0 + nz / degrees(nz)) * weight)
    norm, first, second = pull[:, 0], pull[:, 1 : 1 + nz], pull[:, 1 + nz :].reshape(-1, nz, nz)
    mean = (first + PRIOR_COUNT_MEAN * center) / (norm + PRIOR_COUNT_MEAN)[:, None]
    cross = first[:, :, None] * mean[:, None, :]
    scatter = second - cross - jnp.swapaxes(cross, 1, 2) + norm[:, None, None] * mean[:, :, None] * mean[:, None, :]
    total = scatter + (nz + 2) * covariance
    share_of_draws = (count / (points * weight) + WEIGHT_FLOOR / components) / (1.0 + WEIGHT_FLOOR)
    log_weight = jnp.where(jnp.arange(len(center)) < components, jnp.log(share_of_draws), -jnp.inf)
    return Mixture(log_weight, mean, cholesky(total / (count + nz + 2)[:, None, None]))


def _with_moments(moments: Array, ready: Prepared, y: Array, counts: Array) -> Array:
    """Return ``moments`` ``(component, 2 + nz + nz**2)`` plus those of points ``y`` ``(point, nz)`` where ``counts``.

    They are sums over points: first of the component's share of the density, then of this share over
    ``Prepared.bases``, alone, times ``y``, and times the products of the entries of ``y``.
    """
    n, nz = y.shape

    def highest(some: Prepared, so_far: Array, _: Any) -> Array:
        return jnp.maximum(so_far, some.log_parts(some.bases(y)).max(axis=0))

    top = ready.over_components(highest, jnp.full(n, -jnp.inf)) if nz > UNROLLED_DIMENSIONS else jnp.zeros(n)

    def density(some: Prepared, bases: Array) -> Array:
        if nz > UNROLLED_DIMENSIONS:
            return jnp.exp(some.log_parts(bases) - top)
        return some.height[:, None] / power(bases, nz)

    def total(some: Prepared, so_far: Array, _: Any) -> Array:
        return so_far + density(some, some.bases(y)).sum(axis=0)

    whole = ready.over_components(total, jnp.zeros(n))
    scale = jnp.where(counts, 1.0 / whole, 0.0)
    products = (y[:, :, None] * y[:, None, :]).reshape(n, nz * nz)
    features = jnp.concatenate([jnp.ones((n, 1)), y, products], axis=1)

    def put(some: Prepared, moments: Array, place: Any) -> Array:
        bases = some.bases(y)
        share = density(some, bases) * scale
        new = jnp.concatenate([share.sum(axis=1, keepdims=True), (share / bases) @ features], axis=1)
        before = jax.lax.dynamic_slice_in_dim(moments, place, len(new))
        return jax.lax.dynamic_update_slice_in_dim(moments, before + new, place, 0)

    return ready.over_components(put, moments)


def without_broken(mixture: Mixture) -> Mixture:
    """The same mixture, where components that are not finite have no weight, mean 0 and the unit matrix as scale."""
    finite = np.isfinite(mixture.log_weight) & np.isfinite(mixture.mean).all(axis=-1)
    finite &= np.isfinite(mixture.chol).all(axis=(-1, -2))
    finite &= (np.diagonal(mixture.chol, axis1=-2, axis2=-1) > 0.0).all(axis=-1)
    log_weight = np.where(finite, mixture.log_weight, -np.inf)
    mean = np.where(finite[..., None], mixture.mean, 0.0)
    return Mixture(log_weight, mean, np.where(finite[..., None, None], mixture.chol, np.eye(mean.shape[-1])))


def _root(covariance: Floats, size: float) -> Floats:
    """Cholesky factor of a covariance estimated from ``size`` points, shrunk towards its diagonal."""
    nz = covariance.shape[0]
    scale = np.sqrt(np.maximum(np.diagonal(covariance), 1e-20))
    share = 1e-6 + nz / (nz + size)
    correlation = (1.0 - share) * covariance / (scale[:, None] * scale) + share * np.eye(nz)
    if not np.isfinite(correlation).all():
        return np.full((nz, nz), np.nan)
    return np.asarray(scale[:, None] * cholesky_factors(correlation))
