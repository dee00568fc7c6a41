"""Verdicts: thresholds, NaN, and reasons that name what fails first."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.predictive import predictive_pvalue
from chainsweep.verdicts.causes import Cause, Finding
from chainsweep.verdicts.rules import (
    Caused,
    Rule,
    checks_of,
    ensemble_rules,
    likelihood_free_rules,
    markov_rules,
    mode_rules,
    one_line,
    verdicts,
    weighted_rules,
)

LIMITS = VerdictSection()


GOOD = {
    "markov": (markov_rules(LIMITS), [1.001, 1000.0, 900.0, 0.0]),
    "ensemble": (ensemble_rules(LIMITS), [1.001, 60.0, 5000.0]),
    "weighted": (weighted_rules(LIMITS), [0.1, 1000.0]),
    "likelihood-free": (likelihood_free_rules(LIMITS), [0.01, 0.5]),
    "mode check": (mode_rules(LIMITS), [0.0, 0.0, 0.0]),
}
EVERY_RULE = [(kind, number) for kind, (rules, _) in GOOD.items() for number in range(len(rules))]


def judged(kind: str, changed: dict[int, float]) -> tuple[list[str], list[str]]:
    rules, figures = GOOD[kind]
    return verdicts(checks_of(rules, [[changed.get(k, value)] for k, value in enumerate(figures)]), {})


PROMISED = {
    "markov": [
        ("R-hat", 1.01, "below"),
        ("bulk ESS", 400, "above"),
        ("tail ESS", 400, "above"),
        ("divergences", 0, "at most"),
    ],
    "ensemble": [
        ("R-hat between ensembles", 1.01, "below"),
        ("autocorrelation times", 50, "above"),
        ("ESS", 400, "above"),
    ],
    "weighted": [("k-hat", 0.7, "below"), ("weighted ESS", 400, "above")],
    "likelihood-free": [
        ("no likelihood; distance of the network's calibration from uniform", 0.05, "below"),
        ("simulations as far out of distribution", 0.001, "above"),
    ],
    "mode check": [
        ("mode check: shift of a mean", 0.2, "below"),
        ("mass where no chain went", 0.01, "below"),
        ("log ratio of sds", 0.18, "below"),
    ],
}


@pytest.mark.parametrize("kind", GOOD)
def test_the_limits_are_those_that_the_documentation_promises(kind):
    assert [(rule.figure, rule.limit, rule.better) for rule in GOOD[kind][0]] == PROMISED[kind]


@pytest.mark.parametrize("kind", GOOD)
def test_good_figures_converge_and_are_told(kind):
    labels, reasons = judged(kind, {})
    assert labels == ["converged"]
    assert "limit" not in reasons[0]
    assert reasons[0].count(";") >= len(GOOD[kind][0]) - 1


@pytest.mark.parametrize(("kind", "number"), EVERY_RULE)
def test_each_figure_alone_condemns_on_the_wrong_side_of_its_limit_and_nowhere_else(kind, number):
    """The limit itself, its neighbours among the floats, and NaN."""
    rule = GOOD[kind][0][number]
    below, above = np.nextafter(rule.limit, -np.inf), np.nextafter(rule.limit, np.inf)
    passes = {"below": (True, False, False), "at most": (True, True, False), "above": (False, False, True)}[rule.better]
    for value, holds in zip((below, rule.limit, above, np.nan), (*passes, False), strict=True):
        (label,), (reason,) = judged(kind, {number: value})
        assert label == ("converged" if holds else "not_converged")
        assert rule.figure in reason
        assert (", limit " in reason) == (not holds)
        assert ("undefined" in reason) == bool(np.isnan(value))


@pytest.mark.parametrize(
    ("kind", "changed", "of", "text"),
    [
        ("markov", {0: 1.01}, {"R-hat": ["m"]}, "R-hat of m 1.0100, limit 1.01"),
        ("markov", {1: 400.0}, {"bulk ESS": ["theta[0]"]}, "bulk ESS of theta[0] 400, limit 400"),
        ("markov", {3: 1.0}, {}, "divergences 1, limit 0"),
        ("markov", {0: np.nan}, {}, "R-hat undefined, limit 1.01"),
        ("ensemble", {1: np.nan}, {}, "autocorrelation times undefined, limit 50"),
        ("weighted", {0: 0.81, 1: 12.0}, {}, "k-hat 0.81, limit 0.7; weighted ESS 12, limit 400"),
        ("likelihood-free", {1: 0.0005}, {}, "simulations as far out of distribution 0.05 %, limit 0.1 %"),
        ("mode check", {0: 0.31}, {}, "mode check: shift of a mean 0.31 sd, limit 0.2 sd"),
        ("mode check", {1: 0.02}, {}, "mass where no chain went 2.0 %, limit 1 %"),
        ("mode check", {2: 0.3}, {}, "log ratio of sds 0.30, limit 0.18"),
    ],
)
def test_a_reason_names_figure_parameter_value_and_limit_in_one_unit(kind, changed, of, text):
    rules, figures = GOOD[kind]
    checks = checks_of(rules, [[changed.get(k, value)] for k, value in enumerate(figures)], of)
    assert verdicts(checks, {}) == (["not_converged"], [text])


def test_a_cause_condemns_its_data_set_alone():
    checks = [
        Caused({1: Finding(Cause.NOT_A_FUNCTION, "the density is not a function")}, 2),
        *checks_of([Rule("ESS", 400.0, "above")], [[500.0, 500]]),
    ]
    assert verdicts(checks, {}) == (
        ["converged", "not_converged"],
        ["ESS 500", "the density is not a function"],
    )


def test_a_failure_comes_before_figures():
    checks = checks_of(weighted_rules(LIMITS), [[0.1, 0.1], [1000.0, 1000.0]])
    labels, reasons = verdicts(checks, {1: "likelihood raised\nValueError"})
    assert labels == ["converged", "failed"]
    assert reasons[1] == "likelihood raised ValueError"


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


def test_a_replica_as_likely_as_the_data_counts_half():
    replica = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert predictive_pvalue(replica, np.full((1, 4), 3.0))[0] == 2.5 / 4
