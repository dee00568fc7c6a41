"""NPZ and HDF5: fields as arrays ``(data set, point, ...)``, or flat with ``offsets`` for ragged data."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import (
    Place,
    Ragged,
    RawData,
    as_floats,
    as_ids,
    default_ids,
    holds_integers,
    missing,
    trim_padding,
)
from chainsweep.data.truth import TRUTH, TRUTH_NAMES, join_elements, split_matrix, truth_columns
from chainsweep.errors import DataError
from chainsweep.numerics.arrays import Floats, Ints

ID = "id"
OFFSETS = "offsets"
# zipfile raises RuntimeError for an encrypted member, NotImplementedError for an unknown compression
_BROKEN_NPZ = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class ArrayFile:
    """An open file of named arrays; ``truth_names`` are the parameter names in its attribute, if it has one."""

    path: Path
    names: tuple[str, ...]
    load: Callable[[str], NDArray]
    truth_names: tuple[str, ...] = ()


def read_npz(config: DataSection, path: Path) -> RawData:
    """Read a NumPy archive; arrays of Python objects are refused, never unpickled."""
    with _open_npz(path) as arrays:
        return _read(config, arrays)


def read_hdf5(config: DataSection, path: Path) -> RawData:
    """Read an HDF5 file; array names may be paths (``spectra/x``), fields may have variable-length rows."""
    with _open_hdf5(path) as arrays:
        return _read(config, arrays)


@contextmanager
def _open_npz(path: Path) -> Iterator[ArrayFile]:
    with ExitStack() as stack:
        try:
            # np.load does not close a file that it opened itself when the archive is broken
            file = stack.enter_context(path.open("rb"))
            archive = np.load(file, allow_pickle=False)
        except _BROKEN_NPZ as error:
            raise DataError(f"{path}: is not a readable NPZ file: {error}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: expected an .npz archive of named arrays, got a single array")
        stack.enter_context(archive)

        def load(name: str) -> NDArray:
            try:
                return archive[name]
            except _BROKEN_NPZ as error:
                raise DataError(f"{path}: the array '{name}' cannot be read: {error}") from error

        yield ArrayFile(path, tuple(archive.files), load)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[ArrayFile]:
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path}: is not a readable HDF5 file: {error}") from error
    with file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)

        def load(name: str) -> NDArray:
            dataset = file[name]
            try:
                values = dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()]
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: the array '{name}' cannot be read: {error}") from error
            return np.asarray(values)

        yield ArrayFile(path, tuple(names), load, _attribute_names(file))


def _attribute_names(file: h5py.File) -> tuple[str, ...]:
    holders = (file[TRUTH], file) if TRUTH in file else (file,)
    for holder in holders:
        if TRUTH_NAMES in holder.attrs:
            return tuple(as_ids(np.atleast_1d(holder.attrs[TRUTH_NAMES]), TRUTH_NAMES, Path(file.filename)))
    return ()


def _read(config: DataSection, arrays: ArrayFile) -> RawData:
    absent = [name for name in config.fields.values() if name not in arrays.names]
    if absent:
        raise missing("array", absent, arrays.path, arrays.names, "[data] fields")
    absent = [name for name in config.constants if name not in arrays.names]
    if absent:
        raise missing("array", absent, arrays.path, arrays.names, "[data] constants")
    whole: dict[str, bool] = {}

    def load(name: str) -> NDArray:
        array = arrays.load(name)
        whole[name] = holds_integers(array)
        return array

    fields = _fields(config, replace(arrays, load=load))
    integers = frozenset(name for name, column in config.fields.items() if whole[column])
    datasets = len(next(iter(fields.values())).lengths)
    ids = as_ids(arrays.load(ID), ID, arrays.path) if ID in arrays.names else default_ids(datasets)
    _expect_datasets(len(ids), datasets, ID, arrays.path)
    constants = {name: _constant(arrays, name, datasets) for name in config.constants}
    truth = _truth(arrays, datasets)

    def dataset_place(position: int) -> Place:
        return Place(arrays.path.name, position)

    def point_place(position: int, point: int) -> Place:
        return Place(arrays.path.name, position)

    return RawData(ids, fields, constants, truth, dataset_place, point_place, integers=integers)


def _fields(config: DataSection, arrays: ArrayFile) -> dict[str, Ragged]:
    loaded = {column: arrays.load(column) for column in dict.fromkeys(config.fields.values())}
    if OFFSETS in arrays.names:
        offsets = _offsets(arrays)
        ragged = {column: _flat(array, offsets, column, arrays.path) for column, array in loaded.items()}
    else:
        ragged = {column: _rows(array, column, arrays.path) for column, array in loaded.items()}
    counts = {column: len(field.lengths) for column, field in ragged.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"'{column}' {count}" for column, count in counts.items())
        raise DataError(f"{arrays.path}: the fields differ in their number of data sets: {found}")
    if OFFSETS not in arrays.names:
        ragged = trim_padding(ragged)
    return {name: ragged[column] for name, column in config.fields.items()}


def _offsets(arrays: ArrayFile) -> Ints:
    offsets = arrays.load(OFFSETS)
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) == 0:
        raise DataError(
            f"{arrays.path}: '{OFFSETS}' must be n + 1 integers for n data sets, "
            f"got shape {offsets.shape} and dtype {offsets.dtype}"
        )
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise DataError(f"{arrays.path}: '{OFFSETS}' must start at 0 and never fall")
    return offsets


def _flat(array: NDArray, offsets: Ints, name: str, path: Path) -> Ragged:
    if array.ndim == 0 or len(array) != offsets[-1]:
        raise DataError(
            f"{path}: '{name}' must be flat with {offsets[-1]} points, as '{OFFSETS}' ends, got shape {array.shape}"
        )
    return Ragged(as_floats(array, name, path), offsets)


def _rows(array: NDArray, name: str, path: Path) -> Ragged:
    if array.dtype.kind == "O" and array.ndim == 1:  # variable-length rows of HDF5
        rows = [as_floats(np.asarray(row), name, path) for row in array]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return Ragged.of_lengths(np.concatenate([np.empty(0), *rows]), lengths)
    if array.ndim < 2:
        raise DataError(
            f"{path}: '{name}' must have shape (data set, point), or be flat, with an array '{OFFSETS}'; "
            f"got shape {array.shape}"
        )
    return Ragged.of_rectangle(as_floats(array, name, path))


def _constant(arrays: ArrayFile, name: str, datasets: int) -> Floats:
    values = as_floats(arrays.load(name), name, arrays.path)
    if values.ndim not in (1, 2) or len(values) != datasets or not values[0].size:
        raise DataError(
            f"{arrays.path}: the constant '{name}' must have shape ({datasets},), one value a data set, or "
            f"({datasets}, k), one vector a data set, got {values.shape}"
        )
    return values


def _truth(arrays: ArrayFile, datasets: int) -> dict[str, Floats]:
    columns: dict[str, NDArray] = {}
    if TRUTH in arrays.names:
        names = arrays.truth_names
        if TRUTH_NAMES in arrays.names:
            names = tuple(as_ids(arrays.load(TRUTH_NAMES), TRUTH_NAMES, arrays.path))
        columns = split_matrix(as_floats(arrays.load(TRUTH), TRUTH, arrays.path), names, arrays.path)
    for parameter, name in truth_columns(arrays.names).items():
        if parameter in columns:
            raise DataError(f"{arrays.path}: the truth of '{parameter}' is given twice, in '{TRUTH}' and '{name}'")
        columns[parameter] = as_floats(arrays.load(name), name, arrays.path)
    for parameter, values in columns.items():
        _expect_datasets(len(values) if values.ndim else 0, datasets, f"truth of {parameter}", arrays.path)
    return join_elements(columns, arrays.path)


def _expect_datasets(found: int, datasets: int, name: str, path: Path) -> None:
    if found != datasets:
        raise DataError(f"{path}: '{name}' has {found} entries for {datasets} data sets")
