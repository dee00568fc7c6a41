"""The common part of the Parquet and FITS readers: one row per point with an ``id``, or one per data set with lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import Place, Ragged, RawData, UnreadData, default_ids, missing, trim_padding
from chainsweep.data.truth import TRUTH, TRUTH_PREFIX, join_elements, split_matrix, truth_columns
from chainsweep.errors import DataError
from chainsweep.numerics.arrays import Floats, Ints

ID = "id"

Cells: TypeAlias = Floats | Ragged
"""A column of numbers ``(row,)``, or a column of lists."""


@dataclass(frozen=True)
class Table:
    """A table whose columns are read on demand; ``text`` gives a column as strings, null where empty.

    ``whole`` says whether a column holds integers, or lists of them.
    """

    path: Path
    rows: int
    names: tuple[str, ...]
    cells: Callable[[str], Cells]
    text: Callable[[str], pa.Array]
    whole: Callable[[str], bool]

    def integers(self, config: DataSection) -> frozenset[str]:
        """The fields that the table holds as integers."""
        return frozenset(name for name, column in config.fields.items() if self.whole(column))


def table_to_raw(config: DataSection, table: Table) -> RawData:
    """Return the data sets of a table.

    Raises
    ------
    DataError
        A column is missing or holds no numbers, or some fields hold numbers and others lists.
    """
    for key, wanted in (("fields", config.fields.values()), ("constants", config.constants)):
        absent = [name for name in wanted if name not in table.names]
        if absent:
            raise missing("column", absent, table.path, table.names, f"[data] {key}")
    columns = {column: table.cells(column) for column in dict.fromkeys(config.fields.values())}
    lists = {column: cells for column, cells in columns.items() if isinstance(cells, Ragged)}
    numbers = {column: cells for column, cells in columns.items() if not isinstance(cells, Ragged)}
    if lists and numbers:
        raise DataError(
            f"{table.path}: the columns {', '.join(lists)} hold lists but {', '.join(numbers)} hold numbers; "
            "expected lists in all fields (one row a data set) or numbers in all (one row a point)"
        )
    if lists:
        return _row_per_dataset(config, table, lists)
    return _row_per_point(config, table, numbers)


def _row_per_dataset(config: DataSection, table: Table, columns: Mapping[str, Ragged]) -> RawData:
    ids = table.text(ID).to_pylist() if ID in table.names else default_ids(table.rows)
    constants = {name: _plain(table, name) for name in config.constants}
    truths = {p: _matrix(table, name) for p, name in truth_columns(table.names).items()}
    if TRUTH in table.names:
        truths |= split_matrix(_matrix(table, TRUTH), (), table.path)
    trimmed = trim_padding(columns)

    def dataset_place(position: int) -> Place:
        return Place(table.path.name, position)

    def point_place(position: int, point: int) -> Place:
        return Place(table.path.name, position)

    fields = {name: trimmed[column] for name, column in config.fields.items()}
    truth = join_elements(truths, table.path)
    return RawData(ids, fields, constants, truth, dataset_place, point_place, integers=table.integers(config))


def _plain(table: Table, name: str) -> Floats:
    cells = table.cells(name)
    if isinstance(cells, Ragged):
        raise DataError(f"{table.path}: the column '{name}' must hold one number a row, got lists")
    return cells


def _matrix(table: Table, name: str) -> Floats:
    """Return a column of numbers unchanged, or a column of lists of one length as an array ``(row, entry)``."""
    cells = table.cells(name)
    if not isinstance(cells, Ragged):
        return cells
    lengths = np.unique(cells.lengths)
    if len(lengths) > 1:
        raise DataError(f"{table.path}: the lists in column '{name}' differ in length: {lengths.tolist()[:8]}")
    return cells.values.reshape(table.rows, -1)


@dataclass(frozen=True)
class _Groups:
    """The rows of a point table by data set: ``order[offsets[i]:offsets[i + 1]]`` are the rows of ``ids[i]``."""

    ids: list[str | None]
    order: Ints
    offsets: Ints


def _row_per_point(config: DataSection, table: Table, columns: Mapping[str, NDArray]) -> RawData:
    if ID not in table.names:
        raise missing("column", [ID], table.path, table.names, "a table with one row a point")
    if TRUTH in table.names:
        raise DataError(
            f"{table.path}: with one row a point, give truths as columns '{TRUTH_PREFIX}<parameter>', not '{TRUTH}'"
        )
    groups = _group(table.text(ID))
    name = table.path.name
    failures: dict[int, UnreadData] = {}
    constants = {
        key: _one_per_group(_plain(table, key), groups, "bad_constant", key, name, failures) for key in config.constants
    }
    truths = {
        parameter: _one_per_group(_plain(table, key), groups, "bad_truth", key, name, failures)
        for parameter, key in truth_columns(table.names).items()
    }
    fields = {key: Ragged(columns[column][groups.order], groups.offsets) for key, column in config.fields.items()}

    def dataset_place(position: int) -> Place:
        return point_place(position, 0)

    def point_place(position: int, point: int) -> Place:
        return Place(name, int(groups.order[groups.offsets[position] + point]))

    truth = join_elements(truths, table.path)
    return RawData(groups.ids, fields, constants, truth, dataset_place, point_place, failures, table.integers(config))


def _group(text: pa.Array) -> _Groups:
    """Group rows by id; the ids are in order of appearance, and the rows of an id keep their order."""
    encoded = text.dictionary_encode(null_encoding="encode")
    ids = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(ids)))]).astype(np.int64)
    in_order = bool((np.diff(codes) >= 0).all())
    order = np.arange(len(codes), dtype=np.int64) if in_order else np.argsort(codes, kind="stable")
    return _Groups(ids, order, offsets)


def _one_per_group(
    values: Floats,
    groups: _Groups,
    reason: str,
    column: str,
    file: str,
    failures: dict[int, UnreadData],
) -> Floats:
    """Return the value of each data set; a data set whose rows have different values goes into ``failures``."""
    sorted_values = values[groups.order]
    first = sorted_values[groups.offsets[:-1]]
    expected = np.repeat(first, np.diff(groups.offsets))
    same = (sorted_values == expected) | (np.isnan(sorted_values) & np.isnan(expected))
    wrong = np.flatnonzero(~same)
    owner = np.searchsorted(groups.offsets, wrong, side="right") - 1
    for position, index in zip(*np.unique(owner, return_index=True), strict=True):
        place = Place(file, int(groups.order[wrong[index]]))
        detail = (
            f"the column '{column}' must be the same in all rows of an id, got {first[position]} "
            f"and {sorted_values[wrong[index]]}"
        )
        failures.setdefault(int(position), UnreadData(place, reason, detail))
    return first
