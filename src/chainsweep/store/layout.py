"""The definition of a shard and its layout as named arrays: types, names, shapes, storage types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import ChainsweepError
from chainsweep.numerics.arrays import Ints

SCHEMA = "chainsweep-shard/1"
ALWAYS_FLOAT64 = frozenset({"lp", "log_weight"})
RESERVED_NAMES = frozenset({"dataset", "chain", "draw", "n_draws"})
FIXED_ATTRIBUTES = {"engine": str, "kind": str, "shard": int, "campaign_hash": str, "attempt": int}

Provenance = dict[str, str | int | float | bool]


class ShardError(ChainsweepError):
    """A shard file is not the valid, published file that it was expected to be; the message says why."""


@dataclass(frozen=True)
class ShardHeader:
    """The origin of the draws: engine, shard and campaign, and how they were made (versions, device, dtype...)."""

    engine: str
    kind: str
    shard: int
    campaign_hash: str
    attempt: int
    provenance: Provenance


@dataclass(frozen=True)
class Shard:
    """The draws of a block of data sets.

    ``posterior[name]`` is ``(dataset, chain, draw, *shape)`` and ``sample_stats[name]`` ``(dataset, chain,
    draw)``, all of one chain and draw length (0 draws where nothing was sampled). Data set ``i`` has
    ``n_draws[i]`` draws in each chain, at the front, NaN behind. ``summary[column]`` is ``(dataset,)``: float
    (NaN = null), int, bool or a list of str.
    """

    header: ShardHeader
    ids: tuple[str, ...]
    posterior: dict[str, NDArray]
    sample_stats: dict[str, NDArray]
    n_draws: Ints
    summary: Mapping[str, NDArray | Sequence[str]]


def storage_dtype(values: NDArray, dtype: np.dtype) -> np.dtype:
    """Return ``dtype``, or float64 if rounding to ``dtype`` would be harmful.

    Harmful means an overflow, or a rounding error above 1e-4 of the range of the draws, in some data set. A parameter
    such as a time of 59000.123 +- 1e-3 would lose its posterior in float32.
    """
    if values.size == 0:
        return dtype
    axes = (1, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.fmax.reduce(np.abs(values - values.astype(dtype)), axis=axes)
        extent = np.fmax.reduce(values, axis=axes) - np.fmin.reduce(values, axis=axes)
        felt = (error > 1e-4 * extent) & (extent > 0)
    return np.dtype(np.float64) if np.any(felt) else dtype


def shard_arrays(shard: Shard, dtype: np.dtype) -> dict[str, NDArray]:
    """Check a shard and lay it out as named arrays, of the types in which they are stored."""
    count = len(shard.ids)
    arrays: dict[str, NDArray] = {
        "id": np.array(shard.ids, dtype=object),
        "n_draws": np.asarray(shard.n_draws, dtype=np.int64),
    }
    for name, values in shard.posterior.items():
        arrays[f"posterior/{name}"] = _stored(np.asarray(values), dtype)
    for name, values in shard.sample_stats.items():
        wanted = np.dtype(np.float64) if name in ALWAYS_FLOAT64 else dtype
        arrays[f"sample_stats/{name}"] = _stored(np.asarray(values), wanted)
    for name, column in shard.summary.items():
        arrays[f"summary/{name}"] = _summary_column(name, column)
    _check_names(shard)
    _check_shapes(arrays, count)
    return arrays


def _stored(values: NDArray, dtype: np.dtype) -> NDArray:
    if values.dtype.kind != "f":
        return values
    return values.astype(storage_dtype(values, dtype)) if values.ndim >= 3 else values


def _summary_column(name: str, column: NDArray | Sequence[str]) -> NDArray:
    values = np.asarray(column)
    if values.dtype.kind in "fiu":
        return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    if values.dtype.kind == "b":
        return values
    if any(not isinstance(item, str) for item in values.ravel()):
        raise ShardError(f"summary column '{name}': expected float, int, bool or str, got {values.dtype} values")
    return values.astype(object)


def _check_names(shard: Shard) -> None:
    drawn = (*shard.posterior, *shard.sample_stats)
    wrong = [name for name in drawn if name in RESERVED_NAMES]
    wrong += [name for name in (*drawn, *shard.summary) if "/" in name or not name]
    if wrong or len(set(shard.ids)) != len(shard.ids):
        what = f"names {wrong}" if wrong else "repeated ids"
        raise ShardError(
            f"shard {shard.header.shard}: {what} cannot be stored: expected unique ids and names without '/' "
            f"that are not one of {sorted(RESERVED_NAMES)}; rename the parameter in the model"
        )


def _check_shapes(arrays: Mapping[str, NDArray], count: int) -> None:
    drawn = {name: array.shape for name, array in arrays.items() if name.startswith(("posterior/", "sample_"))}
    flat = {name: array.shape for name, array in arrays.items() if name not in drawn}
    leads = {shape[:3] for shape in drawn.values()}
    wrong = {name: shape for name, shape in flat.items() if shape != (count,)}
    if len(leads) != 1 or any(len(lead) != 3 or lead[0] != count for lead in leads) or wrong:
        raise ShardError(
            f"a shard of {count} data sets needs draws and sample stats of one shape (dataset, chain, draw, "
            f"...) and columns of shape ({count},); got draws {drawn} and columns {wrong}"
        )
    n_draws, longest = arrays["n_draws"], next(iter(leads))[2]
    if count and (n_draws.min() < 0 or n_draws.max() > longest):
        raise ShardError(f"n_draws must lie in 0..{longest}, got {n_draws.min()}..{n_draws.max()}")


def attributes(header: ShardHeader) -> dict[str, str | int]:
    """Return the root attributes of the shard file except ``sha256`` and ``complete``. Raises ``ShardError``."""
    values = header.provenance.items()
    wrong = {key: value for key, value in values if not isinstance(value, str | int | float)}
    if wrong:
        raise ShardError(f"provenance must be str, int, float or bool, got {wrong}; convert them")
    fixed = {name: getattr(header, name) for name in FIXED_ATTRIBUTES}
    # One attribute holds all of the provenance: reading one takes 70 us, and status reads thousands of headers.
    return {"schema": SCHEMA, **fixed, "provenance": json.dumps(header.provenance, sort_keys=True)}
