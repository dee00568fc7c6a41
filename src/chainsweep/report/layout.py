"""The layout of a figure's panels: a regular grid, and around it the space that its texts need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import LayoutEngine
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

from chainsweep.report.views import Floats

LEAST_SHARE = 0.3
"""The smallest share of a figure's width and height that its panels keep, however long the texts next to them are."""

Panels = Mapping[Axes, SubplotSpec]


class GridLayout(LayoutEngine):
    """A layout engine for the one grid of a figure, which measures its texts once and aligns its axis labels.

    Matplotlib's constrained layout, which takes any arrangement, measures every text several times over. ``pad`` is
    left free around the grid and ``gap`` between two panels, on top of what their texts need; ``head`` and ``foot`` are
    kept for what the figure itself writes above and below the grid. All are in inches.
    """

    _adjust_compatible = True
    _colorbar_gridspec = False

    def __init__(self, pad: float = 0.045, gap: float = 0.08, head: float = 0.0, foot: float = 0.0) -> None:
        super().__init__()
        self.pad, self.gap, self.head, self.foot = pad, gap, head, foot

    def execute(self, fig: Figure) -> None:
        """Move the panels of ``fig``."""
        panels = {ax: spec for ax in fig.axes if (spec := ax.get_subplotspec()) is not None}
        if not panels:
            return
        room = _Room(panels, cast("FigureCanvasAgg", fig.canvas).get_renderer())
        pad, gap, head, foot = (inches * fig.dpi for inches in (self.pad, self.gap, self.head, self.foot))
        left, right, wspace = _fitted(room.left, room.right, (pad, pad), gap, fig.bbox.width)
        top, bottom, hspace = _fitted(room.top, room.bottom, (pad + head, pad + foot), gap, fig.bbox.height)
        fig.subplots_adjust(left=left, right=1 - right, bottom=bottom, top=1 - top, wspace=wspace, hspace=hspace)
        for ax, spec in panels.items():
            ax.apply_aspect()
            ax.yaxis.set_label_coords(-room.beside[spec.colspan.start] / ax.bbox.width, 0.5)
            ax.xaxis.set_label_coords(0.5, -room.below[spec.rowspan.start] / ax.bbox.height)


class _Room:
    """The space that the texts of a grid take on the four sides of its panels, in pixels, by column or row.

    ``beside`` and ``below`` are the distances from the panels to the labels of their axes.
    """

    def __init__(self, panels: Panels, renderer: RendererBase) -> None:
        rows, columns = next(iter(panels.values())).get_gridspec().get_geometry()
        self.left, self.right, self.beside = (np.zeros(columns) for _ in range(3))
        self.top, self.bottom, self.below = (np.zeros(rows) for _ in range(3))
        for ax, spec in panels.items():
            ax.apply_aspect()
            if ax.axison:
                self._add_axes(ax, spec, renderer)
            for text in ax.get_children():
                if isinstance(text, Text) and text.get_text():
                    self._add(ax, spec, text.get_window_extent(renderer), wide=text in ax.texts)
        for ax, spec in panels.items():
            if ax.axison:
                self._add_labels(ax, spec, renderer)

    def _add(self, ax: Axes, spec: SubplotSpec, box: BboxBase, wide: bool = True) -> None:
        """Make room for ``box`` on all sides, or only above and below the panel if not ``wide`` (a title)."""
        row, column, own = spec.rowspan.start, spec.colspan.start, ax.bbox
        self.top[row] = max(self.top[row], box.y1 - own.y1)
        self.bottom[row] = max(self.bottom[row], own.y0 - box.y0)
        if wide:
            self.left[column] = max(self.left[column], own.x0 - box.x0)
            self.right[column] = max(self.right[column], box.x1 - own.x1)

    def _add_axes(self, ax: Axes, spec: SubplotSpec, renderer: RendererBase) -> None:
        row, column, own = spec.rowspan.start, spec.colspan.start, ax.bbox
        x, y = (_tick_labels(axis, renderer) for axis in (ax.xaxis, ax.yaxis))
        if x is not None:
            self._add(ax, spec, x)
        if y is not None:
            self._add(ax, spec, y)
        below = 0.0 if x is None else max(own.y0 - x.y0, 0.0)
        beside = 0.0 if y is None else max(own.x0 - y.x0, 0.0)
        self.below[row] = max(self.below[row], below + _pad(ax.xaxis))
        self.beside[column] = max(self.beside[column], beside + _pad(ax.yaxis))

    def _add_labels(self, ax: Axes, spec: SubplotSpec, renderer: RendererBase) -> None:
        row, column = spec.rowspan.start, spec.colspan.start
        if ax.get_xlabel():
            height = ax.xaxis.label.get_window_extent(renderer).height
            self.bottom[row] = max(self.bottom[row], self.below[row] + height)
        if ax.get_ylabel():
            width = ax.yaxis.label.get_window_extent(renderer).width
            self.left[column] = max(self.left[column], self.beside[column] + width)


def _tick_labels(axis: Axis, renderer: RendererBase) -> BboxBase | None:
    """Return the box around the tick labels of ``axis``, or None if there are none."""
    axis.set_label_coords(0.5, 0.5)  # inside the panel, where it counts for nothing
    return axis.get_tightbbox(renderer, for_layout_only=True)


def _pad(axis: Axis) -> float:
    """Return the distance, in pixels, from tick labels to the label of ``axis``."""
    return axis.labelpad * axis.axes.figure.dpi / 72


def _fitted(
    before: Floats, after: Floats, pads: tuple[float, float], gap: float, whole: float
) -> tuple[float, float, float]:
    """Return both margins as shares of ``whole``, and the space between panels as a share of a panel."""
    first, last = float(before[0]) + pads[0], float(after[-1]) + pads[1]
    squeeze = min(1.0, (1 - LEAST_SHARE) * whole / (first + last))
    between = gap + float(np.max(after[:-1] + before[1:], initial=0.0))
    n = len(before)
    panel = max((whole - squeeze * (first + last) - (n - 1) * between) / n, LEAST_SHARE**2 * whole / n)
    return squeeze * first / whole, squeeze * last / whole, between / panel
