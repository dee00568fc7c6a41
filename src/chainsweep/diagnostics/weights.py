"""Importance weights: Pareto k-hat, effective sample size, evidence, weighted figures, resampling.

Everywhere the last axis is the draw, ``log_weights`` is ``log p(theta) - log q(theta)`` up to a constant
(the evidence alone needs the constant), ``-inf`` is a draw outside the support, which counts as a draw but
carries no mass, and a data set *without usable weights* (all ``-inf``, any NaN, any ``+inf``) gives NaN
and changes the result of no other.

Reference: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, Pareto smoothed importance sampling, JMLR 25
(72), 1 (2024).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainsweep.diagnostics.blocks import map_rows
from chainsweep.diagnostics.pareto import EQUAL_LOG_WEIGHTS, smooth_tails, tail_length
from chainsweep.numerics.arrays import Floats

ONE_SIDED_95 = 1.645
"""Standard errors of k-hat, of which one is ``(1 + k) / sqrt(tail)``, below an upper limit of 95 % confidence."""


def psis_khat(log_weights: ArrayLike) -> tuple[Floats, Floats]:
    """Pareto k-hat and smoothed weights (``arviz.psislw`` with ``reff=1``).

    Below 0.7 the weights may be trusted; above, their mean has no usable rate of convergence.

    Parameters
    ----------
    log_weights
        Shape ``(..., draw)``.

    Returns
    -------
    khat
        Shape ``(...)``. ``inf`` where the tail has fewer than 5 distinct draws or the fit fails (weights
        then stay as they are), 0 where all weights are equal, the perfect proposal (ArviZ says ``inf``), NaN
        without usable weights.
    smoothed
        Normalised smoothed log weights, shape ``(..., draw)``: their exponentials sum to 1. NaN without
        usable weights.
    """
    result = map_rows(_psis_rows, _checked(log_weights), core_ndim=1)
    return result[..., 0], result[..., 1:]


def normalised_weights(log_weights: ArrayLike) -> Floats:
    """Weights that sum to 1 along the last axis; NaN without usable weights."""
    values = _checked(log_weights)
    top = values.max(axis=-1, keepdims=True)
    usable = np.isfinite(top)
    weights = np.exp(np.where(usable, values - np.where(usable, top, 0.0), np.nan))
    return weights / weights.sum(axis=-1, keepdims=True)


def effective_sample_size(log_weights: ArrayLike) -> Floats:
    """Kish's ``(sum w)^2 / sum w^2``, shape ``(...)``, between 1 and the number of draws."""
    return map_rows(lambda rows: 1.0 / (normalised_weights(rows) ** 2).sum(axis=-1), _checked(log_weights), 1)


def ess_lower_bound(log_weights: ArrayLike, khat: ArrayLike) -> Floats:
    """The effective sample size, shape ``(...)``, that weights have at 95 % confidence; 0 where there is none.

    Kish's number needs the mean of the squared weights, most of which the largest weight to come may hold. Here the
    tail's part is that of a generalised Pareto distribution with the tail's mean and the upper limit of its k-hat:
    above 0.5 the squares have no mean.

    Parameters
    ----------
    log_weights
        Shape ``(..., draw)``.
    khat
        k-hat of the same weights, shape ``(...)``, from ``psis_khat``.
    """
    values = _checked(log_weights)
    together = np.concatenate([np.asarray(khat, np.float64)[..., None], values], axis=-1)
    return map_rows(lambda rows: _ess_lower_bound_rows(rows[:, 0], rows[:, 1:]), together, 1)


def efficiency(log_weights: ArrayLike) -> Floats:
    """Effective sample size per draw, shape ``(...)``, in ``(0, 1]``."""
    return effective_sample_size(log_weights) / np.shape(log_weights)[-1]


def log_evidence(log_weights: ArrayLike) -> tuple[Floats, Floats]:
    """Log of the mean weight and its standard error, both of shape ``(...)``.

    The error is the relative Monte-Carlo error of the mean weight, ``sd(w) / (mean(w) sqrt(n))``; it is
    reliable only where k-hat is below 0.7. NaN for a single draw. Needs raw weights: smoothed ones are
    normalised.
    """
    result = map_rows(_log_evidence_rows, _checked(log_weights), core_ndim=1)
    return result[..., 0], result[..., 1]


def weighted_mean(values: ArrayLike, log_weights: ArrayLike) -> Floats:
    """Weighted mean along the last axis; arguments broadcast. Values of draws without mass are ignored."""
    massive, weights = _with_mass(values, log_weights)
    return (weights * massive).sum(axis=-1)


def weighted_sd(values: ArrayLike, log_weights: ArrayLike) -> Floats:
    """Weighted standard deviation along the last axis, ``ddof=1`` for equal weights.

    ``sum w (x - m)^2 / (1 - sum w^2)``; NaN where one draw holds all mass.
    """
    massive, weights = _with_mass(values, log_weights)
    squares = (massive - (weights * massive).sum(axis=-1, keepdims=True)) ** 2
    freedom = 1.0 - (weights**2).sum(axis=-1)
    variance = (weights * squares).sum(axis=-1) / np.where(freedom > 0.0, freedom, np.nan)
    return np.sqrt(variance)


