"""The parts of the page: figures drawn and tables cut to a readable length, ready for the templates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from chainsweep.report import formatting as fmt
from chainsweep.report.comparison_plots import (
    Recovered,
    agreement_histogram,
    agreement_intervals,
    recovery_plot,
)
from chainsweep.report.gallery import Gallery, Picture, drawn
from chainsweep.report.ranking import differences, engine_pairs, largest_difference
from chainsweep.report.style import VERDICTS
from chainsweep.report.sweep_plots import Scale, log_limits, ridge_histogram, verdict_bars
from chainsweep.report.views import Floats, SweepView
from chainsweep.verdicts.causes import TOLD, Cause

MAX_RECOVERED = 12
MAX_WORST = 25
MAX_QUARANTINE = 50


@dataclass(frozen=True)
class Table:
    """A shortened table; ``left_out`` rows are not shown."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


@dataclass(frozen=True)
class WorstRow:
    """One data set and engine in the table of the worst."""

    dataset_id: str
    n_engines: int
    """The number of rows that this data set spans, on its first row; 0 on the others."""
    engine: str
    verdict: str
    reason: str
    flags: str
    hint: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class CauseRow:
    """A cause of what is not converged: its meaning, advice, and the number of data sets by engine."""

    cause: str
    means: str
    advice: str
    counts: tuple[str, ...]


WORST_FIGURES = ("R̂", "ESS", "k̂", "τ", "div.", "Δ (sd)", "ppc p", "seconds")


def verdict_counts(view: SweepView) -> dict[str, dict[str, int]]:
    """Count data sets per engine and verdict, with those set aside before the sweep; without a row they are pending."""
    counts: dict[str, dict[str, int]] = {}
    for engine in view.engines:
        rows = view.catalogue.loc[view.catalogue["engine"] == engine, "verdict"]
        found = rows.value_counts()
        counts[engine] = {verdict: int(found.get(verdict, 0)) for verdict in VERDICTS}
        counts[engine]["pending"] += max(view.n_datasets - len(rows) + counts[engine]["bad_data"], 0)
    return counts


def cause_rows(view: SweepView) -> list[CauseRow]:
    """Return the causes of what is neither converged nor pending, most frequent first; none without the column."""
    if "cause" not in view.catalogue.columns:
        return []
    table = view.catalogue.groupby(["cause", "engine"]).size().unstack(fill_value=0)
    table = table.reindex(columns=list(view.engines), fill_value=0)
    order = table.sum(axis=1).sort_values(ascending=False, kind="stable").index
    known = [Cause(cause) for cause in order if cause in set(Cause)]
    return [
        CauseRow(
            str(cause),
            TOLD[cause].means,
            TOLD[cause].advice.format(budget="the budget of the engine"),
            tuple(fmt.count(number) if number else "" for number in table.loc[cause]),
        )
        for cause in known
    ]


def converged_by_engines(view: SweepView) -> tuple[int, int]:
    """Return the numbers of data sets that at least one engine, and that every engine, brought to ``converged``."""
    good = view.catalogue.loc[view.catalogue["verdict"] == "converged"]
    per_dataset = good.groupby("dataset_id")["engine"].nunique()
    return len(per_dataset), int((per_dataset >= len(view.engines)).sum())


def diagnostics_pictures(view: SweepView, gallery: Gallery) -> list[Picture]:
    """Draw histograms of R-hat, ESS, k-hat and seconds, one row per engine."""
    limits = view.thresholds
    ess = _by_engine(view, "ess_bulk_min")
    seconds = _by_engine(view, "seconds")
    plans = (
        ("rhat", "R̂, worst parameter", "rhat_max", Scale("R̂", (-4, 1), "rhat", limits.rhat)),
        (
            "ess",
            "effective sample size, worst parameter",
            "ess_bulk_min",
            Scale("ESS", log_limits(list(ess.values()), (0, 4)), "log", limits.ess, good_below=False),
        ),
        ("khat", "Pareto k̂ of the weights", "khat", Scale("k̂", (-0.5, 2.0), "linear", limits.khat)),
        (
            "seconds",
            "seconds per data set",
            "seconds",
            Scale("seconds", log_limits(list(seconds.values()), (-1, 2)), "log"),
        ),
    )
    pictures = [
        gallery.add(
            drawn(verdict_bars(verdict_counts(view)), "sweep_verdicts", "Stacked bars of verdicts, one per engine")
        )
    ]
    for stem, title, column, scale in plans:
        values = _by_engine(view, column)
        if not values:
            continue
        alt = f"Histogram of {title} over all data sets, one row per engine: {', '.join(values)}"
        pictures.append(gallery.add(drawn(ridge_histogram(title, values, scale), f"sweep_{stem}", alt)))
    return pictures


