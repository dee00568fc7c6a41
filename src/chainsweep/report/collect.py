"""The choice and preparation of the data that the report draws: plain arrays in, view values out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chainsweep.campaign.config import CampaignConfig
from chainsweep.diagnostics.convergence import convergence
from chainsweep.errors import ChainsweepError
from chainsweep.report.views import DataView, Floats

MAX_DATASETS = 24
"""The largest number of sections of one page; each embeds about 0.3 MB of figures."""

Arrays = Mapping[str, NDArray]


def choose(
    ids: list[str], worst: pd.DataFrame, asked: list[str], n_worst: int
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the data sets that get a section with the reason for each, and notes on requested ones without a section.

    Order: the first data set, those asked for, the ``n_worst`` worst; at most 24.
    """
    if not ids:
        return {}, ()
    known = set(ids)
    reasons: dict[str, list[str]] = {ids[0]: ["first"]}
    for key in asked:
        if key in known:
            reasons.setdefault(key, []).append("asked for")
    for place, key in enumerate(worst.index[:n_worst], start=1):
        reasons.setdefault(str(key), []).append(f"worst {place}")
    notes = [
        f"report.datasets names “{key}”, which this campaign does not have (quarantined, or a wrong id)."
        for key in asked
        if key not in known
    ]
    if len(reasons) > MAX_DATASETS:
        notes.append(
            f"{len(reasons)} data sets were chosen; the page draws the first {MAX_DATASETS}. "
            "Name fewer in report.datasets to see others."
        )
    kept = list(reasons.items())[:MAX_DATASETS]
    return {key: ", ".join(parts) for key, parts in kept}, tuple(notes)


def flat_names(parameter: str, names: tuple[str, ...]) -> list[str]:
    """Return the flat names of one parameter, in C order of its components: ``theta[0]``, ``theta[1]``..."""
    return [name for name in names if name == parameter or name.startswith(f"{parameter}[")]


def truth_frame(ids: list[str], table: Mapping[str, NDArray], names: tuple[str, ...]) -> pd.DataFrame:
    """Return the truths as one column per flat parameter name; parameters without a known truth are left out."""
    columns = {}
    for parameter, values in table.items():
        flat = np.asarray(values, dtype=np.float64).reshape(len(ids), -1)
        for index, name in enumerate(flat_names(parameter, names)[: flat.shape[1]]):
            if np.isfinite(flat[:, index]).any():
                columns[name] = flat[:, index]
    return pd.DataFrame(columns, index=pd.Index(ids, name="dataset_id"))


def data_view(fields: Arrays, config: CampaignConfig) -> DataView | None:
    """Return the first observed field that is one number per point, with its error; None if there is none.

    The error is ``<observed>_err`` where the data have it, the square root (at least 1) for counts, else
    unknown.
    """
    observed = next((name for name in config.model.observed if name in fields and fields[name].ndim == 1), None)
    if observed is None:
        return None
    y = np.asarray(fields[observed], dtype=np.float64)
    x_name = config.model.x
    x = fields.get(x_name) if x_name is not None else None
    err = fields.get(f"{observed}_err")
    if err is None and np.all((y >= 0) & (y == np.round(y))):
        err = np.sqrt(np.maximum(y, 1.0))
    usable = x is not None and np.shape(x) == y.shape
    return DataView(
        x=np.asarray(x, dtype=np.float64) if usable else np.arange(len(y), dtype=np.float64),
        y=y,
        err=None if err is None or np.shape(err) != y.shape else np.asarray(err, dtype=np.float64),
        x_label=config.data.fields.get(str(x_name), str(x_name)) if usable else "point",
        y_label=config.data.fields.get(observed, observed),
    )


def stack_draws(posterior: Arrays, names: tuple[str, ...]) -> Floats:
    """Stack parameters of shape ``(chain, draw, *shape)`` as columns in the order of ``names``.

    The result has shape ``(chain, draw, ndim)``, float64; it is empty if there is no draw.
    """
    columns: dict[str, Floats] = {}
    for parameter, values in posterior.items():
        flat = np.asarray(values, dtype=np.float64)
        if not flat.size:
            return np.empty((0, 0, len(names)))
        flat = flat.reshape(*flat.shape[:2], -1)
        own = flat_names(parameter, names)
        if len(own) != flat.shape[2]:
            raise ChainsweepError(
                f"parameter '{parameter}': expected {len(own)} columns (flat names {own}), "
                f"got draws of shape {np.shape(values)}; the posterior does not belong to this model"
            )
        columns |= {name: flat[:, :, index] for index, name in enumerate(own)}
    missing = [name for name in names if name not in columns]
    if missing:
        raise ChainsweepError(f"expected draws of every parameter, got none of {', '.join(missing)}")
    return np.stack([columns[name] for name in names], axis=2)


def posterior_table(row: pd.Series, names: tuple[str, ...]) -> pd.DataFrame:
    """Return mean, sd, median, 5 % and 95 % quantile of a catalogue row; empty if it has none."""
    columns: dict[str, Any] = {"mean": "mean", "sd": "sd", "median": "q50", "q05": "q05", "q95": "q95"}
    table = pd.DataFrame(
        {label: [row.get(f"{stem}_{name}") for name in names] for label, stem in columns.items()},
        index=list(names),
    ).astype(float)
    return table.dropna(how="all")


def with_convergence(table: pd.DataFrame, names: tuple[str, ...], draws: Floats) -> pd.DataFrame:
    """Return ``table`` with the columns ``ess`` and ``rhat`` of each parameter's kept draws."""
    figures = convergence(np.moveaxis(draws, 2, 0))
    return table.assign(
        ess=pd.Series(figures["ess_bulk"], index=list(names)),
        rhat=pd.Series(figures["rhat"], index=list(names)),
    )
