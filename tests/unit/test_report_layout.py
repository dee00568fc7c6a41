"""The places of the panels of a figure: texts fit next to them, whatever their length."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from chainsweep.report.chain_plots import trace_plot
from chainsweep.report.comparison_plots import Recovered, agreement_intervals, recovery_plot
from chainsweep.report.corner_plot import corner_draws, corner_plot
from chainsweep.report.layout import LEAST_SHARE

RNG = np.random.default_rng(5)
LONG = tuple(f"surface_brightness_of_component[{i}]" for i in range(4))


def laid_out(figure: Figure) -> Figure:
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)
    figure.canvas.draw()
    return figure


def figures() -> dict[str, Figure]:
    draws = 1e6 + RNG.normal(size=(2, 200, 4)) * (1, 1e4, 1e-3, 1e2)
    truth = RNG.normal(size=30)
    recovered = [Recovered(engine, truth, truth, truth - 1, truth + 1) for engine in ("emcee", "nuts", "snpe")]
    return {
        "trace": trace_plot("nuts", LONG, draws, None),
        "corner": corner_plot(LONG, [corner_draws("nuts", draws, None)], (np.nan,) * 4),
        "recovery": recovery_plot(LONG[0], recovered),
        "intervals": agreement_intervals(("nuts", "snpe"), LONG, RNG.normal(size=(30, 4))),
    }


@pytest.mark.parametrize("kind", ["trace", "corner", "recovery", "intervals"])
def test_texts_lie_inside_the_figure_and_outside_other_panels(kind):
    figure = laid_out(figures()[kind])
    renderer = figure.canvas.get_renderer()
    panels = {ax: ax.get_window_extent(renderer) for ax in figure.axes}
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            box = axis.get_tightbbox(renderer)
            if box is None:
                continue
            assert min(box.x0, box.y0) >= 0, axis.get_label_text()
            assert max(box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1) <= 0, axis.get_label_text()
            for other, place in panels.items():
                if other is not ax and axis is ax.yaxis:
                    assert not place.padded(-1).overlaps(box), axis.get_label_text()


def test_labels_of_a_column_stand_in_line():
    figure = laid_out(figures()["trace"])
    labels = [ax.yaxis.label.get_window_extent().x1 for ax in figure.axes[::2]]
    assert np.ptp(labels) < 0.5


def test_panels_keep_a_share_beside_names_of_any_length():
    names = tuple(f"{'very_' * 40}long_{i}" for i in range(3))
    figure = laid_out(agreement_intervals(("nuts", "snpe"), names, RNG.normal(size=(30, 3))))
    assert figure.axes[0].get_position().width == pytest.approx(LEAST_SHARE)