def weighted_quantile(values: ArrayLike, log_weights: ArrayLike, q: ArrayLike) -> Floats:
    """Weighted quantiles along the last axis, for equal weights ``numpy.quantile`` (linear).

    The ``k``-th smallest draw is at ``(S_k - w_k / 2 - w_1 / 2) / (1 - w_1 / 2 - w_n / 2)``, ``S`` the
    cumulated weight; between draws the quantile is linear.

    Parameters
    ----------
    values, log_weights
        Shapes that broadcast to ``(..., draw)``. Draws without mass are ignored, whatever their value.
    q
        Probabilities in ``[0, 1]``, a number or shape ``(m,)``.

    Returns
    -------
    ndarray
        Shape ``(...)`` or ``(m, ...)``. NaN without usable weights or where a draw with mass is NaN.
    """
    probabilities = np.asarray(q, dtype=np.float64)
    if probabilities.ndim > 1 or not ((probabilities >= 0.0) & (probabilities <= 1.0)).all():
        raise ValueError(f"q must be a number or a list of numbers in [0, 1], got {probabilities}")
    massive, weights = _with_mass(values, log_weights)
    has_mass = weights > 0.0
    order = np.argsort(np.where(has_mass, massive, np.inf), axis=-1)
    ordered, mass = np.take_along_axis(massive, order, -1), np.take_along_axis(weights, order, -1)
    final = np.maximum(has_mass.sum(axis=-1, keepdims=True) - 1, 0)
    first_mass, final_mass = mass[..., :1], np.take_along_axis(mass, final, -1)
    span = 1.0 - 0.5 * (first_mass + final_mass)
    place = (np.cumsum(mass, axis=-1) - 0.5 * mass - 0.5 * first_mass) / np.where(span > 0.0, span, 1.0)
    broken = np.isnan(weights).any(axis=-1) | np.isnan(massive).any(axis=-1)
    result = np.stack([_between(ordered, place, final, p) for p in np.atleast_1d(probabilities)])
    return np.where(broken, np.nan, result).reshape(probabilities.shape + result.shape[1:])


def _checked(log_weights: ArrayLike) -> Floats:
    values = np.asarray(log_weights, dtype=np.float64)
    if values.ndim < 1 or values.shape[-1] == 0:
        raise ValueError(f"log_weights must have shape (..., draw) with at least one draw, got shape {values.shape}")
    return values


def _with_mass(values: ArrayLike, log_weights: ArrayLike) -> tuple[Floats, Floats]:
    """Values, 0 where there is no mass, and normalised weights, broadcast to one shape."""
    massive, weights = np.broadcast_arrays(np.asarray(values, dtype=np.float64), normalised_weights(log_weights))
    return np.where(weights == 0.0, 0.0, massive), weights


def _between(ordered: Floats, place: Floats, final: NDArray[np.intp], p: float) -> Floats:
    """Linear interpolation of ``ordered`` at ``place == p``, rows together."""
    left = np.clip((place <= p).sum(axis=-1, keepdims=True) - 1, 0, final)
    right = np.minimum(left + 1, final)
    low, high = np.take_along_axis(ordered, left, -1), np.take_along_axis(ordered, right, -1)
    start = np.take_along_axis(place, left, -1)
    width = np.take_along_axis(place, right, -1) - start
    share = np.clip((p - start) / np.where(width > 0.0, width, 1.0), 0.0, 1.0)
    return (low + share * (high - low))[..., 0]


def _log_evidence_rows(rows: Floats) -> Floats:
    n_draws = rows.shape[-1]
    weights = normalised_weights(rows)
    top = rows.max(axis=-1)
    # The largest weight is exp(top) / sum, so this is the log of the sum without a second pass.
    log_sum = np.where(np.isfinite(top), top, np.nan) - np.log(weights.max(axis=-1))
    spread = np.maximum(n_draws * (weights**2).sum(axis=-1) - 1.0, 0.0)
    error = np.sqrt(spread / (n_draws - 1.0)) if n_draws > 1 else np.full(len(rows), np.nan)
    return np.stack([log_sum - math.log(n_draws), error], axis=-1)


def _ess_lower_bound_rows(khat: Floats, rows: Floats) -> Floats:
    weights = normalised_weights(rows)
    size = tail_length(rows.shape[-1])
    ordered = np.sort(weights, axis=-1)
    rest, tail = ordered[:, :-size], ordered[:, -size:]
    equal = ordered[:, -1] <= ordered[:, 0] * (1.0 + EQUAL_LOG_WEIGHTS)
    k = np.where(equal, khat, khat + ONE_SIDED_95 * np.maximum(1.0 + khat, 0.5) / math.sqrt(size))
    heavy = ~(k < 0.5)
    k = np.where(heavy, 0.0, k)
    floor = rest[:, -1] if rest.shape[-1] else tail[:, 0]
    excess = tail.mean(axis=-1) - floor
    squares = (floor + excess) ** 2 + excess**2 / (1.0 - 2.0 * k)
    total = (rest**2).sum(axis=-1) + size * np.maximum(squares, (tail**2).mean(axis=-1))
    return np.where(heavy, np.where(np.isnan(weights[:, 0]), np.nan, 0.0), 1.0 / total)


def _psis_rows(rows: Floats) -> Floats:
    """The k-hat and smoothed log weights of ``(row, draw)``, side by side as ``(row, 1 + draw)``."""
    result = np.full((len(rows), rows.shape[-1] + 1), np.nan)
    top = rows.max(axis=-1, initial=-np.inf)
    usable = np.isfinite(top)
    shifted = rows[usable] - top[usable, None]
    khat = smooth_tails(shifted)
    result[usable, 0] = khat
    result[usable, 1:] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
