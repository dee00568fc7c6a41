"""The checks that decide which data sets of a source are usable; vectorised over all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import Place, Ragged, RawData
from chainsweep.numerics.arrays import Bools

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")

Where: TypeAlias = Place | int | None
"""The location of a finding: a place, a point of the data set, or None for the data set as a whole."""

Finding: TypeAlias = tuple[int, Where, str, str]
"""The position of a data set, the location of the finding, its reason and its detail."""


@dataclass(frozen=True)
class Quarantined:
    """One data set that was left out: ``reason`` is a short code, ``detail`` a sentence.

    ``row`` is a line number of a text file (the header is line 1), or a 0-based row of an array or table.
    """

    dataset_id: str | None
    file: str
    row: int | None
    reason: str
    detail: str


def find_problems(raw: RawData, config: DataSection) -> dict[int, Quarantined]:
    """Return the first problem of each unusable data set, by the position of the data set in ``raw``.

    Ids are judged first, then what the reader found, then shapes, constants, truth and points.
    """
    problems: dict[int, Quarantined] = {}
    for check in (_ids, _reading, _shapes, _lengths, _per_dataset, _points):
        for position, where, reason, detail in check(raw, config):
            # finding a place may read the file, so it is not done for a file already found unsafe or absent
            if position not in problems:
                place = _place(raw, position, where)
                problems[position] = Quarantined(raw.ids[position], place.file, place.row, reason, detail)
    return dict(sorted(problems.items()))


def _place(raw: RawData, position: int, where: Where) -> Place:
    if isinstance(where, Place):
        return where
    return raw.dataset_place(position) if where is None else raw.point_place(position, where)


def _ids(raw: RawData, config: DataSection) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for position, dataset_id in enumerate(raw.ids):
        if dataset_id is None or SAFE_ID.fullmatch(dataset_id) is None or ".." in dataset_id:
            detail = (
                f"the id {dataset_id!r} is not safe in file names: expected 1 to 128 of A-Z a-z 0-9 _ . + -, "
                "a letter or digit first, and no '..'"
            )
            yield position, None, "unsafe_id", detail
        elif first.setdefault(dataset_id, position) != position:
            earlier = raw.dataset_place(first[dataset_id])
            row = "" if earlier.row is None else f", row {earlier.row}"
            detail = f"the id '{dataset_id}' is already in {earlier.file}{row}"
            yield position, None, "duplicate_id", detail


def _reading(raw: RawData, config: DataSection) -> Iterator[Finding]:
    for position, failure in raw.failures.items():
        yield position, failure.place, failure.reason, failure.detail


def _shapes(raw: RawData, config: DataSection) -> Iterator[Finding]:
    lengths = np.stack([ragged.lengths for ragged in raw.fields.values()])
    for position in np.flatnonzero((lengths != lengths[0]).any(axis=0)).tolist():
        found = ", ".join(f"'{name}' {n}" for name, n in zip(raw.fields, lengths[:, position], strict=True))
        detail = (
            f"the fields must have one length, got points: {found}; observations of a length of their own can be an "
            "NPZ or HDF5 array (data set, k) of [data] constants, given to obs= in the model"
        )
        yield position, None, "wrong_shape", detail


def _lengths(raw: RawData, config: DataSection) -> Iterator[Finding]:
    lengths = next(iter(raw.fields.values())).lengths
    for position in np.flatnonzero(lengths < config.min_points).tolist():
        points = int(lengths[position])
        detail = f"has {points} points, fewer than min_points = {config.min_points}"
        yield position, points - 1, "too_few_points", detail


def _per_dataset(raw: RawData, config: DataSection) -> Iterator[Finding]:
    """Yield data sets with constants that are not finite, or with infinite truths; NaN means an unknown truth."""
    for name, values in raw.constants.items():
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        for position in np.flatnonzero(bad).tolist():
            detail = f"the constant '{name}' must be a finite number, got {values[position]}"
            yield position, None, "bad_constant", detail
    for name, values in raw.truth.items():
        infinite = np.isinf(values).any(axis=tuple(range(1, values.ndim)))
        for position in np.flatnonzero(infinite).tolist():
            detail = f"the truth of '{name}' is infinite; leave an unknown truth empty or NaN"
            yield position, None, "bad_truth", detail


def _points(raw: RawData, config: DataSection) -> Iterator[Finding]:
    for name, ragged in raw.fields.items():
        bad = ~np.isfinite(ragged.values)
        for position, point in _first_offenders(ragged, bad):
            value = _first_value(ragged, bad, position, point)
            yield position, point, "nan", f"{_column(name, config)} is {value} at point {point} (from 0)"
    for name in config.positive_fields:
        ragged = raw.fields[name]
        bad = ragged.values <= 0
        for position, point in _first_offenders(ragged, bad):
            value = _first_value(ragged, bad, position, point)
            detail = f"{_column(name, config)} must be > 0, got {value} at point {point} (from 0)"
            yield position, point, "non_positive_error", detail


def _first_offenders(ragged: Ragged, bad: Bools) -> Iterator[tuple[int, int]]:
    """Yield each data set with a bad point, and its first bad point; ``bad`` has the shape of the values."""
    index = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    # side="right" skips the empty data sets that share an offset with the owner of the point
    owner = np.searchsorted(ragged.offsets, index, side="right") - 1
    positions, first = np.unique(owner, return_index=True)
    points = index[first] - ragged.offsets[positions]
    return zip(positions.tolist(), points.tolist(), strict=True)


def _first_value(ragged: Ragged, bad: Bools, position: int, point: int) -> float:
    index = int(ragged.offsets[position]) + point
    return float(np.atleast_1d(ragged.values[index])[np.atleast_1d(bad[index])][0])


def _column(name: str, config: DataSection) -> str:
    column = config.fields[name]
    return f"'{name}'" if column == name else f"'{name}' (column '{column}')"
