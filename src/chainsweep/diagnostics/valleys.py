"""A valley in draws of one quantity: two heaps of draws with next to none between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chainsweep.numerics.arrays import Bools, Floats

BINS = 20
"""The number of bins of the histogram in which a valley is looked for."""
LEAST_HEAP = 0.03
"""The least share of the draws in the highest bin of a heap."""
DEEPEST = 0.2
"""The largest share of the lower heap's highest bin that the lowest bin between two heaps may hold."""


class Valley(NamedTuple):
    """The deepest valley of one quantity: ``left`` and ``right`` choose the draws in the highest bins beside it."""

    depth: float
    """The share of the lower heap's highest bin that the lowest bin between has, 0 to ``DEEPEST``."""
    left: Bools
    right: Bools


def deepest_valley(values: Floats) -> Valley | None:
    """Return the deepest valley in draws ``(draw,)``; None if there is none, or a value is not finite.

    The histogram covers the central 98 % of the draws; those beyond count in its first and last bin.
    """
    if len(values) < 2 * BINS or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [0.01, 0.99])
    if not high > low:
        return None
    place = np.clip((values - low) / (high - low) * BINS, 0, BINS - 1).astype(int)
    counts = np.bincount(place, minlength=BINS)
    best: tuple[float, int, int] | None = None
    for middle in range(1, BINS - 1):
        left, right = int(np.argmax(counts[:middle])), middle + 1 + int(np.argmax(counts[middle + 1 :]))
        lower = min(counts[left], counts[right])
        if lower < LEAST_HEAP * len(values) or counts[middle] > DEEPEST * lower:
            continue
        found = (float(counts[middle] / lower), left, right)
        best = found if best is None or found < best else best
    return None if best is None else Valley(best[0], place == best[1], place == best[2])
