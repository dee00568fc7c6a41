"""The plan of a merged file, made before a draw is read: axes, types, and the row of every data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chainsweep.numerics.arrays import Ints
from chainsweep.store.shard import ShardError, ShardLayout, read_layout

Rejected = dict[Path, str]
"""The shard files that are left out, each with the reason."""


@dataclass(frozen=True)
class Variable:
    """An array of the merged file; ``tail`` are its axes after ``(dataset, chain, draw)``."""

    group: str
    name: str
    dtype: np.dtype
    tail: tuple[int, ...]


@dataclass(frozen=True)
class ShardRows:
    """A shard of a merge: ``rows[i]`` is the merged row of its data set ``i``."""

    path: Path
    rows: Ints


@dataclass(frozen=True)
class EnginePlan:
    """The part of the merged file for one engine."""

    engine: str
    kind: str
    ids: tuple[str, ...]
    chains: int
    draws: int
    variables: tuple[Variable, ...]
    parts: tuple[ShardRows, ...]


def plan_engine(
    engine: str,
    paths: Iterable[Path],
    ids_in_order: Sequence[str],
    campaign_hash: str,
    rejected: Rejected,
) -> EnginePlan | None:
    """Return the plan of one engine, or None if no shard of it is usable; unusable shards go into ``rejected``.

    Raises
    ------
    ShardError
        Two shards hold the same data set, or one holds a data set that is not in the campaign.
    """
    layouts: dict[Path, ShardLayout] = {}
    for path in sorted(paths):
        if path in rejected:
            continue
        try:
            layout = read_layout(path)
            _check_belongs(layout, engine, campaign_hash, path)
            if layouts:
                _check_like(layout, next(iter(layouts.values())), path)
        except ShardError as error:
            rejected[path] = str(error)
        else:
            layouts[path] = layout
    if not layouts:
        return None
    positions = _positions(layouts, ids_in_order)
    present = np.sort(np.concatenate(list(positions.values())))
    shapes = [layout.arrays for layout in layouts.values()]
    return EnginePlan(
        engine=engine,
        kind=next(iter(layouts.values())).header.kind,
        ids=tuple(ids_in_order[position] for position in present),
        chains=max(shape[1] for arrays in shapes for _, shape in arrays.values()),
        draws=max(shape[2] for arrays in shapes for _, shape in arrays.values()),
        variables=_variables(shapes),
        parts=tuple(ShardRows(path, np.searchsorted(present, where)) for path, where in positions.items()),
    )


def _variables(shapes: Sequence[Mapping[str, tuple[np.dtype, tuple[int, ...]]]]) -> tuple[Variable, ...]:
    variables = []
    for path in shapes[0]:
        group, name = path.split("/")
        dtype = np.result_type(*(arrays[path][0] for arrays in shapes))
        variables.append(Variable(group, name, dtype, shapes[0][path][1][3:]))
    return tuple(variables)


def _check_belongs(layout: ShardLayout, engine: str, campaign_hash: str, path: Path) -> None:
    header = layout.header
    if (header.engine, header.campaign_hash) != (engine, campaign_hash):
        raise ShardError(
            f"{path}: expected a shard of engine {engine!r} and campaign {campaign_hash!r}, got "
            f"{header.engine!r} and {header.campaign_hash!r}; remove it and run the task again"
        )


def _check_like(layout: ShardLayout, first: ShardLayout, path: Path) -> None:
    """Raise unless the shards hold the same variables; only chain and draw lengths may differ."""
    kinds = [{name: (dtype.kind, shape[3:]) for name, (dtype, shape) in one.arrays.items()} for one in (first, layout)]
    if kinds[0] != kinds[1] or layout.header.kind != first.header.kind:
        raise ShardError(
            f"{path}: expected {first.header.kind} draws of the variables {kinds[0]} like the engine's first "
            f"shard, got {layout.header.kind} draws of {kinds[1]}; remove it and run the task again"
        )


def _positions(layouts: Mapping[Path, ShardLayout], ids_in_order: Sequence[str]) -> dict[Path, Ints]:
    """Return the campaign positions of each shard's data sets."""
    position_of = {dataset_id: position for position, dataset_id in enumerate(ids_in_order)}
    owner: dict[str, Path] = {}
    positions = {}
    for path, layout in layouts.items():
        for dataset_id in layout.ids:
            if dataset_id not in position_of:
                raise ShardError(
                    f"{path}: holds data set {dataset_id!r}, which the campaign has not; "
                    "was data.h5 replaced? restore it, or remove the shard file"
                )
            if dataset_id in owner:
                raise ShardError(
                    f"{path}: holds data set {dataset_id!r}, which {owner[dataset_id]} holds too; a data set "
                    "belongs to one shard: remove the file that is not of this campaign's plan"
                )
            owner[dataset_id] = path
        positions[path] = np.array([position_of[one] for one in layout.ids], dtype=np.int64)
    return positions
