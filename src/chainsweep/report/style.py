"""The common style of all figures: colours, fonts, and the conversion of figures to bytes.

Figures are plain :class:`matplotlib.figure.Figure` objects on an Agg canvas: no pyplot, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from chainsweep.engines.registry import ENGINES
from chainsweep.report.layout import GridLayout

Arguments = ParamSpec("Arguments")
FigureFormat = Literal["svg", "png"]

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e6eaee"
THRESHOLD = "#9b2c4a"

ENGINE_COLOURS = {name: engine.colour for name, engine in ENGINES.items()}
ENGINE_TEXT_COLOURS = {name: engine.text_colour for name, engine in ENGINES.items()}

VERDICTS = ("converged", "not_converged", "failed", "bad_data", "pending")
VERDICT_COLOURS = {
    "converged": "#2a7f86",
    "not_converged": "#e3a52c",
    "failed": "#b3372f",
    "bad_data": "#7d8793",
    "pending": "#d3d9df",
}

_STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.titley": 1.0,
    "axes.edgecolor": "#9aa5b1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": "#9aa5b1",
    "ytick.color": "#9aa5b1",
    "xtick.labelcolor": "#45525f",
    "ytick.labelcolor": "#45525f",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "chainsweep",
    "path.simplify": True,
}


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Run a drawing function under the report's style, leaving matplotlib's own settings untouched."""

    @wraps(draw)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return run


def new_figure(width: float, height: float, layout: GridLayout | None = None) -> Figure:
    """Return an empty figure of ``width`` by ``height`` inches with an Agg canvas, for one grid of panels."""
    figure = Figure(figsize=(width, height), layout=layout or GridLayout())
    FigureCanvasAgg(figure)
    return figure


def engine_colour(engine: str) -> str:
    """Return the fixed colour of an engine; the colour of ink for a name that has none."""
    return ENGINE_COLOURS.get(engine, INK)


def engine_text_colour(engine: str) -> str:
    """Return the fixed colour of an engine's name in text."""
    return ENGINE_TEXT_COLOURS.get(engine, INK)


def say(ax: Axes, text: str, colour: str = MUTED) -> None:
    """Write ``text`` in the middle of an empty panel."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=colour, wrap=True)


def figure_bytes(figure: Figure, fmt: FigureFormat, dpi: int = 200) -> bytes:
    """Return a figure as SVG (text as paths) or as PNG with 256 colours, by default at 200 dots per inch.

    The same figure gives the same bytes: they hold no date and no random identifiers.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.set_dpi(dpi)
        _lay_out(figure)
        if fmt == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            return buffer.getvalue()
        figure.savefig(buffer, format="rgba", dpi=dpi)
        size = figure.canvas.get_width_height()
    return _fewer_colours(Image.frombuffer("RGBA", size, buffer.getvalue()))


def _lay_out(figure: Figure) -> None:
    """Place the panels once, and fix them, because savefig would otherwise draw everything an extra time."""
    engine = figure.get_layout_engine()
    if figure.axes and engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)


def _fewer_colours(image: Image.Image) -> bytes:
    """Reduce an image to 256 colours: a third of the size without a visible change, as figures hold few hues."""
    small = io.BytesIO()
    flat = image.convert("RGB").quantize(colors=256, method=Image.Quantize.FASTOCTREE)
    flat.save(small, format="PNG", compress_level=6)
    return small.getvalue()
