"""Draws chosen by their weights, tempered or not: with copies, or each once."""

from __future__ import annotations

import numpy as np

from chainsweep.numerics.arrays import Floats, Ints

LEAST_LOG_POWER = -27.0
"""The log of the smallest power that weights are raised to."""
TEMPER_STEPS = 30
"""The number of times that the range of the log power is halved, which then is known to 3e-8."""


def systematic(log_weights: Floats, count: int, uniform: float) -> Ints:
    """Return ``count`` positions by systematic resampling: equally weighted draws, with copies.

    Position ``k`` comes ``floor(count w_k)`` or ``ceil(count w_k)`` times. Positions ascend, so copies are neighbours:
    shuffle before cutting the result into pieces.

    Parameters
    ----------
    log_weights
        Shape ``(draw,)``, of which at least one is finite; -inf and NaN are draws without mass.
    count
        The number of positions, at least 1.
    uniform
        A uniform number in ``[0, 1)``.

    Raises
    ------
    ValueError
        There are no usable weights, or an argument is out of its range.

    Reference: Douc, Cappe & Moulines (2005), doi:10.1109/ISPA.2005.195385.
    """
    top = np.max(log_weights, where=np.isfinite(log_weights), initial=-np.inf)
    if count < 1 or not 0.0 <= uniform < 1.0 or not np.isfinite(top):
        raise ValueError(
            f"resampling needs a count of at least 1 (got {count}), a number in [0, 1) (got {uniform}) and weights of "
            f"which at least one is finite (got {log_weights.size}, the largest {top})"
        )
    edges = np.cumsum(np.nan_to_num(np.exp(log_weights - top), nan=0.0, posinf=0.0))
    # Rounding may lift a place to 1; the last edge with mass is exactly 1, so no draw behind it is taken.
    places = np.minimum((np.arange(count) + uniform) / count, np.nextafter(1.0, 0.0))
    return np.searchsorted(edges / edges[-1], places, side="right")


def distinct(log_weights: Floats, power: float, count: int, generator: np.random.Generator) -> Ints:
    """Return at most ``count`` positions without replacement, by weights raised to ``power`` (Gumbel top-k).

    Positions whose weight is not finite come last, in ascending order.

    Reference: T. Vieira, Gumbel-max trick and weighted reservoir sampling (2014).
    """
    finite = np.isfinite(log_weights)
    tempered = np.where(finite, power * np.where(finite, log_weights, 0.0), -np.inf)
    return np.argsort(-(tempered + generator.gumbel(size=len(log_weights))), kind="stable")[:count]


def temper(log_weights: Floats, effective: float, steps: int = TEMPER_STEPS) -> Floats:
    """Return the largest powers, at most 1, that leave at least ``effective`` effective draws, ``(dataset,)``.

    Parameters
    ----------
    log_weights
        Shape ``(dataset, draw)``; draws whose weight is not finite count for nothing. Where none is, the power is 0.
    effective
        The number of effective draws (Kish). Where no power gives as many, the power is the smallest.
    steps
        The number of bisections of the log power.
    """
    finite = np.isfinite(log_weights)
    top = np.max(log_weights, axis=1, where=finite, initial=-np.inf, keepdims=True)
    relative = np.where(finite, log_weights - np.where(np.isfinite(top), top, 0.0), -np.inf)
    low, high = np.full(len(relative), LEAST_LOG_POWER), np.zeros(len(relative))
    enough = effective_draws(relative, np.ones(len(relative))) >= effective
    for _ in range(steps):
        middle = 0.5 * (low + high)
        good = effective_draws(relative, np.exp(middle)) >= effective
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(enough, 1.0, np.where(finite.any(axis=1), np.exp(low), 0.0))


def effective_draws(relative: Floats, powers: Floats) -> Floats:
    """Return the effective number of draws ``(dataset,)`` of weights to positive ``powers`` ``(dataset,)``.

    ``relative`` ``(dataset, draw)`` are log weights less the largest of their data set.
    """
    weights = relative * powers[:, None]
    np.exp(weights, out=weights)
    total, squares = weights.sum(axis=1), np.einsum("dn,dn->d", weights, weights)
    return np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)
