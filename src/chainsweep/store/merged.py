"""``posterior.h5``: the draws of all data sets, copied shard by shard into netCDF4-conforming HDF5.

``/<engine>/posterior`` holds a variable per parameter with dims ``(dataset, chain, draw, <parameter>_dim_0,
...)``, ``/<engine>/sample_stats`` those of the sampler and ``n_draws`` ``(dataset,)``; ``dataset`` is a
coordinate of ids. Shorter chains are padded with NaN (False for flags), to the longest over the engine's
shards. Variables lie contiguous, so one data set is one short read, and shards may scatter over the data set
axis. Merging the same shards twice gives the same bytes.

ArviZ opens an engine by ``InferenceData.from_netcdf(path, base_group=engine).sel(dataset=id)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import ChainsweepError
from chainsweep.numerics.arrays import Ints
from chainsweep.publish import publish
from chainsweep.store.merge_plan import EnginePlan, Rejected, ShardRows, Variable, plan_engine
from chainsweep.store.shard import ShardError, stream_shard

SCHEMA = "chainsweep-posterior/1"

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge: the number of ``datasets`` by engine, and the ``rejected`` shard files with reasons."""

    datasets: dict[str, int]
    rejected: Rejected


class _Damaged(Exception):
    """The checksum of shards was found to be wrong after they had been copied."""

    def __init__(self, found: Rejected) -> None:
        self.found = found


def merge(
    engines: Mapping[str, Sequence[Path]],
    ids_in_order: Sequence[str],
    path: Path,
    attrs: Attributes,
    still_owner: Callable[[], bool] = lambda: True,
) -> MergeReport:
    """Merge the shard files that each engine should have into ``path``, and report unusable ones.

    Memory stays at a few blocks of 8 MiB plus the ids. Every shard's checksum is verified while it is copied;
    a damaged one is left out and the copy starts again. ``attrs`` become root attributes and must hold
    ``campaign_hash``. An engine's data set axis holds the published ids in the order of ``ids_in_order``.

    Raises
    ------
    ShardError
        Two shards hold the same data set, or one holds a data set that is not in ``ids_in_order``.
    LostOwnership
        ``still_owner()`` is False at the end.
    """
    if "campaign_hash" not in attrs:
        raise ChainsweepError(f"{path}: a merge needs attrs['campaign_hash'], got only {sorted(attrs)}")
    rejected: Rejected = {}
    while True:
        planned = [
            plan_engine(engine, paths, ids_in_order, str(attrs["campaign_hash"]), rejected)
            for engine, paths in sorted(engines.items())
        ]
        plans = [plan for plan in planned if plan is not None]
        try:
            publish(path, partial(_write, plans, attrs), partial(_check, plans), still_owner)
        except _Damaged as damaged:
            rejected |= damaged.found
            continue
        counts = dict.fromkeys(sorted(engines), 0) | {plan.engine: len(plan.ids) for plan in plans}
        return MergeReport(counts, dict(sorted(rejected.items())))


def _write(plans: Sequence[EnginePlan], attrs: Attributes, path: Path) -> None:
    with h5netcdf.File(path, "w") as file:
        for name, value in sorted({**attrs, "schema": SCHEMA}.items()):
            file.attrs[name] = int(value) if isinstance(value, bool) else value
        for plan in plans:
            _create_engine(file.create_group(plan.engine), plan)
    found: Rejected = {}
    with h5py.File(path, "r+", locking=False) as file:
        for plan in plans:
            for part in plan.parts:
                try:
                    _copy(part, plan, file[plan.engine])
                except ShardError as error:
                    found[part.path] = str(error)
    if found:
        raise _Damaged(found)


