r"""Fitting the Student-t mixtures of importance sampling to weighted points.

A fit starts from kernels on resampled points. Where the target's curvature is known, a kernel is as
narrow as the curvature says and, along flat directions, as wide as a share of the whole cloud; a few EM steps
then move weights, means and covariances, each covariance held back by a prior count at its kernel's. On the curved
ridges of weakly constrained models this is worth a factor of 5 to 10 in draws over kernels of one shape.

Reference: Peel & McLachlan 2000, Statistics and Computing 10, 339 (EM for t mixtures); Cappe et al. 2008, Statistics
and Computing 18, 447 (EM on weighted draws).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chainsweep.engines.mixture import Mixture, degrees, shares, systematic
from chainsweep.model.loops import map_datasets

Array = Any

EM_STEPS = 2
WEIGHT_FLOOR = 0.2
"""Share of a fit's draws that is spread evenly over its components, so that a small mode is not lost."""
BANDWIDTH = 1.2
"""Width of a kernel along flat directions: this times ``components ** (-1 / (nz + 4))`` of the cloud's."""
PRIOR_COUNT_MEAN = 1.0
"""Effective points that hold a component's mean at its kernel's in EM; ``nz + 2`` hold its covariance."""
TEMPER_STEPS = 18
LEAST_LOG_POWER = -27.0


class Kernels(NamedTuple):
    """Where the kernels of a fit stand.

    ``center`` ``(dataset, component, nz)``; ``root`` ``(dataset, nz, nz)``, Cholesky factor of the tempered
    cloud's covariance; ``power`` and ``size`` ``(dataset,)``, the power that tempered the weights and the
    effective number of points that it leaves.
    """

    center: Array
    root: Array
    power: Array
    size: Array


@partial(jax.jit, static_argnums=4)
def place(keys: Array, z: Array, log_weight: Array, effective: Array, components: int) -> Kernels:
    """Kernels on points resampled from ``z`` ``(dataset, point, nz)``.

    Log weights ``(dataset, point)`` are tempered by the largest power at most 1 that leaves ``effective``
    points. Points that are not finite carry no weight; a data set without any weight gives NaN.
    """
    one = partial(_place_one, components=components)
    return map_datasets(lambda *a: one(*a, effective=effective), (keys, z, log_weight), z.shape[1] * z.shape[2])


@partial(jax.jit, static_argnums=5)
def fit(keys: Array, z: Array, log_weight: Array, kernels: Kernels, precision: Array, points: int) -> Mixture:
    """The mixture fitted to ``points`` points resampled with tempered weights, see the module's text.

    ``precision`` ``(dataset, component, nz, nz)`` is the Hessian of the target's negative log density at the
    kernels' centers (any sign, NaN counts as 0), or zeros where it is not known. A data set without any weight
    gives components without weight.
    """
    numbers = points * kernels.center.shape[1]
    fitted = map_datasets(partial(_fit_one, points=points), (keys, z, log_weight, kernels, precision), numbers)
    return _without_broken(fitted)


def _clean(z: Array, log_weight: Array) -> tuple[Array, Array]:
    usable = jnp.isfinite(log_weight) & jnp.all(jnp.isfinite(z), axis=-1)
    return jnp.where(usable[:, None], z, 0.0), jnp.where(usable, log_weight, -jnp.inf)


def _place_one(key: Array, z: Array, log_weight: Array, *, effective: Array, components: int) -> Kernels:
    z, log_weight = _clean(z, log_weight)
    power, size = _temper(log_weight, effective)
    tempered = jnp.where(jnp.isfinite(log_weight), power * log_weight, -jnp.inf)
    weight = jax.nn.softmax(tempered)
    deviation = z - weight @ z
    root = _root((deviation * weight[:, None]).T @ deviation, size)
    return Kernels(z[systematic(jax.random.uniform(key), tempered, components)], root, power, size)


