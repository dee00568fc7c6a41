"""Types of arrays, arrays by name, and names with prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
"""A NumPy or JAX array, or one that JAX traces."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Arrays = dict[str, NDArray]


def with_prefix(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The same arrays under ``prefix/``."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def strip_prefix(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The arrays under ``prefix/``, without it."""
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
