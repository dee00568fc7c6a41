"""The command ``show``: one data set from the published shards, merged or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from chainsweep.campaign.campaign import Campaign
from chainsweep.stages.graph import shard_is_valid
from chainsweep.store.shard import read_summary

FIGURES: tuple[str, ...] = ("rhat_max", "ess_bulk_min", "ess_tail_min", "divergences", "tau_max", "acceptance", "khat")
FIGURES += ("ess_weighted", "is_efficiency", "log_evidence", "ppc_pvalue", "mode_shift", "mass_outside")
FIGURES += ("draws", "seconds", "attempt")


def describe_dataset(campaign: Campaign, dataset_id: str) -> dict[str, Any]:
    """Return design, truth, figure files and one catalogue row for each engine (None where it is pending).

    Raises
    ------
    InputError
        The campaign has no such data set.
    """
    from chainsweep.report.gallery import figure_files

    position = campaign.collection.position(dataset_id)
    plan, row = campaign.locate(position)
    engines: dict[str, Any] = {}
    for engine in campaign.engines:
        engines[engine] = None
        if shard_is_valid(campaign, engine, plan.index):
            summary = read_summary(campaign.paths.shard(engine, plan.index))
            engines[engine] = {name: _plain(column[row]) for name, column in summary.items()}
    _, constants = campaign.dataset(dataset_id)
    return {
        "id": dataset_id,
        "points": int(campaign.collection.lengths[position]),
        "shard": plan.index,
        "constants": {name: np.asarray(value).tolist() for name, value in constants.items()},
        "truth": campaign.truth(dataset_id),
        "engines": engines,
        "figures": [str(path) for path in figure_files(campaign.paths.report, dataset_id)],
    }


def _plain(value: Any) -> Any:
    """Return ``value`` as a JSON value; NaN, which JSON does not have, becomes None."""
    if isinstance(value, str):
        return value
    number = np.asarray(value).item()
    if isinstance(number, float) and not np.isfinite(number):
        return None
    return number


def dataset_tables(campaign: Campaign, description: dict[str, Any]) -> list[Table]:
    """Return the description as tables: verdicts and figures, then mean and sd of each parameter."""
    rows = description["engines"]
    verdicts = Table("", *rows, title=f"{description['id']} ({description['points']} points)", box=None)
    for name in ("verdict", "reason", "cause", "hint", "flags", "edge", *FIGURES):
        cells = ["pending" if row is None and name == "verdict" else _cell(row, name) for row in rows.values()]
        if any(cells):
            verdicts.add_row(name, *cells)
    parameters = Table("parameter", *rows, *(["truth"] if description["truth"] else []), box=None)
    for name in campaign.parameter_names:
        cells = [f"{_cell(row, f'mean_{name}')} ± {_cell(row, f'sd_{name}')}" for row in rows.values()]
        truth = [f"{description['truth'][name]:.4g}"] if name in description["truth"] else []
        parameters.add_row(name, *cells, *truth)
    return [verdicts, parameters]


def _cell(row: dict[str, Any] | None, name: str) -> str:
    value = None if row is None else row.get(name)
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
