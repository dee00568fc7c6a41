"""Random keys of JAX's default generator, computed on the host: no program is compiled for them.

Reference: J. Salmon, M. Moraes, R. Dror, D. Shaw, Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainsweep.numerics.arrays import Floats

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def threefry(first: Any, second: Any, high: Any, low: Any) -> tuple[Any, Any]:
    """Threefry of 20 rounds: encrypt the counters with halves ``high`` and ``low`` by the two words of a key.

    All arguments are 32-bit arrays of one library, NumPy's or JAX's, that broadcast.
    """
    keys = first, second, first ^ second ^ PARITY
    high, low = high + keys[0], low + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            high = high + low
            low = ((low << np.uint32(rotation)) | (low >> np.uint32(32 - rotation))) ^ high
        high = high + keys[(block + 1) % 3]
        low = low + keys[(block + 2) % 3] + np.uint32(block + 1)
    return high, low


def split_keys(keys: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """The result of ``jax.random.split(key, count)`` for raw keys ``(dataset, 2)``, shape ``(dataset, count, 2)``."""
    counter = np.arange(count, dtype=np.uint32)[None]
    keys = np.asarray(keys, np.uint32)
    return np.stack(threefry(keys[:, :1], keys[:, 1:], np.zeros_like(counter), counter), axis=-1)


def fold_keys(keys: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    """The result of ``jax.random.fold_in(key, number)`` for raw keys ``(..., 2)``."""
    keys, high = np.asarray(keys, np.uint32), np.zeros(np.shape(keys)[:-1], np.uint32)
    return np.stack(threefry(keys[..., 0], keys[..., 1], high, high + np.uint32(number)), axis=-1)


def uniform_of(keys: NDArray[np.uint32]) -> Floats:
    """A uniform number in (0, 1), without the ends, from each of the raw keys ``(..., 2)``."""
    keys, zero = np.asarray(keys, np.uint32), np.zeros(np.shape(keys)[:-1], np.uint32)
    return (threefry(keys[..., 0], keys[..., 1], zero, zero)[0] + 0.5) * 2.0**-32
