"""Figures of one data set: what is in them, and what odd input does to them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from chainsweep.report.chain_plots import (
    MAX_ROWS,
    autocorrelation_plot,
    mean_autocorrelation,
    trace_plot,
    weights_plot,
)
from chainsweep.report.corner_plot import MAX_DRAWS, MAX_PARAMETERS, corner_draws, corner_plot
from chainsweep.report.plots import CurvesOf, data_limits, data_plot
from chainsweep.report.style import ENGINE_COLOURS, ENGINE_TEXT_COLOURS, figure_bytes
from chainsweep.report.views import DataView, TraceView
from tests.unit.report_demo import texts

RNG = np.random.default_rng(3)
NAMES = ("l", "m", "s")


def points(n: int = 20, err: bool = True) -> DataView:
    x = RNG.uniform(0, 3, n)
    return DataView(x, np.sin(x), np.full(n, 0.1) if err else None, "energy (keV)", "counts")


def curves(data: DataView, n: int = 120) -> np.ndarray:
    return np.sin(data.x) + 0.05 * RNG.normal(size=(n, 1))


def lines_of(ax, n_points: int) -> list:
    return [line for line in ax.lines if len(line.get_xdata()) == n_points and line.get_linestyle() == "-"]


class TestData:
    def test_draws_fifty_curves_a_band_a_median_and_residuals(self):
        data = points()
        figure = data_plot(data, CurvesOf("nuts", curves(data)))
        upper, lower = figure.axes
        assert len(lines_of(upper, 20)) == 51
        assert len(upper.collections) >= 1
        assert "50 draws" in texts(figure)
        assert "nuts" in texts(figure)
        residual = next(line for line in lower.lines if len(line.get_xdata()) == 20)
        assert np.max(np.abs(residual.get_ydata())) < 1.0
        assert upper.get_ylabel() == "counts"
        assert lower.get_xlabel() == "energy (keV)"

    def test_curves_are_drawn_in_order_of_x(self):
        data = points()
        line = lines_of(data_plot(data, CurvesOf("nuts", curves(data))).axes[0], 20)[0]
        assert np.all(np.diff(line.get_xdata()) >= 0)

    def test_residuals_show_a_shifted_curve(self):
        data = points()
        lower = data_plot(data, CurvesOf("nuts", curves(data) + 1.0)).axes[1]
        residual = next(line for line in lower.lines if len(line.get_xdata()) == 20)
        assert np.all(residual.get_ydata() < -8)

    def test_without_curves_there_is_one_panel(self):
        figure = data_plot(points(), None)
        assert len(figure.axes) == 1
        assert figure.axes[0].get_xlabel() == "energy (keV)"

    def test_without_errors_residuals_have_the_unit_of_the_data(self):
        data = points(err=False)
        assert "σ" not in texts(data_plot(data, CurvesOf("nuts", curves(data))))

    def test_limits_hold_every_point_with_its_error(self):
        data = points()
        low, high = data_limits(data, [curves(data)])
        assert low < np.min(data.y - 0.1)
        assert high > np.max(data.y + 0.1)
        assert data_plot(data, None, (low, high)).axes[0].get_ylim() == (low, high)

    def test_limits_ignore_wild_curves_and_are_unknown_without_spread(self):
        data = points()
        wild = curves(data)
        wild[0] = 1e6
        assert data_limits(data, [wild])[1] < 10
        flat = DataView(np.arange(3.0), np.ones(3), None, "x", "y")
        assert data_limits(flat, []) is None

    def test_one_curve_suffices(self):
        data = points()
        assert figure_bytes(data_plot(data, CurvesOf("snpe", curves(data, 1))), "svg").startswith(b"<?xml")


class TestTrace:
    def test_burn_in_is_shaded_and_named(self):
        values = RNG.normal(size=(6, 100, 3))
        figure = trace_plot("emcee", NAMES, values[:2], TraceView(values, 30, 10))
        left = figure.axes[0]
        assert "burn-in" in texts(figure)
        assert left.get_xlim() == (0, 990)
        assert max(patch.get_x() + patch.get_width() for patch in left.patches) == 300
        assert figure.axes[-2].get_xlabel() == "step"

    def test_without_a_trace_only_kept_draws_are_shown(self):
        figure = trace_plot("nuts", NAMES, RNG.normal(size=(4, 100, 3)), None)
        assert "burn-in" not in texts(figure)
        assert not figure.axes[0].patches
        assert len(figure.axes[0].lines) == 4
        assert [figure.axes[2 * i].get_ylabel() for i in range(3)] == list(NAMES)

    def test_scattered_starts_do_not_flatten_the_kept_steps(self):
        values = RNG.normal(size=(6, 100, 3))
        values[:, :30] *= 1e4
        low, high = trace_plot("emcee", NAMES, values, TraceView(values, 30, 1)).axes[0].get_ylim()
        assert high - low < 20

    def test_rows_and_chains_are_capped_and_said_so(self):
        figure = trace_plot("nuts", [f"theta[{i}]" for i in range(12)], RNG.normal(size=(30, 20, 12)), None)
        assert len(figure.axes) == 2 * MAX_ROWS
        assert "4 more parameters" in texts(figure)
        assert "30 chains (24 drawn)" in texts(figure)

    def test_one_draw(self):
        assert figure_bytes(trace_plot("nuts", NAMES, np.ones((1, 1, 3)), None), "png")[:4] == b"\x89PNG"


class TestAutocorrelation:
    def chain(self, rho: float, n: int = 20_000) -> np.ndarray:
        noise = RNG.normal(size=(2, n))
        out = np.zeros((2, n))
        for step in range(1, n):
            out[:, step] = rho * out[:, step - 1] + np.sqrt(1 - rho**2) * noise[:, step]
        return out

    def test_first_order_process(self):
        rho = mean_autocorrelation(self.chain(0.8)[..., None])
        np.testing.assert_allclose(rho[:6, 0], 0.8 ** np.arange(6), atol=0.03)

    def test_names_the_slowest(self):
        chains = np.stack([self.chain(0.1, 2000), self.chain(0.9, 2000), self.chain(0.5, 2000)], axis=2)
        figure = autocorrelation_plot("emcee", NAMES, chains, 10, 190.0)
        assert "slowest: m" in texts(figure)
        assert "τ = 190" in texts(figure)
        assert figure.axes[0].get_xlabel() == "lag (steps)"
        assert "emcee" in texts(figure)

    def test_constant_column_is_left_out(self):
        chains = RNG.normal(size=(2, 100, 3))
        chains[:, :, 0] = 4.0
        assert np.isnan(mean_autocorrelation(chains)[:, 0]).all()
        assert "slowest: l" not in texts(autocorrelation_plot("nuts", NAMES, chains, 1))

    @pytest.mark.parametrize("chains", [np.ones((2, 50, 3)), np.zeros((1, 1, 3)), np.zeros((0, 0, 3))])
    def test_says_when_there_is_nothing_to_draw(self, chains):
        assert "too few" in texts(autocorrelation_plot("nuts", NAMES, chains, 1))


class TestWeights:
    def test_equal_weights_lie_on_the_diagonal(self):
        figure = weights_plot("snpe", np.zeros((1, 500)), 0.2, 0.7)
        curve = figure.axes[0].lines[1]
        np.testing.assert_allclose(curve.get_xdata(), curve.get_ydata(), atol=1e-9)
        assert "ESS 500 of 500" in texts(figure)
        assert "below 0.7" in texts(figure)

    def test_one_heavy_draw_carries_everything(self):
        log_weights = np.full((1, 500), -1e3)
        log_weights[0, 7] = 0.0
        figure = weights_plot("snpe", log_weights, 1.4, 0.7)
        assert "ESS 1 of 500" in texts(figure)
        assert "above 0.7" in texts(figure)

    def test_no_usable_weight(self):
        assert "no usable weight" in texts(weights_plot("snpe", np.full(9, -np.inf), np.nan, 0.7))


class TestCorner:
    def three(self, n: int = 400, ndim: int = 3) -> list:
        return [corner_draws(engine, RNG.normal(size=(2, n, ndim)), None) for engine in ("emcee", "nuts")]

    def panels(self, figure) -> list:
        return [ax for ax in figure.axes if ax.axison]

    def test_panels_names_and_truth(self):
        figure = corner_plot(NAMES, self.three(), (0.5, np.nan, 0.0))
        assert len(self.panels(figure)) == 6
        shown = texts(figure)
        assert all(word in shown for word in ("emcee", "nuts", "truth", *NAMES))
        assert any(np.allclose(line.get_xdata(), 0.5) for line in figure.axes[0].lines)

    def test_without_truth_none_is_named(self):
        assert "truth" not in texts(corner_plot(NAMES, self.three(), (np.nan,) * 3))

    def test_weights_move_the_marginal(self):
        values = RNG.uniform(-1, 1, size=(1, 4000, 1))
        heavy = corner_draws("snpe", values, np.where(values[..., 0] > 0, 0.0, -50.0))
        figure = corner_plot(("l",), [heavy], (np.nan,))
        low, _ = figure.axes[0].get_xlim()
        assert low > -0.2
        flat = corner_plot(("l",), [corner_draws("snpe", values, None)], (np.nan,))
        assert flat.axes[0].get_xlim()[0] < -0.9

    def test_absurdly_far_truth_does_not_blow_up_the_axis(self):
        figure = corner_plot(NAMES, self.three(), (1e6, 0.0, 0.0))
        assert figure.axes[0].get_xlim()[1] < 10

    def test_vector_of_twelve_is_capped(self):
        names = [f"theta[{i}]" for i in range(12)]
        figure = corner_plot(names, self.three(200, 12), (np.nan,) * 12)
        assert len(self.panels(figure)) == MAX_PARAMETERS * (MAX_PARAMETERS + 1) // 2
        assert "4 more parameters" in texts(figure)

    @pytest.mark.parametrize("n", [1, 3])
    def test_few_draws_become_points(self, n):
        few = corner_draws("snpe", RNG.normal(size=(1, n, 3)), None)
        figure = corner_plot(NAMES, [*self.three(), few], (np.nan,) * 3)
        colours = [line.get_color() for line in figure.axes[3].lines]
        assert ENGINE_COLOURS["snpe"] in colours
        assert figure_bytes(corner_plot(NAMES, [few], (np.nan,) * 3), "png")[:4] == b"\x89PNG"

    def test_constant_column(self):
        values = RNG.normal(size=(2, 300, 3))
        values[:, :, 1] = 2.0
        figure = corner_plot(NAMES, [corner_draws("nuts", values, None)], (np.nan,) * 3)
        low, high = figure.axes[4].get_xlim()
        assert low < 2.0 < high
        assert figure_bytes(figure, "png")[:4] == b"\x89PNG"

    def test_engine_without_draws_is_named_so(self):
        none = corner_draws("snpe", np.empty((0, 0, 3)), None)
        assert "snpe (no draws)" in texts(corner_plot(NAMES, [*self.three(), none], (np.nan,) * 3))
        assert "no draws" in texts(corner_plot(NAMES, [none], (np.nan,) * 3))

    def test_draws_that_are_not_finite_or_weigh_nothing_are_dropped(self):
        values = RNG.normal(size=(1, 10, 2))
        values[0, 0, 0] = np.nan
        log_weights = np.zeros((1, 10))
        log_weights[0, 1] = -np.inf
        assert len(corner_draws("snpe", values, log_weights).values) == 8
        assert len(corner_draws("snpe", values, np.full((1, 10), -np.inf)).values) == 0
        assert len(corner_draws("nuts", np.zeros((4, 9000, 1)), None).values) <= MAX_DRAWS


class TestStyle:
    def test_panels_are_laid_out_before_the_bytes(self):
        figure = data_plot(points(), CurvesOf("nuts", curves(points())))
        before = figure.axes[0].get_position().bounds
        png = figure_bytes(figure, "png", dpi=150)
        with Image.open(io.BytesIO(png)) as image:
            assert image.size == (690, 600)
        assert figure.axes[0].get_position().bounds != before
        edges = [ax.get_tightbbox() for ax in figure.axes]
        assert all(box.x0 > 0 and box.y0 > 0 and box.x1 < 690 and box.y1 < 600 for box in edges)

    def test_same_figure_same_bytes_and_small_png(self):
        data = points(12)
        values = curves(data)
        for fmt in ("svg", "png"):
            one, two = (figure_bytes(data_plot(data, CurvesOf("nuts", values)), fmt) for _ in range(2))
            assert one == two
        assert len(one) < 60_000

    def test_drawing_leaves_matplotlib_as_it_was(self):
        import matplotlib as mpl
        from matplotlib import pyplot

        before = dict(mpl.rcParams)
        data_plot(points(), None)
        assert dict(mpl.rcParams) == before
        assert pyplot.get_fignums() == []

    def test_every_engine_has_a_colour_that_reads_on_white(self):
        from matplotlib.colors import to_rgb

        for colour in ENGINE_TEXT_COLOURS.values():
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
            luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
            assert 1.05 / (luminance + 0.05) > 4.5
        assert set(ENGINE_TEXT_COLOURS) == set(ENGINE_COLOURS)