def _fit_one(key: Array, z: Array, log_weight: Array, kernels: Kernels, precision: Array, *, points: int) -> Mixture:
    """Works in coordinates in which the cloud's covariance is the identity."""
    z, log_weight = _clean(z, log_weight)
    tempered = jnp.where(jnp.isfinite(log_weight), kernels.power * log_weight, -jnp.inf)
    cloud = z[systematic(jax.random.uniform(key), tempered, points)]
    origin, root = jnp.mean(cloud, axis=0), kernels.root

    def whiten(x: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(root, (x - origin).T, lower=True).T

    center = whiten(kernels.center)
    covariance = _kernel_covariance(root, kernels.power * jnp.nan_to_num(precision, posinf=0.0, neginf=0.0))
    start = Mixture(jnp.full(len(center), -np.log(len(center))), center, jnp.linalg.cholesky(covariance))
    y = whiten(cloud)

    def step(current: Mixture, _: None) -> tuple[Mixture, None]:
        return _maximise(y, current, start.mean, covariance, kernels.size / points), None

    fitted = jax.lax.scan(step, start, None, length=EM_STEPS)[0]
    return Mixture(fitted.log_weight, origin + fitted.mean @ root.T, root @ fitted.chol)


def _kernel_covariance(root: Array, precision: Array) -> Array:
    """Inverse of the curvature's positive part plus that of the bandwidth, in whitened coordinates."""
    components, nz = precision.shape[0], root.shape[0]
    bandwidth = min(1.0, BANDWIDTH * components ** (-1.0 / (nz + 4)))
    curvature, axes = jnp.linalg.eigh(jnp.einsum("ji,kjl,lm->kim", root, precision, root))
    variance = 1.0 / (jnp.maximum(curvature, 0.0) + bandwidth**-2)
    return jnp.einsum("kij,kj,klj->kil", axes, variance, axes)


def _maximise(y: Array, current: Mixture, center: Array, covariance: Array, weight: Array) -> Mixture:
    """One EM step; each point of ``y`` counts as ``weight`` effective points."""
    n_points, nz = y.shape
    share, bases = shares(current, y)
    pull = share * ((1.0 + nz / degrees(nz)) * weight) / bases
    norm, count = jnp.sum(pull, axis=1), jnp.sum(share, axis=1) * weight
    products = (y[:, :, None] * y[:, None, :]).reshape(n_points, nz * nz)
    moments = pull @ jnp.concatenate([y, products], axis=1)
    first, second = moments[:, :nz], moments[:, nz:].reshape(-1, nz, nz)
    mean = (first + PRIOR_COUNT_MEAN * center) / (norm + PRIOR_COUNT_MEAN)[:, None]
    cross = first[:, :, None] * mean[:, None, :]
    scatter = second - cross - jnp.swapaxes(cross, 1, 2) + norm[:, None, None] * mean[:, :, None] * mean[:, None, :]
    total = scatter + (nz + 2) * covariance
    share_of_draws = (count / (n_points * weight) + WEIGHT_FLOOR / len(count)) / (1.0 + WEIGHT_FLOOR)
    chol = jnp.linalg.cholesky(total / (count + nz + 2)[:, None, None])
    return Mixture(jnp.log(share_of_draws), mean, chol)


def _without_broken(mixture: Mixture) -> Mixture:
    """Components that are not finite lose their weight and get harmless numbers."""
    finite = jnp.isfinite(mixture.log_weight) & jnp.all(jnp.isfinite(mixture.mean), axis=-1)
    finite &= jnp.all(jnp.isfinite(mixture.chol), axis=(-1, -2))
    finite &= jnp.all(jnp.diagonal(mixture.chol, axis1=-2, axis2=-1) > 0.0, axis=-1)
    log_weight = jnp.where(finite, mixture.log_weight, -jnp.inf)
    mean = jnp.where(finite[..., None], mixture.mean, 0.0)
    return Mixture(log_weight, mean, jnp.where(finite[..., None, None], mixture.chol, jnp.eye(mean.shape[-1])))


def _temper(log_weight: Array, effective: Array) -> tuple[Array, Array]:
    """Largest power in (0, 1] with at least ``effective`` points, and how many it leaves."""
    shifted = log_weight - jnp.max(log_weight)

    def size(log_power: Array) -> Array:
        weight = jnp.where(jnp.isfinite(shifted), jnp.exp(jnp.exp(log_power) * shifted), 0.0)
        return jnp.sum(weight) ** 2 / jnp.sum(weight**2)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (bounds[0] + bounds[1])
        good = size(middle) >= effective
        return jnp.where(good, middle, bounds[0]), jnp.where(good, bounds[1], middle)

    bounds = (jnp.asarray(LEAST_LOG_POWER), jnp.asarray(0.0))
    low, _ = jax.lax.fori_loop(0, TEMPER_STEPS, halve, bounds)
    log_power = jnp.where(size(jnp.asarray(0.0)) >= effective, 0.0, low)
    return jnp.exp(log_power), size(log_power)


def _root(covariance: Array, size: Array) -> Array:
    """Cholesky factor of a covariance estimated from ``size`` points, shrunk towards its diagonal."""
    nz = covariance.shape[0]
    diagonal = jnp.maximum(jnp.diagonal(covariance), 1e-20)
    share = 1e-6 + nz / (nz + size)
    scale = jnp.sqrt(diagonal)
    correlation = (1.0 - share) * covariance / (scale[:, None] * scale) + share * jnp.eye(nz)
    return scale[:, None] * jnp.linalg.cholesky(correlation)
