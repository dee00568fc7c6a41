"""Draws chosen by their weights: with copies, or each once."""

from __future__ import annotations

import numpy as np

from chainsweep.numerics.arrays import Floats, Ints


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
