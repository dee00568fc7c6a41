"""The corner plot: the posteriors of all engines in one figure, parameter against parameter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.ndimage import gaussian_filter1d

from chainsweep.report.chain_plots import usable_weights
from chainsweep.report.formatting import short_name
from chainsweep.report.layout import GridLayout
from chainsweep.report.style import INK, engine_colour, engine_text_colour, new_figure, say, styled
from chainsweep.report.views import Floats


def _hist2d() -> Callable[..., None]:
    """Load corner's two-dimensional histogram without the corner package, whose import of ArviZ takes seconds."""
    package = importlib.util.find_spec("corner")
    assert package is not None
    assert package.submodule_search_locations
    core = Path(package.submodule_search_locations[0]) / "core.py"
    spec = importlib.util.spec_from_file_location("chainsweep.report._corner_core", core)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.hist2d


hist2d = _hist2d()

MAX_PARAMETERS = 8
MAX_DRAWS = 8000
FEW_DRAWS = 50
BINS = 30
LEVELS = (0.393, 0.865)
"""The mass inside one and two sigma of a two-dimensional Gaussian."""


@dataclass(frozen=True)
class CornerDraws:
    """The draws of one engine: ``values`` is ``(draw, ndim)``, ``weights`` ``(draw,)`` or None for equal weights."""

    engine: str
    values: Floats
    weights: Floats | None = None


