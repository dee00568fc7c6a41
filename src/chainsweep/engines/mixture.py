r"""A Student-t mixture per data set: density, draws, and its fit to weighted points.

With weights :math:`w_k`, means :math:`\mu_k` and scale matrices :math:`L_k L_k^T`::

    q(z) = sum_k w_k t_nu(z; mu_k, L_k L_k^T),   nu = 5

heavy enough in the tails to bound importance weights against Gaussian, logistic and exponential tails. One
data set after another goes through a compiled loop, so memory is that of one data set (a few on an accelerator)
and no data set's numbers depend on its neighbours.

Reference: Cappe, Douc, Guillin, Marin, Robert 2008, Statistics and Computing 18, 447 (population Monte Carlo);
Peel & McLachlan 2000, Statistics and Computing 10, 339 (EM for t mixtures).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chainsweep.errors import ChainsweepError

Array = Any

DEGREES = 5
"""Degrees of freedom; a whole number, so that its chi-squared is a sum of squared normal draws."""
EM_STEPS = 4
POINTS_PER_PARAMETER = 2.0
"""Effective points behind each of the ``nz + 1`` figures of a component's location, at least."""
WEIGHT_FLOOR = 0.2
"""Share of a fit's draws that is spread evenly over its components, so that a small mode is not lost."""
TEMPER_STEPS = 18
LEAST_LOG_POWER = -27.0
MAX_BLOCK = 1 << 24
"""Numbers in the largest intermediate array of data sets that an accelerator takes together."""


class Mixture(NamedTuple):
    """Components of every data set: ``log_weight`` ``(dataset, component)``, normalised, -inf where unused;
    ``mean`` ``(dataset, component, nz)``; ``chol`` ``(dataset, component, nz, nz)``, lower triangular."""

    log_weight: Array
    mean: Array
    chol: Array


class Fitted(NamedTuple):
    """A fit: the mixture, the power ``(dataset,)`` that tempered the weights, their effective number."""

    mixture: Mixture
    power: Array
    effective: Array


def combine(*parts: tuple[float, Mixture]) -> Mixture:
    """One mixture out of several with their shares; shares are normalised, parts without weight drop out."""
    log_weight = jnp.concatenate([jnp.log(share) + part.log_weight for share, part in parts], axis=-1)
    log_weight = log_weight - jax.nn.logsumexp(log_weight, axis=-1, keepdims=True)
    mean = jnp.concatenate([part.mean for _, part in parts], axis=-2)
    return Mixture(log_weight, mean, jnp.concatenate([part.chol for _, part in parts], axis=-3))


def require_float64() -> None:
    """Raise ChainsweepError where JAX computes in single precision: narrow components would be noise."""
    if not jax.config.jax_enable_x64:
        raise ChainsweepError("importance sampling needs float64: set jax_enable_x64 before the first array")


