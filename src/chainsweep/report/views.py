"""The content of the report as plain arrays and tables; this module uses no engine, no file and no JAX.

NaN means "not known" in every number here; an array that is None means that the engine does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the verdict ``converged``, drawn as lines into the histograms."""

    rhat: float = 1.01
    ess: float = 400.0
    khat: float = 0.7
    min_ppc_pvalue: float = 0.001


@dataclass(frozen=True)
class TraceView:
    """A thinned trace that includes the burn-in."""

    values: Floats
    """``(chain, step, ndim)``."""
    n_burn_in: int
    """The number of steps of ``values`` that are burn-in."""
    thin: int
    """The number of sampler steps between two rows of ``values``."""


@dataclass(frozen=True)
class EngineView:
    """The results of one engine for one data set."""

    engine: str
    verdict: str
    reason: str
    numbers: Mapping[str, float]
    """Catalogue figures: ``rhat_max``, ``ess_bulk_min``, ``tau_max``, ``khat``, ``seconds``..."""
    table: pd.DataFrame
    """Index: parameter; columns mean, sd, median, q05, q95, and ess, rhat where known per parameter."""
    draws: Floats | None = None
    """``(chain, draw, ndim)`` in the constrained space."""
    log_weights: Floats | None = None
    """``(chain, draw)``; None for draws that all count the same."""
    trace: TraceView | None = None
    hint: str = ""
    """The place of the verdict's cause, and what to do; empty where it is ``converged``."""
    curves: Floats | None = None
    """``(curve, point)``, at the points of the data set."""


@dataclass(frozen=True)
class DataView:
    """The observed points of one data set."""

    x: Floats
    y: Floats
    """``(point,)``."""
    err: Floats | None
    """``(point,)`` or None when nothing is known about the errors."""
    x_label: str
    y_label: str


@dataclass(frozen=True)
class DatasetView:
    """One chosen data set with everything its section shows."""

    dataset_id: str
    why: str
    """Why it was chosen: ``first``, ``asked for``, ``worst 1``..."""
    parameters: tuple[str, ...]
    truth: Mapping[str, float]
    engines: tuple[EngineView, ...]
    data: DataView | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    curves_shown: int = 50


@dataclass(frozen=True)
class SweepView:
    """A whole report."""

    name: str
    campaign_hash: str
    created: str
    versions: Mapping[str, str]
    engines: tuple[str, ...]
    parameters: tuple[str, ...]
    n_datasets: int
    catalogue: pd.DataFrame
    """One row per data set and engine, columns as in ``catalogue.parquet``."""
    truth: pd.DataFrame
    """Index: data set id; one column per parameter of which some truth is known."""
    quarantine: pd.DataFrame
    worst: pd.DataFrame
    """Index: data set id, worst first; see :func:`chainsweep.report.ranking.rank`."""
    thresholds: Thresholds = Thresholds()
    datasets: tuple[DatasetView, ...] = ()
    calibration: Mapping[str, Any] | None = None
    """The calibration of a trained network on held-out simulations, as in ``calibration.json``."""
    notes: tuple[str, ...] = ()
    """The notes for the reader, such as data sets that were asked for and do not exist."""
