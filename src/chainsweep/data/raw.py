"""The result of a reader before the checks: columns of all data sets as they are in the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import DataError
from chainsweep.numerics.arrays import Bools, Floats, Ints

DEFAULT_ID_DIGITS = 6


class Place(NamedTuple):
    """A place in a source: a line of a text file (header = 1) or a 0-based row of an array or table."""

    file: str
    row: int | None


@dataclass(frozen=True)
class UnreadData:
    """The reason why the reader could not use one data set, and the place of the problem."""

    place: Place
    reason: str
    detail: str


@dataclass(frozen=True)
class Ragged:
    """One field of all data sets: ``values`` (point, ...) float64.

    Data set ``i`` owns ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: Floats
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        """The number of points of each data set, shape ``(dataset,)``."""
        return np.diff(self.offsets)

    @staticmethod
    def of_lengths(values: Floats, lengths: NDArray) -> Ragged:
        """Return a ragged view of flat ``values`` whose data sets follow each other with these lengths."""
        return Ragged(values, offsets_of(lengths))

    @staticmethod
    def of_rectangle(rectangle: Floats) -> Ragged:
        """Return a ragged view of an array of shape ``(dataset, point, ...)``."""
        datasets, width = rectangle.shape[:2]
        flat = rectangle.reshape(datasets * width, *rectangle.shape[2:])
        return Ragged(flat, np.arange(datasets + 1, dtype=np.int64) * width)


@dataclass(frozen=True)
class RawData:
    """Every data set of a source, usable or not.

    ``fields[name]`` may differ in lengths between names (a check says so); ``constants[name]`` has shape
    ``(dataset,)`` or ``(dataset, k)``, ``truth[parameter]`` shape ``(dataset, ...)`` with NaN where unknown.
    ``dataset_place`` and ``point_place`` find the file and row of a data set, or of one of its points (-1: the line or
    row before the first point). ``failures`` maps positions to the problems that the reader itself met. ``integers``
    names the fields that the source holds as integers, whatever their type here.
    """

    ids: Sequence[str | None]
    fields: Mapping[str, Ragged]
    constants: Mapping[str, Floats]
    truth: Mapping[str, Floats]
    dataset_place: Callable[[int], Place]
    point_place: Callable[[int, int], Place]
    failures: Mapping[int, UnreadData] = field(default_factory=dict)
    integers: frozenset[str] = frozenset()


def offsets_of(lengths: NDArray) -> Ints:
    """Return the offsets ``(n + 1,)`` of data sets with these lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def trim_padding(fields: Mapping[str, Ragged]) -> dict[str, Ragged]:
    """Cut the NaN tail that pads a rectangle, where all fields are NaN at once.

    Applies only when every data set has the same length in every field. A data set that is NaN throughout
    is left as it is, for the NaN check to name.
    """
    lengths = np.stack([ragged.lengths for ragged in fields.values()])
    width = int(lengths.flat[0]) if lengths.size else 0
    if width == 0 or (lengths != width).any():
        return dict(fields)
    datasets = lengths.shape[1]
    shaped = {name: r.values.reshape(datasets, width, *r.values.shape[1:]) for name, r in fields.items()}
    if not _all_nan([array[:, -1:] for array in shaped.values()]).any():
        return dict(fields)
    padding = _all_nan(list(shaped.values()))
    kept = width - np.argmax(~padding[:, ::-1], axis=1)
    real = np.arange(width) < kept[:, None]
    return {name: Ragged.of_lengths(array[real], kept) for name, array in shaped.items()}


def _all_nan(arrays: list[NDArray]) -> Bools:
    """True where each array of shape ``(dataset, point, ...)`` is NaN in all trailing entries."""
    result = np.ones(arrays[0].shape[:2], dtype=bool)
    for array in arrays:
        result &= np.isnan(array).all(axis=tuple(range(2, array.ndim)))
    return result


def default_ids(datasets: int) -> list[str]:
    """Return zero-padded row numbers of at least six digits, so that a source that grows keeps its first ids."""
    digits = max(DEFAULT_ID_DIGITS, len(str(datasets - 1)))
    return [f"{row:0{digits}d}" for row in range(datasets)]


def as_floats(array: NDArray, name: str, path: Path) -> Floats:
    """Return ``array`` as native float64; the error names array, file and the type that was found."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: '{name}' must hold real numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float64)


def holds_integers(array: NDArray) -> bool:
    """Return True if an array, or each row of an array with rows of different lengths, has an integer type."""
    if array.dtype.kind == "O":
        return all(np.asarray(row).dtype.kind in "biu" for row in array)
    return array.dtype.kind in "biu"


def as_ids(array: NDArray, name: str, path: Path) -> list[str]:
    """Return the ids as text, from strings, bytes or integers of shape ``(dataset,)``."""
    if array.ndim != 1 or array.dtype.kind not in "USOiu":
        raise DataError(
            f"{path}: '{name}' must be a list of texts or integers, got shape {array.shape} and dtype {array.dtype}"
        )
    return [
        item.decode("utf-8", errors="backslashreplace") if isinstance(item, bytes) else str(item)
        for item in array.tolist()
    ]


def missing(kind: str, names: Sequence[str], path: Path, there: Sequence[str], key: str) -> DataError:
    """Return the error for arrays or columns that the whole source lacks."""
    wanted = ", ".join(f"'{name}'" for name in names)
    found = ", ".join(f"'{name}'" for name in list(there)[:40]) or "nothing"
    return DataError(f"{path}: no {kind} {wanted}, asked for by {key}; the file has: {found}")
