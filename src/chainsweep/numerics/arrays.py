"""Arrays by name, and names with prefixes."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import NDArray

Arrays = dict[str, NDArray]


def with_prefix(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The same arrays under ``prefix/``."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def strip_prefix(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The arrays under ``prefix/``, without it."""
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
