"""The section of one chosen data set: its figures, its posterior table, its verdicts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainsweep.report import formatting as fmt
from chainsweep.report.chain_plots import autocorrelation_plot, trace_plot, weights_plot
from chainsweep.report.corner_plot import corner_draws, corner_plot
from chainsweep.report.gallery import Picture, dataset_folder, drawn
from chainsweep.report.plots import CurvesOf, data_limits, data_plot
from chainsweep.report.views import DatasetView, EngineView, Thresholds

TRACE_DPI = 130
"""The resolution of trace plots, lower than elsewhere because noise compresses badly."""


@dataclass(frozen=True)
class PosteriorRow:
    """One parameter of one engine, as text."""

    parameter: str
    truth: str
    """The truth, empty if unknown; both texts are set on the parameter's first row only."""
    n_engines: int
    engine: str
    cells: tuple[str, ...]


POSTERIOR_COLUMNS = ("mean", "sd", "median", "5 %", "95 %", "ESS", "check")


@dataclass(frozen=True)
class DatasetSection:
    """The content of the section of one data set, for the template."""

    view: DatasetView
    anchor: str
    data: tuple[Picture, ...]
    corner: Picture | None
    chains: tuple[Picture, ...]
    rows: tuple[PosteriorRow, ...]
    figures: tuple[tuple[EngineView, str], ...]
    """Each engine with the line of its figures of merit."""
    constants: str

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture of the section."""
        return (*self.data, *([] if self.corner is None else [self.corner]), *self.chains)


def dataset_section(view: DatasetView, thresholds: Thresholds) -> DatasetSection:
    """Draw every figure of a data set, for ``figures/<id>/<kind>``, and collect the texts of its section."""
    folder = dataset_folder(view.dataset_id)
    with_draws = [engine for engine in view.engines if engine.draws is not None and engine.draws.size]
    chains: list[Picture] = []
    for engine in with_draws:
        chains += _chain_pictures(view, engine, thresholds)
    return DatasetSection(
        view=view,
        anchor=f"dataset-{folder}",
        data=tuple(_data_pictures(view)),
        corner=_corner_picture(view) if with_draws else None,
        chains=tuple(chains),
        rows=tuple(posterior_rows(view)),
        figures=tuple((engine, figures_of_merit(engine)) for engine in view.engines),
        constants=", ".join(f"{name} = {_number_or_vector(value)}" for name, value in view.constants.items()),
    )


def _number_or_vector(value: Any) -> str:
    numbers = ", ".join(f"{number:.6g}" for number in np.ravel(value))
    return numbers if np.ndim(value) == 0 else f"({numbers})"


def _data_pictures(view: DatasetView) -> list[Picture]:
    if view.data is None:
        return []
    folder = dataset_folder(view.dataset_id)
    n_points = len(view.data.x)
    with_curves = [engine for engine in view.engines if engine.curves is not None and len(engine.curves)]
    if not with_curves:
        alt = f"The {n_points} data points of {view.dataset_id}"
        return [drawn(data_plot(view.data, None), f"{folder}/data", alt, "png")]
    limits = data_limits(view.data, [engine.curves for engine in with_curves if engine.curves is not None])
    pictures = []
    for engine in with_curves:
        assert engine.curves is not None
        figure = data_plot(view.data, CurvesOf(engine.engine, engine.curves, view.curves_shown), limits)
        alt = f"Data of {view.dataset_id} with posterior predictive curves of {engine.engine}, residuals below"
        pictures.append(drawn(figure, f"{folder}/data_{engine.engine}", alt, "png"))
    return pictures


def _corner_picture(view: DatasetView) -> Picture:
    n = len(view.parameters)
    posteriors = [
        corner_draws(
            engine.engine,
            np.empty((0, 0, n)) if engine.draws is None else engine.draws,
            None if engine.draws is None else engine.log_weights,
        )
        for engine in view.engines
    ]
    truth = [float(view.truth.get(name, np.nan)) for name in view.parameters]
    figure = corner_plot(view.parameters, posteriors, truth)
    names = ", ".join(engine.engine for engine in view.engines)
    alt = f"Corner plot of {view.dataset_id}: posteriors of {names} over each other"
    return drawn(figure, f"{dataset_folder(view.dataset_id)}/corner", alt, "png")


def _chain_pictures(view: DatasetView, engine: EngineView, thresholds: Thresholds) -> list[Picture]:
    folder, name = dataset_folder(view.dataset_id), engine.engine
    assert engine.draws is not None
    if engine.log_weights is not None:
        khat = fmt.as_float(engine.numbers.get("khat"))
        figure = weights_plot(name, engine.log_weights, np.nan if khat is None else khat, thresholds.khat)
        alt = f"Concentration of the importance weights of {name} for {view.dataset_id}"
        return [drawn(figure, f"{folder}/weights_{name}", alt)]
    tau = fmt.as_float(engine.numbers.get("tau_max"))
    trace = engine.trace
    kept, thin = (engine.draws, 1) if trace is None else (trace.values[:, trace.n_burn_in :], max(trace.thin, 1))
    return [
        drawn(
            trace_plot(name, view.parameters, engine.draws, trace),
            f"{folder}/trace_{name}",
            f"Trace of every parameter of {view.dataset_id}, {name}" + ("" if trace is None else "; burn-in shaded"),
            "png",
            TRACE_DPI,
        ),
        drawn(
            autocorrelation_plot(name, view.parameters, kept, thin, np.nan if tau is None or trace is None else tau),
            f"{folder}/autocorrelation_{name}",
            f"Autocorrelation of the chains of {view.dataset_id}, {name}",
        ),
    ]


def posterior_rows(view: DatasetView) -> list[PosteriorRow]:
    """Return the posterior table, a block of engines per parameter; engines without draws have no row."""
    with_table = [engine for engine in view.engines if len(engine.table)]
    records = {engine.engine: engine.table.to_dict("index") for engine in with_table}
    rows = []
    for parameter in view.parameters:
        block = [engine for engine in with_table if parameter in engine.table.index]
        for index, engine in enumerate(block):
            truth = fmt.as_float(view.truth.get(parameter))
            record = records[engine.engine][parameter]
            sd = record["sd"]
            rows.append(
                PosteriorRow(
                    parameter=parameter,
                    truth="" if truth is None or index else fmt.with_precision(truth, sd),
                    n_engines=0 if index else len(block),
                    engine=engine.engine,
                    cells=(
                        fmt.with_precision(record["mean"], sd),
                        fmt.number(sd, 2),
                        *(fmt.with_precision(record[name], sd) for name in ("median", "q05", "q95")),
                        fmt.count(_first_known(record.get("ess"), engine.numbers.get("ess_bulk_min"))),
                        _check(engine, record),
                    ),
                )
            )
    return rows


def _first_known(*values: object) -> object:
    return next((value for value in values if fmt.as_float(value) is not None), None)


def _check(engine: EngineView, record: Mapping[Hashable, object]) -> str:
    """Return the text of the figure that judges these draws: k-hat for weighted ones, tau and R-hat for chains."""
    if fmt.as_float(engine.numbers.get("khat")) is not None:
        return f"k̂ {fmt.number(engine.numbers['khat'], 2)}"
    parts = []
    if fmt.as_float(engine.numbers.get("tau_max")) is not None:
        parts.append(f"τ {fmt.count(engine.numbers['tau_max'])}")
    known = _first_known(record.get("rhat"), engine.numbers.get("rhat_max"))
    if known is not None:
        parts.append(f"R̂ {fmt.rhat(known)}")
    return ", ".join(parts) or fmt.DASH


def figures_of_merit(engine: EngineView) -> str:
    """Return one line with the known ones of R-hat, ESS, tau, k-hat, divergences, evidence, p-value and time."""
    plans = (
        ("rhat_max", "R̂", fmt.rhat),
        ("ess_bulk_min", "ESS", fmt.count),
        ("tau_max", "τ", fmt.count),
        ("divergences", "divergences", fmt.count),
        ("acceptance", "acceptance", lambda value: fmt.number(value, 2)),
        ("khat", "k̂", lambda value: fmt.number(value, 2)),
        ("is_efficiency", "efficiency", lambda value: fmt.number(value, 2)),
        ("log_evidence", "log evidence", lambda value: fmt.number(value, 4)),
        ("ppc_pvalue", "ppc p", lambda value: fmt.number(value, 2)),
        ("draws", "draws", fmt.count),
        ("seconds", "seconds", lambda value: fmt.number(value, 2)),
    )
    parts = [
        f"{label} {show(engine.numbers[column])}"
        for column, label, show in plans
        if fmt.as_float(engine.numbers.get(column)) is not None
    ]
    return " · ".join(parts)
