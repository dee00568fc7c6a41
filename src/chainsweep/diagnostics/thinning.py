"""Selection of a bounded number of draws that leaves every mean over them unbiased."""

from __future__ import annotations

import numpy as np

from chainsweep.numerics.arrays import Floats, Ints


def even_indices(length: int, keep: int) -> Ints:
    """At most ``keep`` evenly spaced indices of ``length`` draws, the last one always among them."""
    if length <= keep:
        return np.arange(length)
    return (np.arange(1, keep + 1) * length) // keep - 1


def optimal_resample(log_weights: Floats, keep: int, uniform: float) -> tuple[Ints, Floats]:
    """Choose at most ``keep`` weighted draws so that every weighted sum stays unbiased, with least variance.

    Draws heavier than a threshold ``c`` stay as they are; the others survive with probability ``w / c``, chosen
    by systematic sampling with one ``uniform`` in [0, 1), and then weigh ``c``.

    Returns
    -------
    tuple
        Ascending indices and their log weights on the scale of ``log_weights``; no index appears twice. Draws
        of weight 0 are dropped when there are more draws than ``keep``.

    Reference: Fearnhead & Clifford 2003, doi:10.1111/1467-9868.00421.
    """
    if len(log_weights) <= keep or not np.isfinite(log_weights).any():
        return np.arange(min(len(log_weights), keep)), log_weights[:keep]
    top = log_weights[np.isfinite(log_weights)].max()
    weights = np.where(np.isfinite(log_weights), np.exp(log_weights - top), 0.0)
    if np.count_nonzero(weights) <= keep:
        index = np.flatnonzero(weights)
        return index, log_weights[index]
    threshold = _threshold(weights, keep)
    chance = np.minimum(weights / threshold, 1.0)
    ticks = np.floor(np.cumsum(chance) + uniform - 1e-12 * keep)
    index = np.flatnonzero((np.diff(ticks, prepend=np.floor(uniform)) > 0) | (chance >= 1.0))
    return index, np.log(np.maximum(weights[index], threshold)) + top


def _threshold(weights: Floats, keep: int) -> float:
    """The ``c`` with ``sum(min(w / c, 1)) = keep``: the number of heavier draws is found by a sorted scan."""
    ordered = np.sort(weights)[::-1]
    tail = ordered.sum() - np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    for heavier in range(keep):
        candidate = tail[heavier] / (keep - heavier)
        if ordered[heavier] <= candidate:
            return float(candidate)
    return float(ordered[keep - 1])
