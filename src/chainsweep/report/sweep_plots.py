"""Figures of a whole sweep: their size does not grow with the number of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from chainsweep.report.formatting import number, percent, plain
from chainsweep.report.layout import GridLayout
from chainsweep.report.style import (
    INK,
    THRESHOLD,
    VERDICT_COLOURS,
    VERDICTS,
    engine_colour,
    engine_text_colour,
    new_figure,
    say,
    styled,
)
from chainsweep.report.views import Floats


@dataclass(frozen=True)
class Scale:
    """The bins and labels of a figure of merit; values outside ``limits`` count in the last bin."""

    label: str
    limits: tuple[float, float]
    """The range of the axis, in transformed units."""
    transform: str = "linear"
    """The transformation of values: ``linear``, ``log`` (log10 x) or ``rhat`` (log10 of x - 1)."""
    threshold: float | None = None
    good_below: bool = True

    def apply(self, values: Floats) -> Floats:
        """Return the values on the axis; values without a logarithm go to the lower end."""
        if self.transform == "linear":
            return np.clip(values, *self.limits)
        shifted = values - 1 if self.transform == "rhat" else values
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.clip(np.where(shifted > 0, np.log10(shifted), -np.inf), *self.limits)

    def passes(self, values: Floats) -> int:
        """Return the number of values on the good side of the threshold."""
        if self.threshold is None:
            return len(values)
        good = values < self.threshold if self.good_below else values > self.threshold
        return int(good.sum())


@styled
def ridge_histogram(title: str, values: Mapping[str, Floats], scale: Scale) -> Figure:
    """Draw one histogram per engine, stacked on one axis, with the threshold and the share that passes.

    ``values[engine]`` is ``(data set,)``; NaN (no such figure) is left out, infinity clipped.
    """
    figure = new_figure(4.6, 1.25 + 0.62 * max(len(values), 1))
    axes = figure.subplots(max(len(values), 1), 1, sharex=True, squeeze=False)[:, 0]
    axes[0].set_title(title)
    edges = np.linspace(*scale.limits, 49)
    for ax, (engine, raw) in zip(axes, values.items(), strict=False):
        known = np.asarray(raw, dtype=np.float64)
        known = known[~np.isnan(known)]
        _ridge(ax, engine, known, edges, scale)
    if not values:
        say(axes[0], "no engine has this figure")
    axes[-1].set_xlabel(scale.label)
    axes[-1].spines["bottom"].set_visible(True)
    axes[-1].tick_params(axis="x", which="both", bottom=True, labelbottom=True)
    _scale_ticks(axes[-1], scale)
    return figure


def _ridge(ax: Axes, engine: str, known: Floats, edges: Floats, scale: Scale) -> None:
    counts = np.histogram(scale.apply(known), edges)[0]
    colour = engine_colour(engine)
    ax.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
    ax.stairs(counts, edges, color=colour, lw=1.2)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, max(1.18 * counts.max(), 1.0)))
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    ax.axhline(0, color="#9aa5b1", lw=0.8)
    ax.set_ylabel(engine, rotation=0, ha="right", va="center", color=engine_text_colour(engine), fontweight="bold")
    if not len(known):
        say(ax, "has no such figure")
        return
    if scale.threshold is not None:
        at = float(scale.apply(np.array([scale.threshold]))[0])
        ax.axvline(at, color=THRESHOLD, lw=1.0, ls=(0, (4, 3)))
        side = f"{percent(scale.passes(known), len(known))}\npass"
    else:
        side = f"median\n{number(float(np.median(known)), 2)}"
    ax.text(1.02, 0.5, side, transform=ax.transAxes, va="center", fontsize=8, color=INK)


def _scale_ticks(ax: Axes, scale: Scale) -> None:
    low, high = scale.limits
    if scale.transform == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(6))
        return
    decades = np.arange(np.ceil(low), np.floor(high) + 1)
    decades = decades[:: max(1, len(decades) // 6)]
    offset = 1 if scale.transform == "rhat" else 0
    ax.xaxis.set_major_locator(FixedLocator(list(decades)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(10.0**value + offset)))


def log_limits(values: Sequence[Floats], default: tuple[float, float]) -> tuple[float, float]:
    """Return whole decades that hold every positive finite value; ``default`` (log10 units) if there is none."""
    positive = [part[np.isfinite(part) & (part > 0)] for part in values]
    everything = np.concatenate([part for part in positive if part.size] or [np.empty(0)])
    if not everything.size:
        return default
    low = float(np.floor(np.log10(everything.min())))
    return low, max(float(np.ceil(np.log10(everything.max()))), low + 1)


@styled
def verdict_bars(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw stacked bars, one per engine, of the numbers of data sets with each verdict; each part shows its number."""
    figure = new_figure(6.4, 0.9 + 0.5 * max(len(counts), 1), GridLayout(foot=0.3))
    ax = figure.add_subplot()
    ax.set_title("verdicts")
    total = max((sum(parts.values()) for parts in counts.values()), default=0)
    for row, (engine, parts) in enumerate(counts.items()):
        left = 0
        for verdict in VERDICTS:
            n = parts.get(verdict, 0)
            if not n:
                continue
            ax.barh(row, n, left=left, height=0.66, color=VERDICT_COLOURS[verdict])
            if n > 0.05 * total:
                light = verdict in ("not_converged", "pending")
                ax.text(left + n / 2, row, f"{n:,}", ha="center", va="center", color=INK if light else "white")
            left += n
        ax.text(
            -0.01 * max(total, 1),
            row,
            engine,
            ha="right",
            va="center",
            fontweight="bold",
            color=engine_text_colour(engine),
        )
    ax.set(ylim=(max(len(counts), 1) - 0.5, -0.5), xlim=(0, max(total, 1)), xlabel="data sets")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    known = [verdict for verdict in VERDICTS if any(parts.get(verdict) for parts in counts.values())]
    if known:
        figure.legend(
            [Patch(color=VERDICT_COLOURS[name]) for name in known],
            [name.replace("_", " ") for name in known],
            loc="lower center",
            ncols=5,
            frameon=False,
            fontsize=8,
        )
    return figure
