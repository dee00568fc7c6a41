"""``catalogue.parquet``: one row per data set and engine; a figure that an engine does not have is null, never 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.numerics.arrays import Ints
from chainsweep.publish import publish

STATISTICS = ("mean", "sd", "q05", "q50", "q95")
_TEXT_COLUMNS = ("dataset_id", "engine", "verdict", "reason", "cause", "hint")
_NULL_IF_EMPTY = ("cause", "hint", "edge")
"""Text columns in which an empty text means that there is nothing to tell."""
_INTEGER_COLUMNS = ("rung", "divergences", "draws", "attempt")
_REQUIRED = ("dataset_id", "engine", "verdict")
_HEAD = ("dataset_id", "engine", "verdict", "reason", "cause", "hint", "rung")
_TAIL = (
    "rhat_max",
    "ess_bulk_min",
    "ess_tail_min",
    "divergences",
    "tau_max",
    "acceptance",
    "khat",
    "is_efficiency",
    "log_evidence",
    "ppc_pvalue",
    "draws",
    "seconds",
    "attempt",
)

Summary = Mapping[str, NDArray]


def columns(parameters: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of every catalogue; ``parameters`` are flat names such as ``theta[0]``."""
    return (*_HEAD, *(f"{what}_{name}" for what in STATISTICS for name in parameters), *_TAIL)


def catalogue_table(
    summaries: Iterable[Summary], parameters: Sequence[str], ids_in_order: Sequence[str] | None = None
) -> pa.Table:
    """Join the summaries of shards (``read_summary``) to one table.

    Rows come in the order of the summaries; with ``ids_in_order``, by engine (in order of first appearance)
    and then by campaign position. NaN and a column that a summary lacks become null; further columns of the
    summaries follow the fixed ones in alphabetical order.

    Raises
    ------
    ChainsweepError
        A summary lacks ``dataset_id``, ``engine`` or ``verdict``, two summaries disagree on whether a column
        is text, a column of whole numbers holds a fraction, or a row's id is not in ``ids_in_order``.
    """
    parts = list(summaries)
    for part in parts:
        lacking = [name for name in _REQUIRED if name not in part]
        if lacking:
            raise ChainsweepError(f"a summary lacks {lacking}; it has {sorted(part)}: write them into the shard")
    fixed = columns(parameters)
    extra = sorted({name for part in parts for name in part} - set(fixed))
    table = pa.table({name: _column(name, parts, name in fixed) for name in (*fixed, *extra)})
    return table if ids_in_order is None or not parts else table.take(_order(table, ids_in_order))


def write_catalogue(
    path: Path,
    table: pa.Table,
    still_owner: Callable[[], bool] = lambda: True,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Publish the catalogue; the same table and ``notes`` give the same bytes. Raises ``LostOwnership``."""
    table = table.replace_schema_metadata(dict(notes))

    def validate(temporary: Path) -> None:
        if not pq.read_table(temporary).equals(table, check_metadata=True):
            raise ChainsweepError(f"{temporary}: the catalogue read back is not the one written; is the disk full?")

    publish(path, lambda temp: pq.write_table(table, temp, compression="zstd"), validate, still_owner)


def read_catalogue(path: Path) -> pd.DataFrame:
    """Read the catalogue; null is NaN, also in columns of whole numbers (float64 where one is null).

    ``attrs`` of the table holds the notes of the catalogue.

    Raises
    ------
    CampaignError
        The file is missing or is no Parquet.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CampaignError(
            f"{path}: expected a catalogue, cannot read it ({error}); make it again with 'chainsweep merge'"
        ) from error
    frame = table.to_pandas()
    frame.attrs = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return frame


def _column(name: str, parts: Sequence[Summary], is_fixed: bool) -> pa.ChunkedArray:
    arrays = [np.asarray(part[name]) if name in part else None for part in parts]
    kind = _kind(name, is_fixed, [array for array in arrays if array is not None])
    chunks = [
        pa.nulls(len(part["dataset_id"]), kind) if array is None else _convert(name, array, kind)
        for part, array in zip(parts, arrays, strict=True)
    ]
    return pa.chunked_array(chunks, type=kind).combine_chunks() if chunks else pa.chunked_array([], type=kind)


def _kind(name: str, is_fixed: bool, arrays: Sequence[NDArray]) -> pa.DataType:
    if name in _TEXT_COLUMNS:
        return pa.string()
    if name in _INTEGER_COLUMNS:
        return pa.int64()
    if is_fixed:
        return pa.float64()
    kinds = {array.dtype.kind for array in arrays}
    if kinds <= set("OUT"):
        return pa.string()
    if kinds == {"b"}:
        return pa.bool_()
    return pa.int64() if kinds <= set("biu") else pa.float64()


def _convert(name: str, array: NDArray, kind: pa.DataType) -> pa.Array:
    is_text = array.dtype.kind in "OUT"
    if is_text != pa.types.is_string(kind):
        raise ChainsweepError(f"catalogue column '{name}': expected {kind}, got values of type {array.dtype}")
    if name in _NULL_IF_EMPTY:
        return pa.array([text or None for text in array.tolist()], type=kind)
    if is_text or array.dtype.kind != "f":
        return pa.array(array, type=kind) if kind != pa.float64() else pa.array(array.astype(np.float64))
    # Whole numbers come as floats if some are null; the cast is checked, and a fraction is an error.
    try:
        return pa.array(array.astype(np.float64), mask=np.isnan(array)).cast(kind)
    except pa.ArrowInvalid as error:
        raise ChainsweepError(f"catalogue column '{name}': expected whole numbers: {error}") from error


def _order(table: pa.Table, ids_in_order: Sequence[str]) -> Ints:
    ids = table.column("dataset_id").to_pandas()
    position = pd.Index(ids_in_order).get_indexer(ids)
    if (position < 0).any():
        raise ChainsweepError(f"data set {ids[int(np.argmin(position))]!r} of a summary is not of this campaign")
    engine = pd.factorize(table.column("engine").to_pandas())[0]
    return np.lexsort((position, engine))
