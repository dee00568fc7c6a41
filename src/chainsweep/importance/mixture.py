r"""A Student-t mixture per data set: density and draws.

With weights :math:`w_k`, means :math:`\mu_k` and scale matrices :math:`L_k L_k^T`::

    q(z) = sum_k w_k t_nu(z; mu_k, L_k L_k^T),   nu = 4 or 5

heavy enough in the tails to bound importance weights against Gaussian, logistic and exponential tails.

On a processor one program serves any number of components, points and data sets: arrays are padded to a few fixed
sizes, and loops end at the padding. The numbers of a data set do not depend on the other data sets.

Reference: Cappe, Douc, Guillin, Marin, Robert 2008, Statistics and Computing 18, 447 (population Monte Carlo).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import ChainsweepError
from chainsweep.importance.mixture_density import Mixture, degrees, prepared
from chainsweep.model.batched import blocks_of
from chainsweep.numerics.arrays import Array, Floats
from chainsweep.numerics.loops import first_of, lanes_of, on_cpu
from chainsweep.numerics.resampling import systematic

BLOCK = 512
"""The number of points of one data set that a processor computes together."""
FULL_BLOCKS = 16
"""The number of blocks to a multiple of which points are padded."""
MOST_COMPONENTS = 560
"""The number to a multiple of which components are padded."""


def combine(*parts: tuple[float, Mixture]) -> Mixture:
    """Combine several mixtures with their shares to one; shares are normalised, parts without weight are ignored."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = [np.log(share) + np.asarray(part.log_weight) for share, part in parts]
    log_weight = _normalised_logs(np.concatenate(weights, axis=-1))
    mean = np.concatenate([np.asarray(part.mean) for _, part in parts], axis=-2)
    return Mixture(log_weight, mean, np.concatenate([np.asarray(part.chol) for _, part in parts], axis=-3))


def _normalised_logs(log_weight: Floats) -> Floats:
    """Return log weights whose exponentials sum to 1; a row without any weight stays one."""
    top = log_weight.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = log_weight - top - np.log(np.exp(log_weight - top).sum(axis=-1, keepdims=True))
    return np.where(np.isfinite(top), normalised, -np.inf)


def require_float64() -> None:
    """Raise ChainsweepError where JAX computes in single precision: narrow components would be noise."""
    if not jax.config.read("jax_enable_x64"):
        raise ChainsweepError("importance sampling needs float64: set jax_enable_x64 before the first array")


def log_density(mixture: Mixture, z: Array) -> Floats:
    """Log density at ``z`` ``(dataset, draw, nz)``, shape ``(dataset, draw)``."""
    z = np.asarray(z, float)
    datasets, draws, nz = z.shape
    block, whole, found = points_together(draws), widened(mixture), np.empty((datasets, draws))
    most = block * FULL_BLOCKS if on_cpu() else draws
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
    """Log density ``(dataset, block, point)`` of the first ``count`` data sets and their first ``blocks`` blocks."""

    def of_dataset(mixture: Mixture, z: Array) -> Array:
        one = prepared(mixture)
        return first_of(lambda z: one.log_density(z) + one.log_top, (z,), blocks)

    return first_of(of_dataset, (mixture, z), count)


def draw(mixture: Mixture, keys: NDArray[np.uint32], draws: int) -> Floats:
    """Draws ``(dataset, draws, nz)`` of the mixtures from raw keys ``(dataset, 2)``.

    Components are drawn systematically, each in proportion to its weight to within one draw, and well mixed: any run of
    consecutive draws is a stratified sample.
    """
    log_weight, mean, chol = (np.asarray(part) for part in mixture)
    # A stride mixes the components, and leaves any run of consecutive draws a stratified sample.
    order = (np.arange(draws) * _stride(draws)) % draws
    z = np.empty((len(mean), draws, mean.shape[-1]))
    for row, key in enumerate(keys):
        rng = np.random.Generator(np.random.Philox(key=int(key[0]) << 32 | int(key[1])))
        component = systematic(np.asarray(log_weight[row]), draws, rng.random())[order]
        noise, nu = rng.standard_normal((draws, mean.shape[-1])), degrees(mean.shape[-1])
        step = np.einsum("nij,nj->ni", chol[row, component], noise)
        z[row] = mean[row, component] + step * np.sqrt(nu / rng.chisquare(nu, draws))[:, None]
    return z


def points_together(draws: int) -> int:
    """The number of points of one data set that are computed together: a block, or all on an accelerator."""
    return BLOCK if on_cpu() else draws


def padded_to(count: int, size: int) -> int:
    """The least multiple of ``size`` that is at least ``count``; on an accelerator ``count`` itself."""
    return -(-count // size) * size if on_cpu() else count


def filled(array: Array, axis: int, size: int) -> Array:
    """Return ``array``, padded with zeros at its end along ``axis`` to ``size``."""
    gap = size - array.shape[axis]
    if not gap:
        return array
    return np.pad(array, [(0, gap if k == axis else 0) for k in range(array.ndim)])


def widened(mixture: Mixture) -> Mixture:
    """The same mixture, padded with components without weight to a multiple of ``MOST_COMPONENTS``."""
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