def _create_engine(group: h5netcdf.Group, plan: EnginePlan) -> None:
    group.attrs["kind"] = plan.kind
    for name in ("posterior", "sample_stats"):
        inner = group.create_group(name)
        inner.dimensions = {"dataset": len(plan.ids), "chain": plan.chains, "draw": plan.draws}
        ids = inner.create_variable("dataset", ("dataset",), dtype=h5py.string_dtype("utf-8"))
        ids[...] = np.array(plan.ids, dtype=object)
        for axis, length in (("chain", plan.chains), ("draw", plan.draws)):
            _create_index(inner, axis, length)
    for variable in plan.variables:
        _create_variable(group[variable.group], variable)
    group["sample_stats"].create_variable("n_draws", ("dataset",), dtype=np.int64)


def _create_index(group: h5netcdf.Group, axis: str, length: int) -> None:
    group.create_variable(axis, (axis,), dtype=np.int64)[...] = np.arange(length)


def _create_variable(group: h5netcdf.Group, variable: Variable) -> None:
    dims = ["dataset", "chain", "draw"]
    for number, length in enumerate(variable.tail):
        dims.append(f"{variable.name}_dim_{number}")
        group.dimensions[dims[-1]] = length
        _create_index(group, dims[-1], length)
    is_flag = variable.dtype.kind == "b"
    dtype = np.dtype(np.int8) if is_flag else variable.dtype
    created = group.create_variable(
        variable.name,
        tuple(dims),
        dtype=dtype,
        fillvalue=None if is_flag else _padding(dtype),
        fill_time="never",  # every row is written below: filling first would write the file twice
    )
    if is_flag:
        # netCDF has no booleans; xarray turns this attribute back into them.
        created.attrs["dtype"] = "bool"


def _padding(dtype: np.dtype) -> float | int:
    """Return the value after a chain's end: NaN, or the integer that xarray reads as NaN through _FillValue."""
    return np.nan if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _copy(part: ShardRows, plan: EnginePlan, group: h5py.Group) -> None:
    """Copy one shard's rows. Raises ``ShardError`` after the last one if the shard turns out damaged."""
    targets = {f"{one.group}/{one.name}": group[one.group][one.name] for one in plan.variables}
    targets["n_draws"] = group["sample_stats"]["n_draws"]
    for block in stream_shard(part.path):
        if block.name in targets:
            rows = part.rows[block.start : block.start + len(block.values)]
            _write_rows(targets[block.name], rows, block.values)


def _write_rows(target: h5py.Dataset, rows: Ints, values: NDArray) -> None:
    """Write ``values`` to the given rows, with one write for each run of consecutive ones."""
    order = np.argsort(rows)
    full = (len(values), *target.shape[1:])
    if values.shape == full:
        padded = values[order].astype(target.dtype, copy=False)
    else:
        padded = np.full(full, target.fillvalue, dtype=target.dtype)
        padded[(slice(None), *(slice(length) for length in values.shape[1:]))] = values[order]
    rows = rows[order]
    edges = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    # Low-level calls: shards of ragged data sets scatter, and target[...] = costs 70 us a row.
    file_space, memory_space = target.id.get_space(), h5py.h5s.create_simple(full)
    starts, origin = rows.tolist(), (0,) * (len(full) - 1)
    for first, last in zip([0, *edges], [*edges, len(rows)], strict=True):
        count = (last - first, *full[1:])
        file_space.select_hyperslab((starts[first], *origin), count)
        memory_space.select_hyperslab((first, *origin), count)
        target.id.write(memory_space, file_space, padded)


def _check(plans: Sequence[EnginePlan], path: Path) -> None:
    """Reopen the merged file as a reader would and compare its axes and counts with the plan."""
    with h5netcdf.File(path, "r", decode_vlen_strings=True) as file:
        for plan in plans:
            for variable in plan.variables:
                found = file[plan.engine][variable.group][variable.name].shape
                expected = (len(plan.ids), plan.chains, plan.draws, *variable.tail)
                if found != expected:
                    raise ChainsweepError(f"{path}: {variable.name}: expected shape {expected}, got {found}")
            stats = file[plan.engine]["sample_stats"]
            if tuple(stats["dataset"][...]) != plan.ids or int(stats["n_draws"][...].max()) > plan.draws:
                raise ChainsweepError(f"{path}: {plan.engine}: the data set axis is not what was written")
