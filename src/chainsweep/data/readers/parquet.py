"""The reader of Parquet tables, which uses pyarrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import Ragged, RawData
from chainsweep.data.readers.tables import Cells, Table, table_to_raw
from chainsweep.errors import DataError
from chainsweep.numerics.arrays import Floats


def read_parquet(config: DataSection, path: Path) -> RawData:
    """Read one Parquet file; only the columns that are needed are read from disk."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is not a readable Parquet file: {error}") from error
    with file:

        def column(name: str) -> pa.ChunkedArray:
            try:
                return file.read(columns=[name]).column(name)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path}: the column '{name}' cannot be read: {error}") from error

        def cells(name: str) -> Cells:
            return _cells(column(name), name, path)

        def text(name: str) -> pa.Array:
            return _text(column(name), name, path)

        def whole(name: str) -> bool:
            kind = file.schema_arrow.field(name).type
            kind = kind.value_type if _is_list(kind) else kind
            return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))

        table = Table(path, file.metadata.num_rows, tuple(file.schema_arrow.names), cells, text, whole)
        return table_to_raw(config, table)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _cells(column: pa.ChunkedArray, name: str, path: Path) -> Cells:
    if not _is_list(column.type):
        return _floats(column, name, path)
    lengths = [pc.fill_null(pc.list_value_length(chunk), 0).to_numpy() for chunk in column.chunks]
    values = [_floats(pc.list_flatten(chunk), name, path) for chunk in column.chunks]
    return Ragged.of_lengths(
        np.concatenate([np.empty(0), *values]), np.concatenate([np.empty(0, dtype=np.int64), *lengths])
    )


def _floats(values: pa.Array | pa.ChunkedArray, name: str, path: Path) -> Floats:
    """Return numbers as float64, with NaN for null."""
    kind = values.type
    numeric = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    if not any(test(kind) for test in numeric):
        raise DataError(f"{path}: the column '{name}' must hold numbers or lists of numbers, got {kind}")
    floats = pc.cast(values, pa.float64(), safe=False)
    if isinstance(floats, pa.ChunkedArray):
        return floats.to_numpy()
    return floats.to_numpy(zero_copy_only=False)


def _text(column: pa.ChunkedArray, name: str, path: Path) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    textual = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
    if not any(test(kind) for test in textual):
        raise DataError(f"{path}: the column '{name}' must hold texts or integers, got {kind}")
    joined = column.cast(pa.large_string()).combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