def corner_draws(engine: str, draws: Floats, log_weights: Floats | None) -> CornerDraws:
    """Flatten ``(chain, draw, ndim)``, drop draws that are not finite, and thin to 8,000."""
    flat = draws.reshape(-1, draws.shape[-1])
    weights = None if log_weights is None else usable_weights(log_weights)
    if weights is not None and not weights.size:
        return CornerDraws(engine, flat[:0])
    keep = np.all(np.isfinite(flat), axis=1)
    if weights is not None:
        keep &= weights > 0
    positions = np.flatnonzero(keep)
    positions = positions[:: max(1, -(-len(positions) // MAX_DRAWS))]
    return CornerDraws(engine, flat[positions], None if weights is None else weights[positions])


@styled
def corner_plot(names: Sequence[str], posteriors: Sequence[CornerDraws], truth: Sequence[float]) -> Figure:
    """Draw contours at one and two sigma of every engine, marginals on the diagonal, and truths as dashed lines.

    ``truth`` holds NaN where unknown. Engines with fewer than 50 draws are drawn as points; at most 8
    parameters are drawn.
    """
    ndim = min(len(names), MAX_PARAMETERS)
    shown = [posterior for posterior in posteriors if len(posterior.values)]
    side = 1.6 + 1.15 * ndim
    figure = new_figure(side, side, _tight())
    if not shown:
        ax = figure.add_subplot()
        ax.set_axis_off()
        say(ax, "no draws")
        return figure
    grid = figure.add_gridspec(ndim, ndim)
    axes: dict[tuple[int, int], Axes] = {}
    limits = [_limits(shown, column, truth[column]) for column in range(ndim)]
    for row in range(ndim):
        for column in range(row + 1):
            ax = axes[row, column] = figure.add_subplot(grid[row, column])
            if column == row:
                _marginal(ax, shown, row, limits[row], truth[row])
            else:
                _pair(ax, shown, (column, row), (limits[column], limits[row]), (truth[column], truth[row]))
            _ticks(ax, row, column, ndim)
    for index in range(ndim):
        axes[ndim - 1, index].set_xlabel(short_name(names[index]))
        if index:
            axes[index, 0].set_ylabel(short_name(names[index]))
    _name_engines(figure, axes, posteriors, len(names) - ndim, bool(np.isfinite(truth[:ndim]).any()))
    return figure


def _tight(head: float = 0.0) -> GridLayout:
    """Return a layout with little space between panels and ``head`` inches above them."""
    return GridLayout(pad=0.02, gap=0.04, head=head)


def _limits(posteriors: Sequence[CornerDraws], column: int, truth: float) -> tuple[float, float]:
    """Return limits with the central 99.4 % of every engine's mass, and the truth unless it lies very far away."""
    ends = [_quantiles(posterior.values[:, column], posterior.weights, (0.003, 0.997)) for posterior in posteriors]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if not high - low > 1e-12 * max(abs(low), abs(high)):
        pad = 0.5 * abs(low) or 0.5
        return low - pad, high + pad
    width = high - low
    if np.isfinite(truth) and low - 2 * width < truth < high + 2 * width:
        low, high = min(low, truth), max(high, truth)
    pad = 0.08 * (high - low)
    return low - pad, high + pad


def _quantiles(values: Floats, weights: Floats | None, at: tuple[float, float]) -> tuple[float, float]:
    if weights is None:
        low, high = np.quantile(values, at)
        return float(low), float(high)
    order = np.argsort(values)
    mass = np.cumsum(weights[order])
    positions = np.minimum(np.searchsorted(mass, np.array(at) * mass[-1]), len(values) - 1)
    low, high = values[order][positions]
    return float(low), float(high)


def _marginal(
    ax: Axes, posteriors: Sequence[CornerDraws], column: int, limits: tuple[float, float], truth: float
) -> None:
    edges = np.linspace(*limits, BINS + 1)
    top = 0.0
    for posterior in posteriors:
        values, weights = posterior.values[:, column], posterior.weights
        colour = engine_colour(posterior.engine)
        if len(values) < FEW_DRAWS:
            ax.plot(values, np.zeros(len(values)), "|", color=colour, ms=8, mew=1.2, clip_on=False)
            continue
        density = np.histogram(values, edges, weights=weights)[0].astype(float)
        density = gaussian_filter1d(density, 0.8)
        density /= max(density.sum(), 1e-300)
        ax.stairs(density, edges, color=colour, lw=1.3)
        top = max(top, float(density.max()))
    ax.set(xlim=limits, ylim=(0, 1.12 * top if top else 1.0))
    if np.isfinite(truth):
        ax.axvline(truth, color=INK, lw=1.0, ls=(0, (4, 2)))


def _pair(
    ax: Axes,
    posteriors: Sequence[CornerDraws],
    columns: tuple[int, int],
    limits: tuple[tuple[float, float], tuple[float, float]],
    truth: tuple[float, float],
) -> None:
    for posterior in posteriors:
        x, y = (posterior.values[:, column] for column in columns)
        if len(x) < FEW_DRAWS:
            ax.plot(x, y, "o", color=engine_colour(posterior.engine), ms=3, mew=0, alpha=0.8)
            continue
        rgb = to_rgb(engine_colour(posterior.engine))
        hist2d(
            x,
            y,
            ax=ax,
            bins=BINS,
            range=list(limits),
            weights=posterior.weights,
            levels=LEVELS,
            smooth=1.3,
            color=rgb,
            quiet=True,
            plot_datapoints=False,
            plot_density=False,
            no_fill_contours=True,
            fill_contours=True,
            contour_kwargs={"colors": [rgb], "linewidths": 1.1},
            contourf_kwargs={"colors": [(*rgb, 0.0), (*rgb, 0.0), (*rgb, 0.13)]},
        )
    ax.set(xlim=limits[0], ylim=limits[1])
    if np.isfinite(truth[0]):
        ax.axvline(truth[0], color=INK, lw=0.9, ls=(0, (4, 2)))
    if np.isfinite(truth[1]):
        ax.axhline(truth[1], color=INK, lw=0.9, ls=(0, (4, 2)))


def _ticks(ax: Axes, row: int, column: int, ndim: int) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.tick_params(axis="x", rotation=45, labelbottom=row == ndim - 1)
    if row == column:
        ax.yaxis.set_major_locator(NullLocator())
        ax.spines["left"].set_visible(False)
        return
    ax.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.tick_params(axis="y", labelleft=column == 0)


def _name_engines(
    figure: Figure,
    axes: Mapping[tuple[int, int], Axes],
    posteriors: Sequence[CornerDraws],
    left_out: int,
    has_truth: bool,
) -> None:
    """Write the engine names in their colours into the empty corner (or the only panel)."""
    lines = [
        (
            posterior.engine + ("" if len(posterior.values) else " (no draws)"),
            engine_text_colour(posterior.engine),
        )
        for posterior in posteriors
    ]
    if has_truth:
        lines.append(("- - truth", INK))
    if left_out:
        lines.append((f"{left_out} more parameters not drawn", INK))
    if len(axes) == 1:  # no empty corner to write into
        figure.set_layout_engine(_tight(0.24 * len(lines) + 0.1))
    for index, (text, colour) in enumerate(lines):
        bold = "bold" if index < len(posteriors) else "normal"
        figure.text(
            0.985,
            0.985 - 0.24 * index / figure.get_figheight(),
            text,
            color=colour,
            ha="right",
            va="top",
            fontsize=10,
            fontweight=bold,
        )
