"""Are simulations dropped by their parameters? Known answers, and a false alarm as often as it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from chainsweep.diagnostics.dropping import ALARM, LEAST_SHARE, Dropping, dependence, subjects

Drops = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Which simulations, by their parameters and a uniform number each."""
NAMES = ("a", "b", "c")

AT_RANDOM: dict[str, Drops] = {
    "none": lambda w, u: u < 0,
    "one": lambda w, u: np.arange(len(w)) == 5,
    "5 %": lambda w, u: u < 0.05,
    "half": lambda w, u: u < 0.5,
}
BY_PARAMETERS: dict[str, tuple[Drops, str]] = {
    "half of a parameter": (lambda w, u: w[:, 0] > 0, "a"),
    "a tail": (lambda w, u: w[:, 1] > 2.7, "b"),
    "a little more often above": (lambda w, u: u < np.where(w[:, 2] > 0, 0.07, 0.03), "c"),
    "opposite quadrants": (lambda w, u: w[:, 0] * w[:, 2] > 0, "a and c together"),
    "a few of opposite quadrants": (lambda w, u: (w[:, 0] * w[:, 1] > 0) & (u < 0.06), "a and b together"),
    "three signs": (lambda w, u: w.prod(axis=1) > 0, "several parameters together"),
    "infinite parameters": (lambda w, u: np.isinf(w[:, 0]), "a"),
    "parameters that are no numbers": (lambda w, u: np.isnan(w[:, 1]), "b"),
}


def found(drops: Drops, name: str = "") -> Dropping:
    rng = np.random.default_rng(3)
    w, u = rng.standard_normal((4000, 3)), rng.uniform(size=4000)
    if name == "infinite parameters":
        w[:20, 0] = np.inf
    if name == "parameters that are no numbers":
        w[:20, 1] = np.nan
    dropped = drops(w, u)
    return Dropping(NAMES, len(w), {"NaN": int(dropped.sum()), "+inf": 0}, dependence(w, dropped, (1, 2)))


@pytest.mark.parametrize("name", AT_RANDOM)
def test_what_is_dropped_at_random_condemns_nothing(name):
    assert found(AT_RANDOM[name]).by is None


@pytest.mark.parametrize("name", BY_PARAMETERS)
def test_the_parameter_that_decides_is_named(name):
    drops, parameter = BY_PARAMETERS[name]
    dropping = found(drops, name)
    assert dropping.parameter == parameter
    assert dropping.sentence().endswith(f"depends on {parameter}")
    assert f"{dropping.share:.2%} of 4000 simulations" in dropping.sentence()


def test_a_share_that_can_change_no_posterior_is_told_and_condemns_nothing():
    rare = Dropping(NAMES, 100_000, {"NaN": 99}, np.zeros(len(subjects(NAMES))))
    assert rare.by is None
    assert "0.10% of 100000 simulations are no numbers and were dropped (99 NaN); so few" in rare.sentence()
    assert Dropping(NAMES, 100_000, {"NaN": 100}, np.zeros(len(subjects(NAMES)))).by == 0
    assert LEAST_SHARE == 0.001


def test_pvalues_are_small_as_often_as_they_say():
    rng = np.random.default_rng(1)
    least = []
    for seed in range(50):
        w = rng.standard_normal((200, 2))
        least.append(dependence(w, rng.uniform(size=200) < 0.05, (seed, 0)).min())
    assert np.mean(np.array(least) < 0.1) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 50)
    assert np.sum(np.array(least) <= ALARM) <= 1, "one is expected in 1,000"
