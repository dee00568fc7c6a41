"""What the report shows, as plain arrays and tables: no engine, no file, no JAX.

NaN means "not known" in every number here; an array that is None means "this engine has no such thing".
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
    """What ``converged`` asked for, drawn as lines into the histograms."""

    rhat: float = 1.01
    ess: float = 400.0
    khat: float = 0.7
    tau_factor: float = 50.0
    min_ppc_pvalue: float = 0.001


@dataclass(frozen=True)
class TraceView:
    """A thinned trace that includes the burn-in."""

    values: Floats
    """``(chain, step, ndim)``."""
    n_burn_in: int
    """Steps of ``values`` that were thrown away."""
    thin: int
    """Sampler steps between two rows of ``values``."""


@dataclass(frozen=True)
class EngineView:
    """One data set as one engine sees it."""

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
    """What held-out simulations say of a trained network, as in ``calibration.json``."""
    notes: tuple[str, ...] = ()
    """Sentences the reader must see: data sets that were asked for and are not there..."""
