"""Cut leading (data set, parameter) axes into blocks, so that memory is bounded whatever the sweep's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from chainsweep.numerics.arrays import Floats

BLOCK_ELEMENTS = 2**19
"""Numbers of one block: 4 MiB of float64, so that the temporaries of a diagnostic stay in the tens of MiB."""

Kernel = Callable[[NDArray[Any]], Floats]


def leading_blocks(length: int, elements_per_item: int) -> Iterator[slice]:
    """Slices that cover ``range(length)``, each of about ``BLOCK_ELEMENTS`` numbers and at least one item."""
    step = max(1, BLOCK_ELEMENTS // max(1, elements_per_item))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def map_rows(kernel: Kernel, array: ArrayLike, core_ndim: int, dtype: DTypeLike = np.float64) -> Floats:
    """Apply ``kernel`` to the last ``core_ndim`` axes of ``array``, vectorised over all axes before them.

    ``kernel`` maps ``(row, *core)`` of ``dtype`` to ``(row, *result)``; the result is ``(*leading,
    *result)``. Only one block at a time is converted and made contiguous, so a view or another type is never
    copied whole.
    """
    values = np.asarray(array)
    leading, core = values.shape[: values.ndim - core_ndim], values.shape[values.ndim - core_ndim :]
    items = values if leading else values[None]
    parts = [
        kernel(np.ascontiguousarray(items[block], dtype=dtype).reshape(-1, *core))
        for block in leading_blocks(len(items), math.prod(items.shape[1:]))
    ]
    rows = np.concatenate(parts) if parts else kernel(np.empty((0, *core), dtype=dtype))
    return rows.reshape((*leading, *rows.shape[1:]))


def by_length(n_draws: ArrayLike, available: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Pairs ``(length, positions)``: the data sets that share a number of draws, shortest first, without 0.

    Parameters
    ----------
    n_draws
        Draws of each data set, shape ``(dataset,)``, integers in ``[0, available]``.
    available
        Length of the (padded) draw axis.

    Raises
    ------
    ValueError
        A length is negative or longer than the draw axis.
    """
    lengths = np.asarray(n_draws)
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= available):
        raise ValueError(
            f"n_draws must lie between 0 and the length of the draw axis, {available}; "
            f"got values from {lengths.min()} to {lengths.max()}"
        )
    for length in np.unique(lengths[lengths > 0]):
        yield int(length), np.flatnonzero(lengths == length)
