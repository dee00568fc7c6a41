"""The figures that compare recovered with true values, and engines with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from chainsweep.report.formatting import percent, plain
from chainsweep.report.layout import GridLayout
from chainsweep.report.style import (
    GRID,
    INK,
    MUTED,
    THRESHOLD,
    engine_colour,
    engine_text_colour,
    new_figure,
    say,
    styled,
)
from chainsweep.report.views import Floats

MAX_DOTS = 600
"""The largest number of data sets that are drawn as dots; more are drawn as a density."""


@dataclass(frozen=True)
class Recovered:
    """A parameter as one engine recovered it; every array is ``(data set,)``, for data sets with a known truth."""

    engine: str
    truth: Floats
    mean: Floats
    q05: Floats
    q95: Floats


@styled
def recovery_plot(parameter: str, recovered: Sequence[Recovered]) -> Figure:
    """Draw posterior mean against truth, one panel per engine, with the share of truths inside the 90 % interval."""
    n = max(len(recovered), 1)
    figure = new_figure(1.72 * n + 0.45, 2.55, GridLayout(head=0.26))
    axes = figure.subplots(1, n, sharex=True, sharey=True, squeeze=False)[0]
    figure.suptitle(parameter, x=0.012, ha="left", fontweight="bold", fontsize=11)
    axes[0].set_ylabel("posterior mean")
    limits = _common_limits(recovered)
    for ax, part in zip(axes, recovered, strict=False):
        known = np.isfinite(part.truth) & np.isfinite(part.mean)
        truth, mean, low, high = (a[known] for a in (part.truth, part.mean, part.q05, part.q95))
        ax.set_title(part.engine, color=engine_text_colour(part.engine))
        ax.set_xlabel("truth")
        ax.plot(limits, limits, color="#9aa5b1", lw=0.8, ls=(0, (4, 3)), zorder=1)
        ax.set(xlim=limits, ylim=limits, aspect="equal")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if not len(truth):
            say(ax, "no truth known")
            continue
        _cloud(ax, part.engine, truth, mean, (low, high), limits)
        inside = int(((truth >= low) & (truth <= high)).sum())
        ax.text(
            0.04,
            0.96,
            f"{percent(inside, len(truth))} in 90 %\nn = {len(truth):,}",
            transform=ax.transAxes,
            va="top",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
            zorder=6,
        )
    return figure


def _common_limits(recovered: Sequence[Recovered]) -> tuple[float, float]:
    parts = [array[np.isfinite(array)] for part in recovered for array in (part.truth, part.mean)]
    everything = np.concatenate([part for part in parts if part.size] or [np.array([0.0, 1.0])])
    low, high = float(everything.min()), float(everything.max())
    pad = 0.05 * (high - low) or 0.5 * abs(low) or 0.5
    return low - pad, high + pad


def _cloud(
    ax: Axes,
    engine: str,
    truth: Floats,
    mean: Floats,
    interval: tuple[Floats, Floats],
    limits: tuple[float, float],
) -> None:
    colour = engine_colour(engine)
    if len(truth) > MAX_DOTS:
        shades = LinearSegmentedColormap.from_list(engine, ["#ffffff", colour, "#10151a"])
        counts, edges_x, edges_y = np.histogram2d(truth, mean, bins=70, range=[limits, limits])
        filled = np.ma.masked_equal(np.log1p(counts.T), 0)
        ax.pcolormesh(edges_x, edges_y, filled, cmap=shades, vmin=-0.35, rasterized=True, zorder=2)
        return
    ax.vlines(truth, *interval, color=colour, alpha=0.35, lw=0.7, zorder=2)
    ax.plot(truth, mean, "o", color=colour, ms=2.6, mew=0, alpha=0.85, zorder=3)


@styled
def agreement_histogram(largest: Mapping[tuple[str, str], Floats]) -> Figure:
    """Draw for each pair of engines a histogram of the largest difference of a data set's means in posterior sd."""
    figure = new_figure(4.6, 1.25 + 0.62 * max(len(largest), 1))
    axes = figure.subplots(max(len(largest), 1), 1, sharex=True, squeeze=False)[:, 0]
    axes[0].set_title("largest difference per data set")
    edges = np.linspace(-3, 2, 49)
    for ax, (pair, raw) in zip(axes, largest.items(), strict=False):
        known = raw[np.isfinite(raw)]
        with np.errstate(divide="ignore"):
            counts = np.histogram(np.clip(np.log10(known), -3, 2), edges)[0]
        ax.stairs(counts, edges, fill=True, color=MUTED, alpha=0.3)
        ax.stairs(counts, edges, color=MUTED, lw=1.2)
        ax.set(xlim=(-3, 2), ylim=(0, max(1.18 * counts.max(), 1.0)))
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(axis="x", bottom=False, labelbottom=False)
        ax.axhline(0, color="#9aa5b1", lw=0.8)
        ax.axvline(0, color=THRESHOLD, lw=1.0, ls=(0, (4, 3)))
        _pair_name(ax, pair)
        above = int((known > 1).sum())
        side = f"{above:,}\nabove 1 sd" if len(known) else "no data set\nin common"
        ax.text(1.02, 0.5, side, transform=ax.transAxes, va="center", fontsize=8)
    if not largest:
        say(axes[0], "one engine only: nothing to compare")
    axes[-1].spines["bottom"].set_visible(True)
    axes[-1].tick_params(axis="x", bottom=True, labelbottom=True)
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(10.0**value)))
    axes[-1].set_xlabel("largest |difference of means| (posterior sd)")
    return figure


def _pair_name(ax: Axes, pair: tuple[str, str]) -> None:
    for text, y in zip(pair, (0.72, 0.28), strict=True):
        ax.text(
            -0.02,
            y,
            text,
            transform=ax.transAxes,
            ha="right",
            va="center",
            color=engine_text_colour(text),
            fontweight="bold",
        )


@styled
def agreement_intervals(pair: tuple[str, str], parameters: Sequence[str], shifts: Floats) -> Figure:
    """Draw signed differences of posterior means, one row per parameter: median, 50 % and 90 % ranges.

    ``shifts`` is ``(data set, parameter)`` in units of posterior sd; NaN is left out.
    """
    figure = new_figure(4.6, 1.1 + 0.32 * max(len(parameters), 2))
    ax = figure.add_subplot()
    ax.set_title(f"{pair[0]} − {pair[1]}, per parameter")
    ends = []
    for row in range(len(parameters)):
        known = shifts[np.isfinite(shifts[:, row]), row]
        if not known.size:
            continue
        q = np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95])
        ends.append(max(abs(q[0]), abs(q[-1])))
        ax.plot(q[[0, 4]], [row, row], color="#9aa5b1", lw=1.4, solid_capstyle="butt")
        ax.plot(q[[1, 3]], [row, row], color=engine_colour(pair[0]), lw=5, solid_capstyle="butt", alpha=0.75)
        ax.plot(q[2], row, "o", color="white", mec=INK, ms=4.5, mew=1.1)
    reach = max(0.2, 1.15 * max(ends, default=0.0))
    for edge in (-1, 0, 1):
        ax.axvline(edge, color=GRID if edge else "#9aa5b1", lw=0.9, zorder=0)
    ax.set(xlim=(-reach, reach), ylim=(len(parameters) - 0.4, -0.6), xlabel="difference (posterior sd)")
    ax.set_yticks(range(len(parameters)), list(parameters))
    if not ends:
        say(ax, "no data set in common")
    return figure