def _by_engine(view: SweepView, column: str) -> dict[str, Floats]:
    """Return the known values of a column per engine; empty if no engine has any."""
    if column not in view.catalogue.columns:
        return {}
    values = {}
    for engine in view.engines:
        rows = view.catalogue.loc[view.catalogue["engine"] == engine, column]
        known = rows.to_numpy(dtype=np.float64, na_value=np.nan)
        known = known[~np.isnan(known)]
        values[engine] = known
    return values if any(known.size for known in values.values()) else {}


def recovery_pictures(view: SweepView, gallery: Gallery) -> list[Picture]:
    """Draw recovered against true values, one figure per parameter with known truth (12 at most)."""
    pictures = []
    for index, parameter in enumerate(_with_truth(view)[:MAX_RECOVERED]):
        parts = [_recovered(view, engine, parameter) for engine in view.engines]
        alt = f"Posterior mean of {parameter} against its true value, one panel per engine"
        pictures.append(gallery.add(drawn(recovery_plot(parameter, parts), f"sweep_recovery_{index:02d}", alt)))
    return pictures


def recovery_left_out(view: SweepView) -> int:
    """Return the number of parameters with known truth that are not drawn."""
    return max(len(_with_truth(view)) - MAX_RECOVERED, 0)


def _with_truth(view: SweepView) -> list[str]:
    return [
        name
        for name in view.parameters
        if name in view.truth.columns and f"mean_{name}" in view.catalogue.columns and view.truth[name].notna().any()
    ]


def _recovered(view: SweepView, engine: str, parameter: str) -> Recovered:
    rows = view.catalogue[view.catalogue["engine"] == engine]
    truth = view.truth[parameter].reindex(rows["dataset_id"]).to_numpy(dtype=np.float64)
    columns = (
        rows[f"{column}_{parameter}"].to_numpy(dtype=np.float64, na_value=np.nan) for column in ("mean", "q05", "q95")
    )
    return Recovered(engine, truth, *columns)


def agreement_pictures(view: SweepView, gallery: Gallery) -> list[Picture]:
    """Draw differences of posterior means between engines where both converged, in units of posterior sd."""
    pairs = engine_pairs(view.engines)
    if not pairs:
        return []
    largest = {
        pair: largest_difference(view.catalogue, pair, view.parameters, converged_only=True).to_numpy()
        for pair in pairs
    }
    pictures = [
        gallery.add(
            drawn(
                agreement_histogram(largest),
                "sweep_agreement",
                "Histogram of the largest difference of posterior means between engines, in posterior sd",
            )
        )
    ]
    for pair in pairs:
        table = differences(view.catalogue, pair, view.parameters, converged_only=True)
        names = list(table.columns)[: 2 * MAX_RECOVERED]
        alt = f"Difference of posterior means, {pair[0]} minus {pair[1]}, per parameter"
        figure = agreement_intervals(pair, names, table[names].to_numpy())
        pictures.append(gallery.add(drawn(figure, f"sweep_agreement_{pair[0]}_{pair[1]}", alt)))
    return pictures


def worst_rows(view: SweepView) -> list[WorstRow]:
    """Return the rows of the worst data sets, all engines of each, worst first."""
    ids = list(view.worst.index[:MAX_WORST])
    rows = view.catalogue[view.catalogue["dataset_id"].isin(ids)]
    groups = dict(iter(rows.groupby("dataset_id", sort=False)))
    return list(chain.from_iterable(_rows_of(view, key, groups[key]) for key in ids if key in groups))


def _rows_of(view: SweepView, dataset_id: str, group: pd.DataFrame) -> list[WorstRow]:
    summary = view.worst.loc[dataset_id]
    out = []
    for index, record in enumerate(group.to_dict("records")):
        figures = (
            fmt.rhat(record.get("rhat_max")),
            fmt.count(record.get("ess_bulk_min")),
            fmt.number(record.get("khat"), 2),
            fmt.count(record.get("tau_max")),
            fmt.count(record.get("divergences")),
            fmt.number(summary["disagreement"], 2),
            fmt.number(record.get("ppc_pvalue"), 2),
            fmt.number(record.get("seconds"), 2),
        )
        out.append(
            WorstRow(
                dataset_id=dataset_id,
                n_engines=0 if index else len(group),
                engine=str(record["engine"]),
                verdict=str(record["verdict"]),
                reason=text(record.get("reason")),
                flags=text(record.get("flags")),
                hint=text(record.get("hint")),
                figures=figures,
            )
        )
    return out


def quarantine_table(quarantine: pd.DataFrame) -> Table:
    """Return the first 50 rows of the quarantine as text."""
    shown = quarantine.head(MAX_QUARANTINE)
    rows = tuple(tuple(text(value) for value in row) for row in shown.itertuples(index=False, name=None))
    return Table(tuple(str(c) for c in quarantine.columns), rows, len(quarantine) - len(shown))


def text(value: object) -> str:
    """Return a cell as text; empty if it is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
