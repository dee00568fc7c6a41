"""Agreement of engines on the same data sets: from means and sds, and from draws.

Distances are in pooled standard deviations, ``sqrt((sd_a^2 + sd_b^2) / 2)``, so one threshold serves all
parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainsweep.diagnostics.blocks import leading_blocks
from chainsweep.diagnostics.weights import normalised_weights, weighted_sd

Array = NDArray[np.float64]
Moments = tuple[ArrayLike, ArrayLike]
"""Posterior means and standard deviations, each ``(dataset, parameter)``."""


@dataclass(frozen=True)
class MomentAgreement:
    """How far two engines are apart: arrays ``(dataset, parameter)``, NaN where an engine has no figure."""

    shift: Array
    """``|mean_a - mean_b|`` in pooled sd, at least 0; infinite where two point masses differ."""
    log_sd_ratio: Array
    """``log(sd_a / sd_b)``: 0.1 is ten per cent wider; infinite where one sd is 0."""


def moment_agreement(mean_a: ArrayLike, sd_a: ArrayLike, mean_b: ArrayLike, sd_b: ArrayLike) -> MomentAgreement:
    """Compare two engines by their means and sds, all of one shape ``(dataset, parameter)``.

    Figures are NaN where an input is NaN or infinite, and where both sds are 0 and the means equal.
    """
    means_a, sds_a, means_b, sds_b = (
        _finite(np.asarray(figure, dtype=np.float64)) for figure in (mean_a, sd_a, mean_b, sd_b)
    )
    if not means_a.shape == sds_a.shape == means_b.shape == sds_b.shape:
        raise ValueError(
            "means and sds of both engines must have one shape (dataset, parameter), got "
            f"{means_a.shape}, {sds_a.shape}, {means_b.shape}, {sds_b.shape}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return MomentAgreement(
            shift=np.abs(means_a - means_b) / _pooled(sds_a, sds_b),
            log_sd_ratio=np.log(sds_a) - np.log(sds_b),
        )


def pairwise_agreement(moments: Mapping[str, Moments]) -> dict[tuple[str, str], MomentAgreement]:
    """Compare every two engines; keys are pairs of names in the order of ``moments``."""
    return {(a, b): moment_agreement(*moments[a], *moments[b]) for a, b in itertools.combinations(moments, 2)}


def wasserstein(
    draws_a: ArrayLike,
    draws_b: ArrayLike,
    log_weights_a: ArrayLike | None = None,
    log_weights_b: ArrayLike | None = None,
) -> Array:
    """Wasserstein-1 distance of marginals, ``int |F_a - F_b| dx``, in pooled sd.

    Exact for the two samples, which may differ in size. Samples are never at distance 0: two of ``n``
    independent draws of one normal lie about ``1.8 / sqrt(n)`` apart, so compare with that, at the smaller
    effective size.

    Parameters
    ----------
    draws_a, draws_b
        Shapes ``(..., n)`` and ``(..., m)``, the leading (data set, parameter) axes equal.
    log_weights_a, log_weights_b
        Log weights of the draws, of shapes that broadcast to theirs; equal weights by default. ``-inf``
        leaves a draw out, so padding needs ``-inf`` here and may be NaN there.

    Returns
    -------
    ndarray
        Shape ``(...)``. NaN where a draw with mass is NaN, where an engine has no usable weights or one
        draw, and where both samples are the same point; infinite where they are two different points.
    """
    a, b = np.asarray(draws_a), np.asarray(draws_b)
    if a.ndim < 1 or b.ndim < 1 or a.shape[:-1] != b.shape[:-1]:
        raise ValueError(
            f"draws must have shapes (..., n) and (..., m) with equal leading axes, got {a.shape} and {b.shape}"
        )
    weights_a, weights_b = _broadcast_weights(log_weights_a, a), _broadcast_weights(log_weights_b, b)
    leading = a.shape[:-1]
    if not leading:
        a, b, weights_a, weights_b = a[None], b[None], weights_a[None], weights_b[None]
    result = np.empty(a.shape[:-1])
    for block in leading_blocks(len(a), math.prod(a.shape[1:]) + math.prod(b.shape[1:])):
        result[block] = _wasserstein(a[block], b[block], weights_a[block], weights_b[block])
    return result.reshape(leading)


def _wasserstein(draws_a: NDArray, draws_b: NDArray, log_weights_a: NDArray, log_weights_b: NDArray) -> Array:
    mass_a, mass_b = normalised_weights(log_weights_a), normalised_weights(log_weights_b)
    # A draw without mass moves no distribution wherever it stands, so it may stand at 0 rather than NaN.
    a = np.where(mass_a == 0.0, 0.0, draws_a.astype(np.float64))
    b = np.where(mass_b == 0.0, 0.0, draws_b.astype(np.float64))
    values, mass = np.concatenate([a, b], axis=-1), np.concatenate([mass_a, -mass_b], axis=-1)
    order = np.argsort(values, axis=-1)
    gaps = np.diff(np.take_along_axis(values, order, -1), axis=-1)
    difference = np.cumsum(np.take_along_axis(mass, order, -1), axis=-1)[..., :-1]
    distance = (np.abs(difference) * gaps).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return distance / _pooled(weighted_sd(a, log_weights_a), weighted_sd(b, log_weights_b))


def _broadcast_weights(log_weights: ArrayLike | None, draws: NDArray) -> NDArray:
    return np.broadcast_to(0.0 if log_weights is None else np.asarray(log_weights, dtype=np.float64), draws.shape)


def _pooled(sd_a: Array, sd_b: Array) -> Array:
    return np.sqrt(0.5 * (sd_a**2 + sd_b**2))


def _finite(figure: Array) -> Array:
    return np.where(np.isfinite(figure), figure, np.nan)
