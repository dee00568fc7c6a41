"""CSV sources: one file per data set, with or without a manifest of ids, files, constants and truths."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import Place, Ragged, RawData, UnreadData, missing
from chainsweep.data.readers.csv_parse import is_number, line_of_point, parse_csv
from chainsweep.data.truth import join_elements, truth_columns
from chainsweep.errors import DataError
from chainsweep.numerics.arrays import Floats


def read_csv_files(config: DataSection, files: Sequence[Path], base: Path, source: Path) -> RawData:
    """Read one data set from each file; its id is the file name without the suffix."""
    if config.constants:
        raise DataError(
            f"{source}: [data] constants = {list(config.constants)} needs a manifest.csv in a folder of CSV "
            "files: files alone hold no value for a whole data set"
        )
    names = [path.relative_to(base).as_posix() for path in files]
    points = _read_points(config, base, names, {})

    def dataset_place(position: int) -> Place:
        return Place(names[position], None)

    def point_place(position: int, point: int) -> Place:
        return Place(names[position], line_of_point(base / names[position], point))

    ids = [path.stem for path in files]
    return RawData(ids, points.fields, {}, {}, dataset_place, point_place, points.failures, points.integers)


def read_manifest_folder(config: DataSection, folder: Path, manifest_name: str) -> RawData:
    """Read one data set for each row of the manifest; files that no row names are not read.

    Raises
    ------
    DataError
        The manifest cannot be read, or lacks the column ``id``, ``file`` or that of a constant.
    """
    path = folder / manifest_name
    manifest = _read_manifest(path)
    absent = [name for name in ("id", "file", *config.constants) if name not in manifest.columns]
    if absent:
        raise missing("column", absent, path, list(manifest.columns), "the manifest format and [data] constants")
    files = manifest.columns["file"]
    failures = dict(manifest.failures)
    for position, file in enumerate(files):
        if position not in failures and (problem := _unsafe_file(file)) is not None:
            failures[position] = UnreadData(manifest.place(position), "unsafe_file", problem)
    constants = {name: _number_column(manifest, name, "bad_constant", failures) for name in config.constants}
    truths = {
        parameter: _number_column(manifest, column, "bad_truth", failures, empty_ok=True)
        for parameter, column in truth_columns(manifest.columns).items()
    }
    points = _read_points(config, folder, files, failures)

    def point_place(position: int, point: int) -> Place:
        return Place(files[position], line_of_point(folder / files[position], point))

    return RawData(
        manifest.columns["id"],
        points.fields,
        constants,
        join_elements(truths, path),
        manifest.place,
        point_place,
        points.failures,
        points.integers,
    )


@dataclass(frozen=True)
class _Manifest:
    """Columns of a manifest as stripped text, the line of each row, and rows of a wrong width."""

    name: str
    columns: dict[str, list[str]]
    lines: list[int]
    failures: dict[int, UnreadData]

    def place(self, position: int) -> Place:
        """Return the line of a data set's row."""
        return Place(self.name, self.lines[position])


def _read_manifest(path: Path) -> _Manifest:
    rows: list[list[str]] = []
    lines: list[int] = []
    failures: dict[int, UnreadData] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for row in filter(None, reader):
                if len(row) != len(header):
                    detail = f"the header has {len(header)} cells, this row {len(row)}"
                    failures[len(rows)] = UnreadData(Place(path.name, reader.line_num), "wrong_shape", detail)
                cells = [cell.strip() for cell in row]
                rows.append([*cells, *[""] * (len(header) - len(cells))][: len(header)])
                lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the manifest cannot be read: {error}") from error
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: the manifest names a column twice: {', '.join(repeated)}")
    columns = {name: [row[column] for row in rows] for column, name in enumerate(header)}
    return _Manifest(path.name, columns, lines, failures)


def _unsafe_file(file: str) -> str | None:
    path = PurePosixPath(file)
    if file == "" or "\0" in file:
        return f"the manifest names no usable file, got {file!r}"
    if path.is_absolute() or Path(file).is_absolute() or ".." in path.parts or ".." in file.split("\\"):
        return f"the file '{file}' lies outside the source folder"
    return None


def _number_column(
    manifest: _Manifest, column: str, reason: str, failures: dict[int, UnreadData], empty_ok: bool = False
) -> Floats:
    """Return one number per data set; a cell that is not a number goes into ``failures`` and becomes NaN."""
    values = np.full(len(manifest.lines), np.nan)
    for position, text in enumerate(manifest.columns[column]):
        if is_number(text):
            values[position] = float(text)
        elif not (text == "" and empty_ok):
            detail = f"the column '{column}' must hold a number, got {text!r}"
            failures.setdefault(position, UnreadData(manifest.place(position), reason, detail))
    return values


@dataclass(frozen=True)
class _Points:
    fields: dict[str, Ragged]
    failures: dict[int, UnreadData]
    integers: frozenset[str]


def _read_points(config: DataSection, folder: Path, names: Sequence[str], known: dict[int, UnreadData]) -> _Points:
    """Return the fields of all files, concatenated; a file that fails, now or in ``known``, has zero points."""
    columns = tuple(dict.fromkeys(config.fields.values()))
    failures = dict(known)
    parts: dict[str, list[NDArray]] = {column: [] for column in columns}
    lengths = np.zeros(len(names), dtype=np.int64)
    for position, name in enumerate(names):
        if position in failures:
            continue
        parsed = parse_csv(folder / name, name, columns)
        if isinstance(parsed, UnreadData):
            failures[position] = parsed
            continue
        lengths[position] = len(parsed[0])
        for column, values in zip(columns, parsed, strict=True):
            parts[column].append(values)
    flat = {column: np.concatenate([np.empty(0), *parts[column]]) for column in columns}
    fields = {field: Ragged.of_lengths(flat[column], lengths) for field, column in config.fields.items()}
    # A file with an empty cell is set aside, so it does not count against the integer type of the others.
    whole = {c: bool(parts[c]) and all(v.dtype.kind == "i" or np.isnan(v).any() for v in parts[c]) for c in columns}
    return _Points(fields, failures, frozenset(field for field, column in config.fields.items() if whole[column]))
