"""Figures, tables and ranking of a whole sweep."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from chainsweep.report import formatting as fmt
from chainsweep.report.comparison_plots import (
    MAX_DOTS,
    Recovered,
    agreement_histogram,
    agreement_intervals,
    recovery_plot,
)
from chainsweep.report.ranking import differences, engine_pairs, excess, largest_difference, rank
from chainsweep.report.sections import cause_rows
from chainsweep.report.style import figure_bytes
from chainsweep.report.sweep_plots import Scale, log_limits, ridge_histogram, verdict_bars
from chainsweep.report.views import Thresholds
from tests.unit.report_demo import texts

RNG = np.random.default_rng(8)
ENGINES = ("emcee", "nuts", "snpe")


def row(dataset_id: str, engine: str, **figures) -> dict:
    base = {"verdict": "converged", "rhat_max": 1.001, "ess_bulk_min": 2000.0, "mean_l": 0.0, "sd_l": 1.0}
    return {"dataset_id": dataset_id, "engine": engine, "ppc_pvalue": 0.5, **base, **figures}


class TestRidge:
    SCALE = Scale("R̂", (-4, 1), "rhat", 1.01)

    def test_one_row_per_engine_with_share_and_threshold(self):
        values = {"emcee": np.array([1.001] * 9 + [1.3]), "nuts": np.array([1.002] * 4)}
        figure = ridge_histogram("R̂", values, self.SCALE)
        assert len(figure.axes) == 2
        shown = texts(figure)
        assert "90\u00a0%\npass" in shown
        assert "100\u00a0%\npass" in shown
        assert [ax.get_ylabel() for ax in figure.axes] == ["emcee", "nuts"]
        assert any(np.allclose(line.get_xdata(), -2) for line in figure.axes[0].lines)

    def test_values_beyond_the_axis_count_in_its_last_bin(self):
        values = {"nuts": np.array([1.0, 0.9, 1e9, np.inf, 1.001])}
        heights = ridge_histogram("R̂", values, self.SCALE).axes[0].patches[0].get_data().values
        assert heights.sum() == 5
        assert heights[0] == 2
        assert heights[-1] == 2

    def test_nan_is_left_out_and_an_engine_without_figures_says_so(self):
        figure = ridge_histogram("k̂", {"nuts": np.full(3, np.nan), "snpe": np.array([0.1])}, self.SCALE)
        assert "has no such figure" in texts(figure)

    def test_good_may_be_above(self):
        scale = Scale("ESS", (0, 4), "log", 400.0, good_below=False)
        assert scale.passes(np.array([500.0, 300.0, 400.0])) == 1

    def test_without_threshold_the_median_is_written(self):
        figure = ridge_histogram("seconds", {"nuts": np.array([0.1234, 0.2, 0.3])}, Scale("s", (-2, 2), "log"))
        assert "median\n0.20" in texts(figure)

    def test_no_engine(self):
        assert "no engine" in texts(ridge_histogram("k̂", {}, self.SCALE))

    def test_log_limits(self):
        assert log_limits([np.array([3.0, 250.0, 0.0, np.inf])], (0, 1)) == (0.0, 3.0)
        assert log_limits([np.array([np.nan])], (0, 4)) == (0, 4)
        assert log_limits([np.array([10.0])], (0, 4)) == (1.0, 2.0)


class TestVerdicts:
    def test_bars_add_up_and_say_their_numbers(self):
        counts = {"nuts": {"converged": 90, "not_converged": 9, "failed": 1}, "snpe": {"converged": 100}}
        figure = verdict_bars(counts)
        assert sum(patch.get_width() for patch in figure.axes[0].patches) == 200
        assert "90" in texts(figure)
        assert "not converged" in texts(figure)
        assert "bad data" not in texts(figure)

    def test_empty_sweep(self):
        assert figure_bytes(verdict_bars({}), "svg")
        assert figure_bytes(verdict_bars({"nuts": {"converged": 0}}), "svg")


class TestRecovery:
    def part(self, n: int, shift: float = 0.0) -> Recovered:
        truth = RNG.normal(size=n)
        mean = truth + 0.1 * RNG.normal(size=n) + shift
        return Recovered("nuts", truth, mean, mean - 0.1645, mean + 0.1645)

    def test_calibrated_and_biased_differ(self):
        good = texts(recovery_plot("l", [self.part(500)]))
        share = float(good.split("\u00a0% in 90")[0].rsplit("\n", 1)[-1])
        assert 85 < share < 95
        assert "0\u00a0% in 90" in texts(recovery_plot("l", [self.part(500, shift=5.0)]))

    def test_many_data_sets_become_a_density(self):
        few = recovery_plot("l", [self.part(50)]).axes[0]
        many = recovery_plot("l", [self.part(MAX_DOTS + 1)]).axes[0]
        assert any(len(line.get_xdata()) == 50 for line in few.lines)
        assert not any(len(line.get_xdata()) > MAX_DOTS for line in many.lines)
        assert len(figure_bytes(recovery_plot("l", [self.part(20_000)]), "svg")) < 150_000

    def test_panel_without_truth(self):
        empty = np.empty(0)
        figure = recovery_plot("l", [self.part(5), Recovered("snpe", empty, empty, empty, empty)])
        assert len(figure.axes) == 2
        assert "no truth known" in texts(figure)


class TestAgreement:
    def test_counts_what_lies_above_one_sd(self):
        shown = texts(agreement_histogram({("emcee", "nuts"): np.array([0.1, 0.0, 2.0, np.nan])}))
        assert "1\nabove 1 sd" in shown
        assert "emcee" in shown

    def test_nothing_in_common_and_one_engine_only(self):
        assert "no data set" in texts(agreement_histogram({("emcee", "nuts"): np.empty(0)}))
        assert "one engine only" in texts(agreement_histogram({}))

    def test_intervals_have_a_row_per_parameter(self):
        shifts = RNG.normal(size=(200, 12)) * 0.1
        shifts[:, 3] = np.nan
        figure = agreement_intervals(("nuts", "snpe"), [f"theta[{i}]" for i in range(12)], shifts)
        assert len(figure.axes[0].get_yticklabels()) == 12
        assert "nuts − snpe" in texts(figure)
        assert "no data set" in texts(agreement_intervals(("nuts", "snpe"), ["l"], np.empty((0, 1))))


class TestRanking:
    def table(self, *rows: dict) -> pd.DataFrame:
        return pd.DataFrame(list(rows))

    def test_difference_in_units_of_the_mean_sd(self):
        table = self.table(row("a", "nuts", mean_l=3.0, sd_l=1.0), row("a", "snpe", mean_l=1.0, sd_l=1.0))
        assert differences(table, ("nuts", "snpe"), ("l",), converged_only=True).loc["a", "l"] == 2.0
        assert differences(table, ("snpe", "nuts"), ("l",), converged_only=True).loc["a", "l"] == -2.0

    def test_not_converged_may_be_left_out(self):
        table = self.table(row("a", "nuts"), row("a", "snpe", verdict="not_converged", mean_l=4.0))
        assert largest_difference(table, ("nuts", "snpe"), ("l",), converged_only=True).empty
        assert largest_difference(table, ("nuts", "snpe"), ("l",), converged_only=False)["a"] == 4.0

    def test_zero_sd_and_missing_figures_are_unknown(self):
        table = self.table(
            row("a", "nuts", sd_l=0.0),
            row("a", "snpe", sd_l=0.0),
            row("b", "nuts", mean_l=None),
            row("b", "snpe"),
        )
        assert largest_difference(table, ("nuts", "snpe"), ("l", "absent"), converged_only=True).empty

    def test_order(self):
        table = self.table(
            row("fine", "nuts"),
            row("fine", "snpe"),
            row("odd", "nuts", ppc_pvalue=0.0001),
            row("odd", "snpe"),
            row("apart", "nuts", mean_l=3.0),
            row("apart", "snpe"),
            row("near", "nuts", verdict="not_converged", rhat_max=1.02),
            row("near", "snpe"),
            row("far", "nuts", verdict="not_converged", rhat_max=5.0),
            row("far", "snpe"),
            row("both", "nuts", verdict="not_converged", rhat_max=1.02),
            row("both", "snpe", verdict="not_converged", rhat_max=1.02),
            row("dead", "nuts", verdict="failed", rhat_max=None, mean_l=None, sd_l=None),
            row("dead", "snpe"),
        )
        order = list(rank(table, ("nuts", "snpe"), ("l",), Thresholds()).index)
        assert order == ["dead", "both", "far", "near", "apart", "odd", "fine"]

    def test_excess_names_the_threshold_missed_by_most(self):
        table = self.table(
            row("a", "nuts"),
            row("b", "nuts", ess_bulk_min=40.0, rhat_max=1.1),
            row("c", "nuts", rhat_max=np.inf),
        )
        found = excess(table, Thresholds())
        assert found[0] == 0.0
        assert found[1] == pytest.approx(np.log(10.0))
        assert np.isinf(found[2])

    def test_empty_catalogue(self):
        empty = pd.DataFrame({"dataset_id": [], "engine": [], "verdict": []})
        assert rank(empty, ENGINES, ("l",), Thresholds()).empty

    def test_pairs(self):
        assert engine_pairs(ENGINES) == (("emcee", "nuts"), ("emcee", "snpe"), ("nuts", "snpe"))
        assert engine_pairs(("nuts",)) == ()

    def test_a_hundred_thousand_rows_are_columnar(self):
        n = 50_000
        table = pd.concat(
            [
                pd.DataFrame(
                    {
                        "dataset_id": [f"{i:06d}" for i in range(n)],
                        "engine": engine,
                        "verdict": "converged",
                        "mean_l": RNG.normal(size=n),
                        "sd_l": 1.0,
                    }
                )
                for engine in ("nuts", "snpe")
            ]
        )
        found = rank(table, ("nuts", "snpe"), ("l",), Thresholds())
        assert len(found) == n
        assert np.all(np.diff(found["disagreement"]) <= 0)


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, "–"),
            (np.nan, "–"),
            (pd.NA, "–"),
            ("text", "–"),
            (np.inf, "∞"),
            (0.0, "0.00"),
            (1234.5, "1,234"),
            (-0.01234, "−0.0123"),
            (1.5e-7, "1.50e−07"),
        ],
    )
    def test_number(self, value, expected):
        assert fmt.number(value) == expected

    def test_precision_follows_the_sd(self):
        assert fmt.with_precision(1.23456, 0.0123) == "1.235"
        assert fmt.with_precision(12345.678, 250.0) == "12,346"
        assert fmt.with_precision(1.23456, 0.0) == "1.235"
        assert fmt.with_precision(None, 1.0) == "–"

    def test_short_name_keeps_the_index(self):
        assert fmt.short_name("theta[11]") == "theta[11]"
        short = fmt.short_name("background_slope[3]")
        assert short == "backgr…ope[3]"
        assert len(short) == 13

    def test_rhat_count_percent(self):
        assert fmt.rhat(1.0104) == "1.010"
        assert fmt.rhat(np.nan) == "–"
        assert fmt.count(1999.6) == "2,000"
        assert fmt.percent(1, 100_000) == "< 0.1\u00a0%"
        assert fmt.percent(99_999, 100_000) == "> 99.9\u00a0%"
        assert fmt.percent(0, 0) == "–"
        assert fmt.plain(1.0001) == "1.0001"


def test_causes_are_counted_by_engine_most_frequent_first():
    rows = [
        row("a", "emcee", verdict="not_converged", cause="misfit"),
        row("b", "emcee", verdict="not_converged", cause="several_modes"),
        row("a", "nuts", verdict="not_converged", cause="several_modes"),
        row("b", "nuts", cause=None),
        row("c", "nuts", verdict="failed", cause="a word of a later version"),
    ]
    found = cause_rows(SimpleNamespace(catalogue=pd.DataFrame(rows), engines=("emcee", "nuts")))
    assert [(each.cause, each.counts) for each in found] == [("several_modes", ("1", "1")), ("misfit", ("1", ""))]
    assert "residuals" in found[1].advice
    assert cause_rows(SimpleNamespace(catalogue=pd.DataFrame([row("a", "nuts")]), engines=("nuts",))) == []