def map_datasets(function: Callable, arrays: Any, numbers: int) -> Any:
    """``function`` of one data set over the leading axis of ``arrays``; ``numbers`` is its largest array."""
    if jax.default_backend() == "cpu":
        # One data set's arrays stay in the cache: twice as fast as all together.
        return jax.lax.map(lambda one: function(*one), arrays)
    return jax.lax.map(lambda one: function(*one), arrays, batch_size=max(1, MAX_BLOCK // max(1, numbers)))


@jax.jit
def log_density(mixture: Mixture, z: Array) -> Array:
    """Log density at ``z`` ``(dataset, draw, nz)``, shape ``(dataset, draw)``."""
    numbers = z.shape[1] * mixture.mean.shape[1]
    return map_datasets(_log_density_one, (mixture, z), numbers)


@partial(jax.jit, static_argnums=2)
def draw(mixture: Mixture, keys: Array, draws: int) -> Array:
    """``(dataset, draws, nz)`` from raw keys ``(dataset, 2)``.

    Components are taken systematically, each as often as its weight says to within one draw, in random order.
    """
    return map_datasets(partial(_draw_one, draws=draws), (mixture, keys), draws * mixture.mean.shape[2] ** 2)


@partial(jax.jit, static_argnums=(4, 5))
def fit(keys: Array, z: Array, log_weight: Array, effective: Array, components: int, points: int) -> Fitted:
    """Mixtures of at most ``components`` fitted by EM to points ``z`` ``(dataset, point, nz)``.

    Log weights ``(dataset, point)`` are tempered by the largest power at most 1 that leaves ``effective``
    points, then ``points`` of them are resampled. Points that are not finite carry no weight; a data set with
    no weight at all gives NaN.
    """
    one = partial(_fit_one, effective=effective, components=components, points=points)
    return map_datasets(one, (keys, z, log_weight), points * components)


def _components(mixture: Mixture, z: Array) -> tuple[Array, Array]:
    """Squared distances and log densities with weights, both ``(draw, component)``, of one data set."""
    nz = z.shape[-1]
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, jnp.eye(nz), lower=True))(mixture.chol)
    offset = jnp.einsum("kij,kj->ik", inverse, mixture.mean)

    def add_axis(total: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        return total + (z @ row[0].T - row[1]) ** 2, None

    start = jnp.zeros((z.shape[0], mixture.mean.shape[0]), z.dtype)
    distance, _ = jax.lax.scan(add_axis, start, (jnp.swapaxes(inverse, 0, 1), offset))
    half = 0.5 * (DEGREES + nz)
    constant = jax.lax.lgamma(half) - jax.lax.lgamma(0.5 * DEGREES) - 0.5 * nz * np.log(DEGREES * np.pi)
    log_det = jnp.sum(jnp.log(jnp.diagonal(mixture.chol, axis1=-2, axis2=-1)), axis=-1)
    return distance, mixture.log_weight + constant - log_det - half * jnp.log1p(distance / DEGREES)


def _log_density_one(mixture: Mixture, z: Array) -> Array:
    return jax.nn.logsumexp(_components(mixture, z)[1], axis=-1)


def _draw_one(mixture: Mixture, key: Array, draws: int) -> Array:
    for_component, for_order, for_noise = jax.random.split(key, 3)
    component = _systematic(for_component, mixture.log_weight, draws)
    component = jax.random.permutation(for_order, component)
    nz = mixture.mean.shape[-1]
    noise = jax.random.normal(for_noise, (draws, nz + DEGREES))
    radius = jnp.sqrt(DEGREES / jnp.sum(noise[:, nz:] ** 2, axis=-1))
    step = jnp.einsum("nij,nj->ni", mixture.chol[component], noise[:, :nz])
    return mixture.mean[component] + step * radius[:, None]


def _systematic(key: Array, log_weight: Array, draws: int) -> Array:
    """Indices ``(draws,)`` in ascending order."""
    total = jnp.cumsum(jax.nn.softmax(log_weight))
    places = (jnp.arange(draws) + jax.random.uniform(key)) / draws
    return jnp.searchsorted(total / total[-1], places, side="right").clip(0, log_weight.shape[0] - 1)


def _fit_one(
    key: Array, z: Array, log_weight: Array, *, effective: Array, components: int, points: int
) -> Fitted:
    for_resampling, for_order, for_seeds = jax.random.split(key, 3)
    usable = jnp.isfinite(log_weight) & jnp.all(jnp.isfinite(z), axis=-1)
    z, log_weight = jnp.where(usable[:, None], z, 0.0), jnp.where(usable, log_weight, -jnp.inf)
    power, size = _temper(log_weight, effective)
    tempered = jnp.where(usable, power * log_weight, -jnp.inf)
    chosen = _systematic(for_resampling, tempered, points)
    cloud = z[jax.random.permutation(for_order, chosen)]
    center = jnp.mean(cloud, axis=0)
    whiten = _root(jnp.cov(cloud.T, bias=True).reshape(z.shape[1], z.shape[1]), size)
    y = jax.scipy.linalg.solve_triangular(whiten, (cloud - center).T, lower=True).T
    fitted = _expectation_maximisation(for_seeds, y, size, components)
    return Fitted(
        Mixture(fitted.log_weight, center + fitted.mean @ whiten.T, whiten @ fitted.chol), power, size
    )


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


def _expectation_maximisation(key: Array, y: Array, size: Array, components: int) -> Mixture:
    """Fit in whitened coordinates; uses no more components than ``size`` effective points can carry."""
    nz = y.shape[1]
    used = jnp.clip(jnp.floor(size / (POINTS_PER_PARAMETER * (nz + 1))), 1, components)
    active = jnp.arange(components) < used
    mean = _spread_seeds(key, y, components)
    scale = jnp.minimum(1.0, used ** (-1.0 / nz))
    chol = jnp.broadcast_to(scale * jnp.eye(nz), (components, nz, nz))
    log_weight = jnp.where(active, -jnp.log(used), -jnp.inf)

    def step(current: Mixture, _: None) -> tuple[Mixture, None]:
        distance, log_parts = _components(current, y)
        share = jnp.exp(log_parts - jax.nn.logsumexp(log_parts, axis=-1, keepdims=True))
        return _maximise(y, share, (DEGREES + nz) / (DEGREES + distance), size, active), None

    return jax.lax.scan(step, Mixture(log_weight, mean, chol), None, length=EM_STEPS)[0]


def _maximise(y: Array, share: Array, robust: Array, size: Array, active: Array) -> Mixture:
    """New weights, means and scale matrices; the latter shrunk towards their pooled value."""
    n_points, nz = y.shape
    count = jnp.sum(share, axis=0)
    pull = share * robust
    norm = jnp.maximum(jnp.sum(pull, axis=0), 1e-12)
    mean = (pull.T @ y) / norm[:, None]
    products = (y[:, :, None] * y[:, None, :]).reshape(n_points, nz * nz)
    second = (pull.T @ products).reshape(-1, nz, nz)
    scatter = second - norm[:, None, None] * mean[:, :, None] * mean[:, None, :]
    pooled = jnp.sum(scatter, axis=0) / n_points + 1e-9 * jnp.eye(nz)
    behind = (count * size / n_points)[:, None, None]
    covariance = (scatter * (size / n_points) + (nz + 2) * pooled) / (behind + nz + 2)
    chol = jnp.linalg.cholesky(covariance)
    even = active / jnp.sum(active)
    weight = (count / n_points + WEIGHT_FLOOR * even) / (1.0 + WEIGHT_FLOOR)
    return Mixture(jnp.where(active, jnp.log(weight), -jnp.inf), mean, chol)


def _spread_seeds(key: Array, y: Array, count: int) -> Array:
    """k-means++ seeds ``(count, nz)``: each with probability proportional to the squared distance to the last."""
    keys = jax.random.split(key, count)

    def add(nearest: Array, step_key: Array) -> tuple[Array, Array]:
        seed = y[jax.random.categorical(step_key, jnp.log(jnp.maximum(nearest, 1e-12)))]
        return jnp.minimum(nearest, jnp.sum((y - seed) ** 2, axis=-1)), seed

    start = jnp.full(y.shape[0], 1e6)
    return jax.lax.scan(add, start, keys)[1]
