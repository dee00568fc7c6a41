"""The reader of FITS binary tables; it uses astropy, which is imported only here and only to read a FITS file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import Ragged, RawData, as_floats, as_ids, holds_integers
from chainsweep.data.readers.tables import Cells, Table, table_to_raw
from chainsweep.errors import DataError, UnavailableError
from chainsweep.numerics.arrays import Floats


def read_fits(config: DataSection, path: Path) -> RawData:
    """Read the first table extension that has all mapped columns.

    Raises
    ------
    UnavailableError
        astropy is not installed.
    """
    try:
        from astropy.io import fits
    except ImportError as error:
        raise UnavailableError(
            f"{path}: reading FITS needs astropy, which is not installed: pip install 'chainsweep[fits]'"
        ) from error
    needed = {*config.fields.values(), *config.constants}
    with warnings.catch_warnings():
        # astropy only warns of a truncated file and then returns the rows that are left
        warnings.filterwarnings("error", message=".*truncated.*")
        try:
            with fits.open(path, memmap=False) as hdus:
                tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
                if not tables:
                    raise DataError(f"{path}: has no table extension")
                complete = (hdu for hdu in tables if needed <= set(hdu.columns.names))
                return table_to_raw(config, _table(next(complete, tables[0]), path))
        except (OSError, Warning) as error:
            raise DataError(f"{path}: is not a readable FITS file: {error}") from error


def _table(hdu: Any, path: Path) -> Table:
    def column(name: str) -> NDArray:
        try:
            return hdu.data[name]
        except (OSError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"{path}: the column '{name}' cannot be read: {error}") from error

    def cells(name: str) -> Cells:
        values = column(name)
        if isinstance(values, np.ndarray) and values.dtype.kind == "O":
            return _variable_length(values, name, path)
        floats = _without_nulls(np.asarray(values), hdu.columns[name].null, name, path)
        return floats if floats.ndim == 1 else Ragged.of_rectangle(floats)

    def text(name: str) -> pa.Array:
        return pa.array(as_ids(np.asarray(column(name)), name, path), type=pa.large_string())

    def whole(name: str) -> bool:
        return holds_integers(np.asarray(column(name)))

    return Table(path, int(hdu.header["NAXIS2"]), tuple(hdu.columns.names), cells, text, whole)


def _variable_length(values: NDArray, name: str, path: Path) -> Ragged:
    rows = [as_floats(np.asarray(row), name, path) for row in values]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Ragged.of_lengths(np.concatenate([np.empty(0), *rows]), lengths)


def _without_nulls(values: NDArray, null: Any, name: str, path: Path) -> Floats:
    """Return native float64; the integer that TNULL declares as missing becomes NaN."""
    floats = as_floats(values, name, path)
    if null not in (None, "") and values.dtype.kind in "iu":
        floats[values == null] = np.nan
    return floats
