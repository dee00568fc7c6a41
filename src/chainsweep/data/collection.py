"""The reading of frozen data sets in blocks of one width: ragged lengths become padded rectangles with a mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainsweep.data.buckets import Bucket, padded_widths, plan_buckets
from chainsweep.data.frozen import SCHEMA
from chainsweep.errors import CampaignError, InputError
from chainsweep.numerics.arrays import Bools, Floats, Ints

__all__ = ["Batch", "Bucket", "Collection", "padded_widths", "plan_buckets"]

# runs of data sets further apart than this many points are read separately
_GAP_POINTS = 65_536


@dataclass(frozen=True)
class Batch:
    """A block of data sets of one shape bucket.

    ``fields[name]`` has shape ``(dataset, point, ...)``, float64 or int64; behind a data set's own points its last
    point is repeated, so padding is finite and benign. ``constants[name]`` has shape ``(dataset,)`` or
    ``(dataset, k)``. ``mask`` has shape ``(dataset, point)``, True at real points.
    """

    ids: tuple[str, ...]
    fields: dict[str, NDArray]
    constants: dict[str, Floats]
    mask: Bools

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """The number of points of each row, padding included."""
        return self.mask.shape[1]

    def cut(self, width: int) -> Batch:
        """Return the batch cut to at most ``width`` points; longer data sets lose their last points."""
        fields = {name: values[:, :width] for name, values in self.fields.items()}
        return Batch(self.ids, fields, self.constants, self.mask[:, :width])

    @property
    def n_points(self) -> Ints:
        """The number of real points of each data set, shape ``(dataset,)``."""
        return self.mask.sum(axis=1, dtype=np.int64)

    def take(self, positions: ArrayLike) -> Batch:
        """Return the data sets at these positions of the batch, in this order."""
        index = np.asarray(positions, dtype=np.int64)
        return Batch(
            ids=tuple(self.ids[position] for position in index.tolist()),
            fields={name: values[index] for name, values in self.fields.items()},
            constants={name: values[index] for name, values in self.constants.items()},
            mask=self.mask[index],
        )


def constant_of(value: Any) -> Any:
    """Return the constant of one data set, a number or a vector, as a float or an array."""
    return float(value) if np.ndim(value) == 0 else np.array(value, float)


class Collection:
    """Read-only view of a frozen ``data.h5``; the file is open only while a method reads from it.

    Raises
    ------
    CampaignError
        The file is missing, is no HDF5, or was not written by ``freeze``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with h5py.File(path, "r", locking=False) as file:
                schema = file.attrs.get("schema")
                if schema != SCHEMA:
                    raise CampaignError(f"{path}: expected frozen data sets of schema {SCHEMA}, got {schema!r}")
                self.ids: list[str] = file["id"].asstr()[()].tolist()
                self.offsets: Ints = file["offsets"][()]
                self.sha256 = str(file.attrs["sha256"])
                self.field_names = tuple(file["fields"])
                self.constant_names = tuple(file["constants"])
                self.parameters_with_truth = tuple(file["truth"])
        except (OSError, KeyError) as error:
            raise CampaignError(f"{path}: is not a readable file of frozen data sets: {error}") from error

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Ints:
        """The number of points of each data set, shape ``(dataset,)``."""
        return np.diff(self.offsets)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {dataset_id: position for position, dataset_id in enumerate(self.ids)}

    def position(self, dataset_id: str) -> int:
        """Return the position of a data set by its id.

        Raises
        ------
        InputError
            No data set has this id.
        """
        if dataset_id not in self._positions:
            shown = ", ".join(self.ids[:5])
            raise InputError(
                f"{self.path}: no data set '{dataset_id}' among {len(self.ids)} (the first are {shown}); if "
                "the source has it, look it up in quarantine.csv"
            )
        return self._positions[dataset_id]

    def batch(self, positions: ArrayLike, width: int) -> Batch:
        """Return the data sets at these positions, in this order, each padded to ``width`` points.

        Raises
        ------
        ValueError
            A position is out of range, or a data set has more than ``width`` points.
        """
        index = np.asarray(positions, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise ValueError(f"{self.path}: positions must be in 0..{len(self) - 1}, got {index.tolist()[:5]}...")
        lengths = self.lengths[index]
        if (lengths > width).any():
            worst = int(np.argmax(lengths))
            raise ValueError(
                f"{self.path}: data set '{self.ids[index[worst]]}' has {lengths[worst]} points, more than {width}"
            )
        points = self.offsets[index][:, None] + np.minimum(np.arange(width), lengths[:, None] - 1)
        with h5py.File(self.path, "r", locking=False) as file:
            fields = {name: self._gather(file["fields"][name], index, points) for name in self.field_names}
            constants = {name: file["constants"][name][()][index] for name in self.constant_names}
        ids = tuple(self.ids[position] for position in index.tolist())
        return Batch(ids, fields, constants, np.arange(width) < lengths[:, None])

    def _gather(self, field: h5py.Dataset, index: Ints, points: Ints) -> NDArray:
        """Return the rows ``points`` (dataset, point) of a flat field, read in few contiguous pieces."""
        result = np.empty((*points.shape, *field.shape[1:]), dtype=field.dtype)
        order = np.argsort(index, kind="stable")
        starts, stops = self.offsets[index[order]], self.offsets[index[order] + 1]
        cuts = np.flatnonzero(starts[1:] - stops[:-1] > _GAP_POINTS) + 1
        for run in np.split(np.arange(len(order)), cuts):
            if run.size:
                first = starts[run[0]]
                rows = order[run]
                result[rows] = field[first : stops[run[-1]]][points[rows] - first]
        return result

    def truth(self, position: int) -> dict[str, Floats]:
        """Return the known true parameters of one data set; a parameter with any NaN is left out."""
        with h5py.File(self.path, "r", locking=False) as file:
            values = {name: np.asarray(file["truth"][name][position]) for name in self.parameters_with_truth}
        return {name: value for name, value in values.items() if not np.isnan(value).any()}

    def truth_table(self) -> dict[str, Floats]:
        """Return the true parameters of all data sets, shape ``(dataset, ...)``, NaN where unknown."""
        with h5py.File(self.path, "r", locking=False) as file:
            return {name: file["truth"][name][()] for name in self.parameters_with_truth}
