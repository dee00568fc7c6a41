"""Generalised Pareto fits of the largest importance weights, and the smoothing of those weights by them.

The tail is the ``min(n / 5, 3 sqrt(n))`` largest of ``n`` weights; the k-hat of its distribution says how
many moments the weights have (``1 / k``), and its quantiles replace the tail.

Reference: J. Zhang, M. Stephens, A new and efficient estimation method for the generalized Pareto
distribution, Technometrics 51, 316 (2009). A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, Pareto
smoothed importance sampling, JMLR 25 (72), 1 (2024).
"""

from __future__ import annotations

import math

import numpy as np

from chainsweep.numerics.arrays import Floats

MIN_TAIL = 5
"""Fewest draws in the tail that a distribution is fitted to."""
LOG_TINY = math.log(np.finfo(np.float64).tiny)
EQUAL_LOG_WEIGHTS = 1e-9
"""Log weights within this range are equal: what is left is the rounding of two log densities."""


def tail_length(n_draws: int) -> int:
    """The number of the largest weights of ``n_draws`` that make the tail."""
    return math.ceil(min(n_draws / 5.0, 3.0 * math.sqrt(n_draws)))


def smooth_tails(shifted: Floats) -> Floats:
    """Replace, in place, the right tail of each row by its smoothed values; return k-hat, shape ``(row,)``.

    ``shifted`` is ``(row, draw)``: log weights less their largest, so 0 at most and at least once, with no
    NaN. k-hat is ``inf`` where the tail is too short or cannot be fitted, 0 where all weights are equal;
    such rows stay.
    """
    n_rows, n_draws = shifted.shape
    khat = np.full(n_rows, np.inf)
    equal = shifted.min(axis=-1, initial=0.0) >= -EQUAL_LOG_WEIGHTS
    khat[equal] = 0.0
    size = tail_length(n_draws)
    if size < MIN_TAIL:
        return khat
    where = np.argpartition(shifted, n_draws - size - 1, axis=-1)[:, n_draws - size - 1 :]
    cutoff = np.maximum(np.take_along_axis(shifted, where[:, :1], -1), LOG_TINY)
    where = np.take_along_axis(where, np.argsort(np.take_along_axis(shifted, where, -1), axis=-1), -1)
    tail = np.take_along_axis(shifted, where, -1)
    # Ties with the cutoff shorten a tail: rows with tails of one length are fitted together.
    lengths = np.where(equal, 0, (tail > cutoff).sum(axis=-1))
    for length in np.unique(lengths[lengths >= MIN_TAIL]):
        rows = np.flatnonzero(lengths == length)
        floor = np.exp(cutoff[rows])
        k, sigma = _fit_pareto(np.exp(tail[rows, -length:]) - floor)
        fitted = np.isfinite(k) & (sigma > 0.0)
        rows, k, sigma, floor = rows[fitted], k[fitted], sigma[fitted], floor[fitted]
        khat[rows] = k
        smoothed = np.log(_pareto_quantiles(length, k, sigma) + floor)
        shifted[rows[:, None], where[rows, -length:]] = np.minimum(smoothed, 0.0)
    return khat


def _fit_pareto(excess: Floats) -> tuple[Floats, Floats]:
    """Shape and scale of generalised Pareto distributions, from ascending excesses ``(row, draw)``.

    Zhang and Stephens' posterior mean over a grid of ``b = -k / sigma``, then k shrunk towards 0.5 with the
    weight of 10 draws. NaN where the excesses are too degenerate for a fit.
    """
    n_draws = excess.shape[-1]
    n_grid = 30 + math.isqrt(n_draws)
    grid = 1.0 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))
    quartile, largest = excess[:, int(n_draws / 4 + 0.5) - 1, None], excess[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        b = grid / (3.0 * quartile) + 1.0 / largest
        k = np.log1p(-b[:, :, None] * excess[:, None, :]).mean(axis=-1)
        likelihood = n_draws * (np.log(-b / k) - k - 1.0)
        likelihood = np.where(np.isfinite(likelihood), likelihood, -np.inf)
        weights = np.exp(likelihood - likelihood.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        weights[weights < 10.0 * np.finfo(np.float64).eps] = 0.0
        weights /= weights.sum(axis=-1, keepdims=True)
        b_mean = np.where(weights > 0.0, b * weights, 0.0).sum(axis=-1)
        k_mean = np.log1p(-b_mean[:, None] * excess).mean(axis=-1)
        sigma = -k_mean / b_mean
    return (n_draws * k_mean + 5.0) / (n_draws + 10.0), sigma


def _pareto_quantiles(count: int, k: Floats, sigma: Floats) -> Floats:
    """Quantiles ``(row, count)`` at the midpoints ``(i + 1/2) / count``."""
    survival = np.log1p(-np.arange(0.5, count) / count)
    shape = np.where(np.abs(k) < np.finfo(np.float64).eps, 1.0, k)[:, None]
    # weights so degenerate that a quantile is too large for a number are cut back to the largest by the caller
    with np.errstate(over="ignore"):
        curved = np.expm1(-shape * survival) / shape
    straight = np.abs(k)[:, None] < np.finfo(np.float64).eps
    return sigma[:, None] * np.where(straight, -survival, curved)
