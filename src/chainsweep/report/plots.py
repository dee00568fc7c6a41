"""The figure of one data set with the posterior predictive curves of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chainsweep.report.style import (
    INK,
    MUTED,
    engine_colour,
    engine_text_colour,
    new_figure,
    styled,
)
from chainsweep.report.views import DataView, Floats


@dataclass(frozen=True)
class CurvesOf:
    """The posterior predictive curves of one engine: ``curves`` is ``(curve, point)``; ``shown`` of them are drawn."""

    engine: str
    curves: Floats
    shown: int = 50


@styled
def data_plot(data: DataView, of: CurvesOf | None, y_limits: tuple[float, float] | None = None) -> Figure:
    """Draw points with error bars, curves with their 90 % band, and residuals below if there are curves."""
    if of is None:
        figure = new_figure(4.6, 3.2)
        ax = figure.add_subplot()
        ax.set_xlabel(data.x_label)
    else:
        figure = new_figure(4.6, 4.0)
        ax, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3.2, 1)})
        ax.tick_params(labelbottom=False)
        _curves(ax, data, of)
        _residuals(below, data, of)
        ax.set_title(of.engine, color=engine_text_colour(of.engine))
    few = len(data.x) <= 80
    ax.errorbar(
        data.x,
        data.y,
        yerr=data.err,
        fmt="o",
        color=INK,
        ms=3.2 if few else 1.8,
        lw=0,
        elinewidth=0.8 if few else 0.4,
        ecolor=MUTED,
        zorder=5,
        label="data",
    )
    ax.set_ylabel(data.y_label)
    if y_limits is not None:
        ax.set_ylim(*y_limits)
    return figure


def data_limits(data: DataView, curves: Sequence[Floats]) -> tuple[float, float] | None:
    """Return common limits for the panels of all engines: every point with its error bar, and 98 % of the curves."""
    err = np.zeros_like(data.y) if data.err is None else data.err
    parts = [data.y - err, data.y + err]
    for values in curves:
        finite = values[np.isfinite(values)]
        if finite.size:
            parts.append(np.quantile(finite, [0.01, 0.99]))
    everything = np.concatenate(parts)
    everything = everything[np.isfinite(everything)]
    if not everything.size or everything.min() == everything.max():
        return None
    low, high = float(everything.min()), float(everything.max())
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _curves(ax: Axes, data: DataView, of: CurvesOf) -> None:
    order = np.argsort(data.x, kind="stable")
    x, curves = data.x[order], of.curves[:, order]
    colour = engine_colour(of.engine)
    low, middle, high = np.nanquantile(curves, [0.05, 0.5, 0.95], axis=0)
    ax.fill_between(x, low, high, color=colour, alpha=0.16, lw=0, label="90 % band")
    shown = curves[np.linspace(0, len(curves) - 1, min(of.shown, len(curves))).astype(int)]
    ax.plot(x, shown.T, color=colour, alpha=0.18, lw=0.6, zorder=3)
    ax.plot(x, middle, color=colour, lw=1.6, zorder=4, label="median")
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(handles[:2], [f"{len(shown)} draws, 90 % band", "median"], frameon=False, fontsize=8, loc="best")


def _residuals(ax: Axes, data: DataView, of: CurvesOf) -> None:
    residual = data.y - np.nanmedian(of.curves, axis=0)
    if data.err is not None:
        residual = residual / data.err
        ax.axhspan(-1, 1, color="#eef1f4", lw=0, zorder=0)
        ax.set_ylabel("residual / σ")
    else:
        ax.set_ylabel("residual")
    ax.axhline(0, color=engine_colour(of.engine), lw=1.2)
    ax.plot(data.x, residual, "o", color=INK, ms=2.6 if len(data.x) <= 80 else 1.4)
    finite = np.abs(residual[np.isfinite(residual)])
    top = max(3.0 if data.err is not None else 0.0, 1.15 * float(finite.max()) if finite.size else 1.0)
    if top > 0:
        ax.set_ylim(-top, top)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=data.err is not None))
    ax.set_xlabel(data.x_label)
