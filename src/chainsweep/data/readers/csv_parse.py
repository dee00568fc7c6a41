"""The parsing of one CSV file of points: a fast parser for files of numbers alone, a full parser for all others."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from chainsweep.data.raw import Place, UnreadData
from chainsweep.numerics.arrays import Floats

_SMALL_BYTES = 262_144
_PARSE = pyarrow.csv.ParseOptions(ignore_empty_lines=True)


def parse_csv(path: Path, name: str, columns: tuple[str, ...]) -> list[NDArray] | UnreadData:
    """Return the columns of one file, or the reason why it cannot be used.

    A column is int64 if each cell is written as a whole number, else float64 with NaN for an empty cell.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return UnreadData(Place(name, None), "unreadable", f"the file cannot be read: {error.strerror}")
    if len(content) < _SMALL_BYTES and (parsed := _parse_small(content, columns)) is not None:
        return parsed
    return _parse_any(content, path, name, columns)


def _parse_small(content: bytes, columns: tuple[str, ...]) -> list[NDArray] | None:
    """Return the columns of a file that holds numbers alone; None for any other, which the full parser then reads.

    NumPy takes a tenth of the time Arrow needs to set up its readers for a file of 40 lines.
    """
    try:
        first, _, body = content.decode("utf-8-sig").partition("\n")
        header = [column.strip() for column in first.split(",")]
        if not body.strip() or any(header.count(column) != 1 for column in columns):
            return None
        matrix = np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2, comments=None)
    except ValueError:
        return None
    if matrix.shape[1] != len(header):
        return None
    return [_as_written(matrix[:, place], body, place) for place in map(header.index, columns)]


def _as_written(values: Floats, body: str, place: int) -> NDArray:
    """Return ``values``, the column at ``place`` of a CSV text, as int64 if each cell is written as a whole number."""
    if not (np.abs(values) < 2.0**53).all() or (values != np.round(values)).any():
        return values
    cells = (line.split(",")[place] for line in body.splitlines() if line.strip())
    return values.astype(np.int64) if all(map(is_whole, cells)) else values


def _parse_any(content: bytes, path: Path, name: str, columns: tuple[str, ...]) -> list[NDArray] | UnreadData:
    """Return the columns of any CSV file, or the reason why it cannot be used."""
    # one block holds the whole file, so a column has one inferred type
    options = pyarrow.csv.ReadOptions(use_threads=False, block_size=max(1024, len(content) + 1))
    try:
        table = pyarrow.csv.read_csv(pa.BufferReader(content), read_options=options, parse_options=_PARSE)
        header = [column.strip() for column in table.column_names]
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        return _diagnose(path, name, columns, str(error))
    wrong = [column for column in columns if header.count(column) != 1]
    if wrong:
        times = "no" if header.count(wrong[0]) == 0 else "more than one"
        detail = f"has {times} column '{wrong[0]}'; its columns are: {', '.join(header)}"
        return UnreadData(Place(name, 1), "missing_column", detail)
    chosen = [table.column(header.index(column)) for column in columns]
    if not all(_is_numeric(column.type) for column in chosen):
        return _diagnose(path, name, columns, "a column holds something else than numbers")
    return [_to_numbers(column) for column in chosen]


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def _to_numbers(column: pa.ChunkedArray) -> NDArray:
    if pa.types.is_integer(column.type) and not column.null_count:
        return column.cast(pa.int64()).to_numpy()
    return column.cast(pa.float64(), safe=False).to_numpy()


def _diagnose(path: Path, name: str, columns: tuple[str, ...], message: str) -> UnreadData:
    """Return line and text of the cell that the fast parser could not read; the broken file is read again, slowly."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [column.strip() for column in next(reader, [])]
            for row in filter(None, reader):
                place = Place(name, reader.line_num)
                if len(row) != len(header):
                    detail = f"the header has {len(header)} cells, this row {len(row)}"
                    return UnreadData(place, "wrong_shape", detail)
                for column, text in zip(header, row, strict=True):
                    if column in columns and text.strip() and not is_number(text):
                        return UnreadData(place, "not_a_number", f"the column '{column}' holds {text!r}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return UnreadData(Place(name, None), "unreadable", f"is not a CSV text file: {error}")
    return UnreadData(Place(name, None), "unreadable", f"cannot be parsed: {message}")


def is_number(text: str) -> bool:
    """Return True if a cell is a number; Python's digit groups (``1_000``) do not count as one."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def is_whole(text: str) -> bool:
    """Return True if a cell is written as a whole number: digits alone, with or without a sign."""
    digits = text.strip().removeprefix("-").removeprefix("+")
    return digits.isascii() and digits.isdigit()


def line_of_point(path: Path, point: int) -> int | None:
    """Return the line of the ``point``-th row below the header (-1: the header); None if the file is gone."""
    if not os.access(path, os.R_OK):
        return None
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        filled = (reader.line_num for row in reader if row)
        return next((line for count, line in enumerate(filled) if count == point + 1), None)
