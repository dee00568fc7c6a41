"""The report of a campaign: choose the data sets to draw, collect their arrays, render."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chainsweep.campaign.config import CampaignConfig
from chainsweep.packages import VERSION
from chainsweep.report.collect import (
    Arrays,
    choose,
    data_view,
    posterior_table,
    stack_draws,
    truth_frame,
    with_convergence,
)
from chainsweep.report.drawing import drawing
from chainsweep.report.formatting import as_float
from chainsweep.report.pages import write_report
from chainsweep.report.ranking import rank
from chainsweep.report.sections import text
from chainsweep.report.views import (
    DatasetView,
    EngineView,
    Floats,
    SweepView,
    Thresholds,
    TraceView,
)

BAND_CURVES = 200
"""The number of curves that the 90 % band is computed from, whatever the number of curves drawn."""


class ReportPaths(Protocol):
    """The paths of a campaign that the report needs."""

    @property
    def report(self) -> Path:
        """The report folder."""


class ReportCollection(Protocol):
    """The part of the frozen data that the report needs."""

    @property
    def ids(self) -> list[str]:
        """The ids in the order of the campaign."""

    def truth_table(self) -> Mapping[str, NDArray]:
        """Return the truths of each parameter, ``(dataset, *shape)``, NaN where unknown."""


class ReportCampaign(Protocol):
    """The part of a campaign that the report needs."""

    @property
    def name(self) -> str:
        """The name of the campaign."""

    @property
    def hash(self) -> str:
        """The hash of configuration, data and model."""

    @property
    def config(self) -> CampaignConfig:
        """The resolved configuration."""

    @property
    def paths(self) -> ReportPaths:
        """The paths of the campaign's files."""

    @property
    def collection(self) -> ReportCollection:
        """The frozen data sets."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The flat names of the parameters, ``theta[0]`` for an element of a vector."""

    def catalogue(self) -> pd.DataFrame:
        """Return the catalogue, one row per data set and engine."""

    def quarantine(self) -> pd.DataFrame:
        """Return the quarantine, one row per data set that was set aside."""

    def posterior_arrays(self, dataset_id: str, engine: str) -> Mapping[str, Arrays]:
        """Return draws: in ``posterior`` each ``(chain, draw, *shape)``, in ``sample_stats`` ``(chain, draw)``."""

    def predictive_curves(self, dataset_id: str, engine: str, n: int) -> tuple[Floats, Floats] | None:
        """Return ``x`` ``(point,)`` and ``n`` curves ``(n, point)``, or None for a model without a curve."""

    def dataset(self, dataset_id: str) -> tuple[Arrays, Mapping[str, Any]]:
        """Return the fields without padding, and the constants, which are numbers or vectors."""

    def truth(self, dataset_id: str) -> Mapping[str, float]:
        """Return the known truths by flat name."""

    def trace(self, dataset_id: str, engine: str) -> tuple[Floats, int, int] | None:
        """Return a trace ``(chain, step, ndim)``, its number of burn-in steps and sampler steps per row, or None."""

    def calibration(self) -> Mapping[str, Any] | None:
        """Return the content of a network's ``calibration.json``, or None."""


def build_report(campaign: ReportCampaign, created: datetime | None = None) -> Path:
    """Write the report of a campaign, complete or not, and return the path of ``index.html``.

    ``created`` is the date the page shows; by default now.
    """
    catalogue = campaign.catalogue()
    config = campaign.config
    engines = _engines(config, catalogue)
    thresholds = Thresholds(
        rhat=config.verdict.rhat,
        ess=config.verdict.ess,
        khat=config.verdict.khat,
        min_ppc_pvalue=config.verdict.min_ppc_pvalue,
    )
    ids = list(campaign.collection.ids)
    tried = catalogue[~catalogue["verdict"].isin(("bad_data", "pending"))]
    worst = rank(tried, engines, campaign.parameter_names, thresholds)
    chosen, notes = choose(ids, worst, config.report.datasets, config.report.worst)
    with drawing(len(chosen), thresholds) as drawn:
        views = []
        for key, why in chosen.items():
            views.append(_dataset_view(campaign, catalogue, engines, key, why))
            drawn.begin(views[-1])
        view = SweepView(
            name=campaign.name,
            campaign_hash=campaign.hash,
            created=f"{created or datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            versions={"chainsweep": VERSION, "Python": platform.python_version()},
            engines=engines,
            parameters=campaign.parameter_names,
            n_datasets=len(ids),
            catalogue=catalogue,
            truth=truth_frame(ids, campaign.collection.truth_table(), campaign.parameter_names),
            quarantine=campaign.quarantine(),
            worst=worst,
            calibration=campaign.calibration(),
            thresholds=thresholds,
            datasets=tuple(views),
            notes=notes,
        )
        return write_report(view, campaign.paths.report, drawn)


def _engines(config: CampaignConfig, catalogue: pd.DataFrame) -> tuple[str, ...]:
    """Return the engines of the policy, then any other engine in the catalogue (a ladder's referee)."""
    found = sorted(set(catalogue["engine"].unique()) - set(config.policy.engines))
    return (*config.policy.engines, *found)


def _dataset_view(
    campaign: ReportCampaign, catalogue: pd.DataFrame, engines: tuple[str, ...], key: str, why: str
) -> DatasetView:
    fields, constants = campaign.dataset(key)
    rows = catalogue[catalogue["dataset_id"] == key].drop_duplicates("engine", keep="last")
    by_engine = {str(row["engine"]): row for _, row in rows.iterrows()}
    views = tuple(_engine_view(campaign, by_engine[engine], key, engine) for engine in engines if engine in by_engine)
    return DatasetView(
        dataset_id=key,
        why=why,
        parameters=campaign.parameter_names,
        truth=campaign.truth(key),
        engines=views,
        data=data_view(fields, campaign.config),
        constants=constants,
        curves_shown=campaign.config.report.curves,
    )


def _engine_view(campaign: ReportCampaign, row: pd.Series, key: str, engine: str) -> EngineView:
    known = {str(name): as_float(value) for name, value in row.items()}
    numbers = {name: value for name, value in known.items() if value is not None}
    verdict = str(row["verdict"])
    reason, hint = text(row.get("reason")), text(row.get("hint"))
    table = posterior_table(row, campaign.parameter_names)
    if not numbers.get("draws", 0.0) > 0:
        return EngineView(engine, verdict, reason, numbers, table, hint=hint)
    arrays = campaign.posterior_arrays(key, engine)
    draws = stack_draws(arrays["posterior"], campaign.parameter_names)
    if not draws.size:
        return EngineView(engine, verdict, reason, numbers, table, hint=hint)
    log_weights = arrays["sample_stats"].get("log_weight")
    if log_weights is None and "tau_max" not in numbers:
        table = with_convergence(table, campaign.parameter_names, draws)
    trace = campaign.trace(key, engine)
    drawn = campaign.predictive_curves(key, engine, max(BAND_CURVES, campaign.config.report.curves))
    return EngineView(
        engine=engine,
        verdict=verdict,
        reason=reason,
        numbers=numbers,
        table=table,
        draws=draws,
        log_weights=None if log_weights is None else np.asarray(log_weights, dtype=np.float64),
        hint=hint,
        trace=None if trace is None else TraceView(*trace),
        curves=None if drawn is None else np.asarray(drawn[1], dtype=np.float64),
    )
