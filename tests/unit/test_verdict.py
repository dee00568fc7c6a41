"""Verdicts: thresholds, NaN, and reasons that name what fails first."""

from __future__ import annotations

import numpy as np

from chainsweep.config.campaign import VerdictSection
from chainsweep.diagnostics.predictive import predictive_pvalue
from chainsweep.verdicts.rules import markov_checks, one_line, verdicts, weighted_checks

LIMITS = VerdictSection()


def markov(rhat=1.001, bulk=1000.0, tail=900.0, divergences=0.0):
    return markov_checks(LIMITS, [rhat], [bulk], [tail], [divergences])


def test_good_chains_converge():
    labels, reasons = verdicts(markov(), {}, {})
    assert labels == ["converged"]
    assert reasons[0].startswith("R-hat 1.0010; bulk ESS 1000")


def test_each_failing_figure_condemns_and_is_named():
    for change, text in [
        ({"rhat": 1.01}, "R-hat 1.0100 (must be below 1.01)"),
        ({"bulk": 400.0}, "bulk ESS 400 (must be above 400)"),
        ({"tail": 12.0}, "tail ESS 12 (must be above 400)"),
        ({"divergences": 1.0}, "1 divergences (must be at most 0)"),
        ({"rhat": np.nan}, "R-hat undefined (must be below 1.01)"),
    ]:
        labels, reasons = verdicts(markov(**change), {}, {})
        assert labels == ["not_converged"]
        assert reasons == [text]


def test_failures_and_bad_data_come_before_figures():
    checks = weighted_checks(LIMITS, [0.1, 0.1, 0.1], [1000.0, 1000.0, 1000.0])
    labels, reasons = verdicts(checks, {1: "likelihood raised\nValueError"}, {2: "constant data"})
    assert labels == ["converged", "failed", "bad_data"]
    assert reasons[1:] == ["likelihood raised ValueError", "constant data"]


def test_reasons_are_one_bounded_line():
    assert one_line("a\n  b\tc") == "a b c"
    assert len(one_line("x" * 1000)) == 300


def test_predictive_pvalue_of_exact_misfit_and_overdispersed_models():
    rng = np.random.default_rng(0)
    replica = rng.normal(size=(3, 4000))
    observed = np.stack([rng.normal(size=4000), np.full(4000, -9.0), np.full(4000, 9.0)])
    values = predictive_pvalue(replica, observed)
    assert abs(values[0] - 0.5) < 0.03
    assert values[1] == 0.0
    assert values[2] == 1.0


def test_predictive_pvalue_leaves_out_unusable_draws():
    replica = np.array([[0.0, np.nan, 1.0], [np.nan, np.nan, np.nan]])
    assert predictive_pvalue(replica, np.full((2, 3), 0.5))[0] == 0.5
    assert np.isnan(predictive_pvalue(replica, np.zeros((2, 3)))[1])
