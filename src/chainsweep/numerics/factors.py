"""Cholesky factors of stacks of covariances, of which rounding may leave one indefinite."""

from __future__ import annotations

import numpy as np

from chainsweep.numerics.arrays import Floats

WIDENED = 10.0 ** np.arange(-14.0, 1.0)
"""The widths that are added, one after the other, to the diagonal of a correlation matrix until it has a factor."""

RIDGE = 1e-12
"""The share of its largest variance that is added to the diagonal of a singular covariance."""


def cholesky_factors(covariance: Floats) -> Floats:
    """Cholesky factors of covariances ``(..., n, n)``.

    A matrix that is not positive definite gets the least of ``WIDENED`` on its diagonal that gives it a factor; the
    other matrices of the stack stay as they are. NaN where a matrix has entries that are not finite.
    """
    try:
        return np.asarray(np.linalg.cholesky(covariance), float)
    except np.linalg.LinAlgError:
        matrices = np.reshape(covariance, (-1, *covariance.shape[-2:]))
        return np.reshape([_widened(matrix) for matrix in matrices], covariance.shape)


def inverses(covariance: Floats) -> Floats:
    """Inverses of covariances ``(..., n, n)``; a singular one is widened first, by `RIDGE` of its largest variance."""
    try:
        return np.asarray(np.linalg.inv(covariance), float)
    except np.linalg.LinAlgError:
        matrices = np.reshape(covariance, (-1, *covariance.shape[-2:]))
        return np.reshape([_inverse(matrix) for matrix in matrices], covariance.shape)


def _inverse(covariance: Floats) -> Floats:
    try:
        return np.asarray(np.linalg.inv(covariance), float)
    except np.linalg.LinAlgError:
        width = RIDGE * (np.diagonal(covariance).max() or 1.0)
        return np.asarray(np.linalg.inv(covariance + width * np.eye(len(covariance))), float)


def _widened(covariance: Floats) -> Floats:
    if not np.isfinite(covariance).all():
        return np.full(covariance.shape, np.nan)
    scale = np.sqrt(np.maximum(np.diagonal(covariance), 1e-300))
    correlation, one = covariance / scale[:, None] / scale, np.eye(len(scale))
    factor = _factor(covariance)
    for width in WIDENED:
        if factor is not None:
            return factor
        wider = _factor(correlation + width * one)
        factor = None if wider is None else scale[:, None] * wider
    return np.diag(scale) if factor is None else factor


def _factor(matrix: Floats) -> Floats | None:
    try:
        return np.asarray(np.linalg.cholesky(matrix), float)
    except np.linalg.LinAlgError:
        return None
