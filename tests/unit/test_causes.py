"""Causes: each has its words and its order, the most fundamental one counts, and the documentation lists them all."""

from __future__ import annotations

import re

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.valleys import deepest_valley
from chainsweep.model.failing import Failing, failing
from chainsweep.tasks.failures import CAUSES, Kind, kind_of
from chainsweep.verdicts.causes import FAILURES, TOLD, Cause, Finding, cause_of_failure, hint_of, most_fundamental
from chainsweep.verdicts.explain import EXPLAINS, explained
from chainsweep.verdicts.rules import Caused, Check, checks_of, ensemble_rules, markov_rules, mode_rules, weighted_rules
from tests.conftest import ROOT

LIMITS = VerdictSection()
DOCUMENTED = re.findall(
    r"^\| `([a-z_]+)` \| (.*?) \| (.*?) \|$", (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8"), re.MULTILINE
)
GOOD = [1.0, 900.0, 900.0, 0.0]


def test_every_cause_has_its_words_and_is_documented_in_order():
    assert list(TOLD) == list(Cause)
    rows = [(name, means, advice) for name, means, advice in DOCUMENTED if name in set(Cause)]
    assert [name for name, _, _ in rows] == [str(cause) for cause in Cause]
    for name, means, advice in rows:
        told = TOLD[Cause(name)]
        assert (means, advice) == (told.means, told.advice.format(budget="the setting that it names"))


def test_every_failure_has_a_cause():
    assert set(FAILURES) == set(Failing)
    assert set(CAUSES) == set(Kind)
    assert EXPLAINS.keys() <= set(Cause)


@pytest.mark.parametrize("kind", Failing)
def test_a_failure_is_known_by_its_first_words(kind):
    assert failing(f"log_likelihood{kind}ValueError: no start: the log density is finite at 3") is kind
    assert cause_of_failure(f"log_likelihood{kind}x") is FAILURES[kind]


def test_an_error_of_an_engine_has_no_such_words():
    assert failing("LinAlgError: singular matrix") is None
    assert cause_of_failure("LinAlgError: singular matrix") is Cause.INTERNAL_ERROR
    assert kind_of(MemoryError()) is Kind.OUT_OF_MEMORY


def test_a_hint_is_a_sentence_with_place_and_advice():
    assert hint_of(Cause.PRIOR_EDGE, "a at 5").startswith("a at 5: widen the prior")
    assert hint_of(Cause.CANCELLED) == "the job was cancelled or told to stop: run or submit the campaign again"
    assert hint_of(Cause.TOO_FEW_DRAWS, "ESS 3", "[engines.x] draws") == "ESS 3: raise [engines.x] draws"


def cause(checks: list[Check | Caused], seen: dict[Cause, str] | None = None) -> tuple[str, str]:
    (found,), (hint,) = explained(checks, {}, {} if seen is None else {0: seen}, "B")
    return found, hint


def markov(**changed: float) -> list[Check | Caused]:
    names = ("rhat", "bulk", "tail", "divergences")
    figures = [changed.get(name, value) for name, value in zip(names, GOOD, strict=True)]
    return [*checks_of(markov_rules(LIMITS), [[value] for value in figures], {"R-hat": ["m"]})]


def test_what_passes_has_no_cause_whatever_is_seen():
    assert cause(markov(), {Cause.PRIOR_EDGE: "a at 5", Cause.MISFIT: "p"}) == ("", "")


@pytest.mark.parametrize(
    ("changed", "seen", "found", "at"),
    [
        ({"rhat": 1.2}, {}, Cause.TOO_FEW_DRAWS, "R-hat of m 1.2000: raise B"),
        ({"bulk": 30.0}, {Cause.PRIOR_EDGE: "a at 5"}, Cause.PRIOR_EDGE, "a at 5"),
        ({"bulk": 30.0}, {Cause.MISFIT: "p 0"}, Cause.MISFIT, "p 0"),
        ({"rhat": 1.2}, {Cause.MISFIT: "p 0", Cause.SEVERAL_MODES: "m near 1"}, Cause.SEVERAL_MODES, "m near 1"),
        ({"rhat": 1.2}, {Cause.STUCK: "m = 1", Cause.SEVERAL_MODES: "m near 1"}, Cause.STUCK, "m = 1"),
        ({"divergences": 9.0}, {}, Cause.DIVERGENCES, "divergences 9"),
        ({"divergences": 9.0}, {Cause.PRIOR_EDGE: "a at 5"}, Cause.DIVERGENCES, "divergences 9"),
        ({"divergences": 9.0, "rhat": 1.2}, {Cause.SEVERAL_MODES: "m near 1"}, Cause.SEVERAL_MODES, "m near 1"),
        ({"tail": np.nan}, {Cause.UNDERFLOW: "-inf"}, Cause.UNDERFLOW, "-inf"),
    ],
)
def test_the_most_fundamental_cause_that_explains_what_fails_counts(changed, seen, found, at):
    name, hint = cause(markov(**changed), seen)
    assert name == found
    assert hint.startswith(at)


def modes(shift: float = 0.0, outside: float = 0.0) -> list[Check | Caused]:
    return [*checks_of(mode_rules(LIMITS), [[shift], [outside], [0.0]])]


def test_a_mean_that_is_off_is_a_symptom_where_anything_else_fails():
    assert cause([*markov(), *modes(shift=0.5)])[0] == Cause.MASS_ELSEWHERE
    assert cause([*markov(rhat=1.2), *modes(shift=0.5)])[0] == Cause.TOO_FEW_DRAWS
    assert cause([*markov(rhat=1.2), *modes(shift=0.5, outside=0.1)])[0] == Cause.MASS_ELSEWHERE


def test_a_density_comes_before_figures_and_an_inconclusive_check_after_them():
    finding = {0: Finding(Cause.DENSITY_NOT_A_NUMBER, "not a number", "a = 1")}
    unsure = {0: Finding(Cause.MODE_CHECK_INCONCLUSIVE, "inconclusive", "k-hat 1")}
    assert cause([Caused(finding, 1), *markov(rhat=1.2)]) == (
        "density_not_a_number",
        hint_of(Cause.DENSITY_NOT_A_NUMBER, "a = 1"),
    )
    assert cause([*markov(rhat=1.2), Caused(unsure, 1)])[0] == Cause.TOO_FEW_DRAWS
    assert cause([*markov(), Caused(unsure, 1)])[0] == Cause.MODE_CHECK_INCONCLUSIVE
    assert cause([*markov(), Caused(unsure, 1)], {Cause.PRIOR_EDGE: "a at 5"})[0] == Cause.PRIOR_EDGE


def test_weights_and_ensembles():
    weighted = [*checks_of(weighted_rules(LIMITS), [[0.9], [50.0]])]
    assert cause(weighted)[0] == Cause.POOR_PROPOSAL
    assert cause(weighted, {Cause.UNLIKE_TRAINING: "far"})[0] == Cause.UNLIKE_TRAINING
    assert cause(weighted, {Cause.PRIOR_EDGE: "a at 5"})[0] == Cause.PRIOR_EDGE, "its weighted ESS fails too"
    short = [*checks_of(ensemble_rules(LIMITS), [[1.0], [20.0], [900.0]], {"autocorrelation times": ["b"]})]
    assert cause(short) == ("too_few_draws", "autocorrelation times of b 20: raise B")


def test_the_order_is_that_of_the_list():
    assert most_fundamental([Cause.TOO_FEW_DRAWS, Cause.NOT_A_FUNCTION, Cause.MISFIT]) is Cause.NOT_A_FUNCTION
    with pytest.raises(StopIteration):
        most_fundamental([])


def heaps(shares: list[float], count: int = 400, apart: float = 8.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return apart * rng.choice(len(shares), count, p=shares) + rng.standard_normal(count)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.34, 0.33, 0.33]])
def test_a_valley_is_between_heaps(shares):
    values = heaps(shares)
    valley = deepest_valley(values)
    assert valley is not None
    assert values[valley.left].mean() + 4.0 < values[valley.right].mean()


@pytest.mark.parametrize(
    "values",
    [
        heaps([1.0]),
        np.random.default_rng(1).uniform(size=400),
        np.random.default_rng(1).standard_cauchy(400),
        heaps([0.995, 0.005]),
        np.ones(400),
        np.full(400, np.nan),
        np.arange(5.0),
    ],
    ids=["normal", "uniform", "Cauchy", "a few draws apart", "constant", "NaN", "few draws"],
)
def test_where_there_is_one_heap_there_is_no_valley(values):
    assert deepest_valley(values) is None
