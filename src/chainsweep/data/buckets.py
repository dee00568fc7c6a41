r"""Shape buckets: a few padded widths for many lengths.

With sorted distinct lengths u_1 < ... < u_k, counts c_i and at most B buckets, each bucket a run (i, j] of
lengths padded to u_j, minimise

    sum over buckets of  sum_{m in (i, j]} c_m (u_j - u_m).

The cost of a run obeys the quadrangle inequality, so the best start of the last run never moves left as j
grows, and divide and conquer finds the exact minimum in O(B k log k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainsweep.numerics.arrays import Ints

WIDTH_COSTS = 50
"""A width of its own costs about as much, in compiling and tracing, as computing this number of data sets."""


@dataclass(frozen=True)
class Bucket:
    """Data sets that share one padded width; ``positions`` ascend."""

    width: int
    positions: Ints


def plan_buckets(lengths: ArrayLike, max_buckets: int, paddable: bool = True) -> list[Bucket]:
    """Group data sets into at most ``max_buckets`` widths with the least total padding, narrowest first.

    Without padding (``paddable=False``) each distinct length is a separate bucket, whatever ``max_buckets`` is.

    Raises
    ------
    ValueError
        ``max_buckets`` is below 1.
    """
    if max_buckets < 1:
        raise ValueError(f"max_buckets must be at least 1, got {max_buckets}")
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size == 0:
        return []
    distinct, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    if len(distinct) <= max_buckets or not paddable:
        ends = np.arange(1, len(distinct) + 1)
    else:
        ends = _best_ends(distinct, counts, max_buckets)
    bucket_of = np.searchsorted(ends, np.arange(len(distinct)), side="right")[inverse]
    order = np.argsort(bucket_of, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(bucket_of, minlength=len(ends)))[:-1])
    return [Bucket(int(distinct[end - 1]), positions) for end, positions in zip(ends, groups, strict=True)]


def padded_widths(buckets: Sequence[Bucket]) -> list[int]:
    """Return the width that the data sets of each bucket are padded to.

    It is that of a wider bucket where the padding costs less than the programs of one width more
    (``WIDTH_COSTS``): a few data sets share one width, and of many each bucket has its own.
    """
    widths = np.array([bucket.width for bucket in buckets], np.int64)
    counts = np.array([bucket.positions.size for bucket in buckets], np.int64)
    best, least = widths, np.inf
    for number in range(1, len(buckets) + 1):
        ends = _best_ends(widths, counts, number)
        padded = widths[ends[np.searchsorted(ends, np.arange(len(widths)), side="right")] - 1]
        padding = float(counts @ (padded - widths) / np.average(widths, weights=counts))
        if padding + WIDTH_COSTS * number < least:
            best, least = padded, padding + WIDTH_COSTS * number
    return best.tolist()


def _best_ends(distinct: Ints, counts: NDArray, buckets: int) -> Ints:
    """Return the ends (exclusive, into ``distinct``) of the runs of the cheapest split into ``buckets`` runs."""
    number = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    points = np.concatenate([[0], np.cumsum(counts * distinct)]).astype(np.int64)
    last = np.concatenate([[0], distinct])
    cost = last * number - points
    choices = []
    for layer in range(1, buckets):
        cost, choice = _next_layer(cost, number, points, last, layer)
        choices.append(choice)
    ends = [len(distinct)]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return np.array(ends[::-1], dtype=np.int64)


def _next_layer(
    cost: Ints,
    number: Ints,
    points: Ints,
    last: Ints,
    used: int,
) -> tuple[Ints, Ints]:
    """Return the lowest cost of the first j lengths with one run more than ``used``, and the start of that run.

    The first j <= used lengths cannot be split into that number of runs; these entries stay 0 and are never read.
    """
    best = np.zeros_like(cost)
    choice = np.zeros_like(cost)
    stack = [(used + 1, len(cost) - 1, used, len(cost) - 2)]
    while stack:
        low, high, first, final = stack.pop()
        if low > high:
            continue
        middle = (low + high) // 2
        starts = np.arange(first, min(final, middle - 1) + 1)
        padded = last[middle] * (number[middle] - number[starts]) - (points[middle] - points[starts])
        totals = cost[starts] + padded
        winner = int(np.argmin(totals))
        best[middle], choice[middle] = totals[winner], starts[winner]
        stack.append((low, middle - 1, first, int(starts[winner])))
        stack.append((middle + 1, high, int(starts[winner]), final))
    return best, choice
