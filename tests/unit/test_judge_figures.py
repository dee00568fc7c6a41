"""The judgement of hand-made draws of every kind: each figure alone condemns, on one side of its limit."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chainsweep.campaign.config import parse_config
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.convergence import ess_bulk, ess_tail, rhat_rank
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts import judge as judging
from chainsweep.verdicts.causes import Cause, Finding
from chainsweep.verdicts.judge import judge
from chainsweep.verdicts.mode_check import ModeCheck
from tests.snpe_lines import line_batch

SETS, DRAWS = 4, 200
LIMITS = {
    ("ensemble", "rhat_max"): (1.01, "below"),
    ("ensemble", "kept_over_tau"): (50.0, "above"),
    ("ensemble", "ess_min"): (400.0, "above"),
    ("weighted", "khat"): (0.7, "below"),
    ("weighted", "ess"): (400.0, "above"),
    ("likelihood-free", "miscalibration"): (0.05, "below"),
    ("likelihood-free", "ood_pvalue"): (0.001, "above"),
}
"""The limits that the README promises, by kind of draws and figure."""
GOOD = {
    "rhat_max": 1.001,
    "kept_over_tau": 80.0,
    "ess_min": 5000.0,
    "khat": 0.2,
    "ess": 3000.0,
    "miscalibration": 0.01,
    "ood_pvalue": 0.6,
}
MODES = {"shift": 0.2, "mass_outside": 0.01}
KINDS = {
    "markov": DrawKind.MARKOV,
    "ensemble": DrawKind.ENSEMBLE,
    "weighted": DrawKind.WEIGHTED,
    "likelihood-free": DrawKind.WEIGHTED,
}


def fine() -> ModeCheck:
    """A conclusive check that found nothing."""
    values = {item.name: np.zeros(SETS) for item in fields(ModeCheck)}
    values |= {"sd_ratio": np.ones(SETS), "ess": np.full(SETS, 900.0), "conclusive": np.ones(SETS, bool)}
    return ModeCheck(**values)


def problem(has_likelihood: bool) -> Any:
    """A stand-in for a problem with the parameters a and b, with all that a judge asks of it."""

    return SimpleNamespace(
        names=("a", "b"),
        ndim=2,
        unconstrained_columns=("a", "b"),
        varying=np.arange(2),
        has_likelihood=has_likelihood,
    )


@dataclass
class Bound:
    """A problem with a batch, of which the checks that are replaced here would compute densities."""

    problem: Any
    batch: Batch
    failures: dict[int, str] = field(default_factory=dict)

    def take(self, rows: np.ndarray) -> Bound:
        return Bound(self.problem, self.batch.take(rows))


class Judged:
    """Four data sets, judged with a mode check, causes and p-values that a test chooses."""

    def __init__(self, monkeypatch) -> None:
        self.check, self.causes, self.pvalue, self.edges = fine(), {}, np.full(SETS, 0.5), {}
        self.asked: list[tuple[tuple[str, ...], np.ndarray]] = []
        monkeypatch.setattr(judging, "density_causes", lambda *_: self.causes)
        monkeypatch.setattr(judging, "check_chains", self._check)
        monkeypatch.setattr(judging, "_predictive", lambda *_: self.pvalue)
        monkeypatch.setattr(judging, "piled_up", lambda *_: self.edges)
        monkeypatch.setattr(judging, "evidence", lambda batched, chains, rows, seeds: {row: {} for row in rows})

    def _check(self, batched, chains, effective, seeds, limits) -> ModeCheck:
        self.asked.append((batched.batch.ids, effective))
        return self.check

    def __call__(self, kind: str, changed=None, *, theta=None, stats=None, limits=None, n_draws=None, failures=None):
        chains = 1 if KINDS[kind] is DrawKind.WEIGHTED else 4
        if theta is None:
            theta = np.random.default_rng(1).standard_normal((SETS, chains, DRAWS, 2))
        info = {name: np.full(SETS, value) for name, value in GOOD.items()} | {"seconds": np.ones(SETS)}
        info |= {"tau": np.tile([3.0, 7.0], (SETS, 1))} | (changed or {})
        stats = {"log_weight": np.zeros(theta.shape[:3])} if kind == "weighted" else stats or {}
        n_draws = np.full(SETS, theta.shape[2]) if n_draws is None else n_draws
        made = Chains(KINDS[kind], theta, stats, n_draws, info, failures or {})
        raw = {"model": {"file": "model.py"}, "data": {"source": "data.npz"}, "verdict": limits or {}}
        bound: Any = Bound(problem(kind != "likelihood-free"), line_batch(SETS))
        return judge(made, bound, parse_config(raw, "test").verdict, Seeds(1, "any"))


@pytest.fixture
def judged(monkeypatch) -> Judged:
    return Judged(monkeypatch)


def sides(limit: float) -> np.ndarray:
    return np.array([np.nextafter(limit, -np.inf), limit, np.nextafter(limit, np.inf), np.nan])


def labels(passes: list[bool]) -> list[str]:
    return ["converged" if good else "not_converged" for good in passes]


@pytest.mark.parametrize("kind", KINDS)
def test_good_figures_of_every_kind_converge(judged, kind):
    columns = judged(kind, limits={"ess": 300.0} if kind == "markov" else None)
    assert columns["verdict"] == ["converged"] * SETS
    assert columns["flags"] == [""] * SETS
    assert len(judged.asked) == (kind != "likelihood-free")


@pytest.mark.parametrize(("kind", "figure"), LIMITS)
def test_a_figure_of_the_engine_condemns_on_one_side_of_its_limit(judged, kind, figure):
    limit, better = LIMITS[kind, figure]
    columns = judged(kind, {figure: sides(limit)})
    assert columns["verdict"] == labels([better == "below", False, better == "above", False])
    assert [", limit " in reason for reason in columns["reason"]] == [v != "converged" for v in columns["verdict"]]


@pytest.mark.parametrize(("figure", "other"), [("miscalibration", "markov"), ("khat", "ensemble"), ("ess", "markov")])
def test_a_figure_of_another_kind_condemns_nothing(judged, figure, other):
    assert judged(other, {figure: np.full(SETS, np.nan)}, limits={"ess": 300.0})["verdict"] == ["converged"] * SETS


def uneven() -> np.ndarray:
    """Draws whose second parameter has the larger R-hat, and whose first one has fewer effective draws."""
    rng = np.random.default_rng(3)
    theta = rng.standard_normal((SETS, 4, DRAWS, 2))
    theta[..., 1:, 0] = 0.6 * theta[..., :-1, 0] + 0.8 * theta[..., 1:, 0]
    theta[:, 0, :, 1] += 0.4
    return theta


@pytest.mark.parametrize(
    ("column", "limit", "figure", "worst", "name"),
    [
        ("rhat_max", "rhat", rhat_rank, np.max, "R-hat"),
        ("ess_bulk_min", "ess", ess_bulk, np.min, "bulk ESS"),
        ("ess_tail_min", "ess", ess_tail, np.min, "tail ESS"),
    ],
)
def test_the_worst_parameter_of_markov_chains_is_compared_with_the_limit(judged, column, limit, figure, worst, name):
    theta = uneven()
    each = figure(np.moveaxis(theta, -1, 1))
    value = worst(each, axis=1)
    columns = judged("markov", theta=theta)
    np.testing.assert_allclose(columns[column], value, rtol=1e-12)
    lenient = {"rhat": 9.0, "ess": 1.0}
    row, measured = 2, float(columns[column][2])
    parameter = "ab"[int(np.flatnonzero(each[row] == value[row])[0])]
    near = [float(np.nextafter(measured, end)) for end in (-np.inf, np.inf)]
    for bound, passes in zip((near[0], measured, near[1]), (limit == "ess", False, limit == "rhat"), strict=True):
        again = judged("markov", theta=theta, limits=lenient | {limit: bound})
        assert (f"{name} of {parameter} " in again["reason"][row]) == (not passes)
        assert passes or again["verdict"][row] == "not_converged"


def test_a_parameter_that_cannot_be_judged_is_the_worst_one(judged):
    theta = np.random.default_rng(1).standard_normal((SETS, 4, DRAWS, 2))
    theta[1, ..., 1] = theta[2, ..., 0] = 7.0
    columns = judged("markov", theta=theta, limits={"ess": 300.0})
    assert columns["verdict"] == labels([True, False, False, True])
    assert ["R-hat of b undefined" in reason for reason in columns["reason"]] == [False, True, False, False]
    assert np.isnan(columns["rhat_max"]).tolist() == [False, True, True, False]


@pytest.mark.parametrize("allowed", [0, 3])
def test_divergences_of_all_chains_are_counted(judged, allowed):
    diverging = np.zeros((SETS, 4, DRAWS))
    for row, count in enumerate((0, allowed, allowed + 1, 4 * DRAWS)):
        diverging[row].ravel()[np.linspace(0, 4 * DRAWS - 1, count).astype(int)] = 1.0
    columns = judged("markov", stats={"diverging": diverging}, limits={"divergences": allowed, "ess": 300.0})
    assert columns["divergences"].tolist() == [0, allowed, allowed + 1, 4 * DRAWS]
    assert columns["verdict"] == labels([True, True, False, False])


def test_the_slowest_parameter_of_ensembles_is_named(judged):
    columns = judged("ensemble", {"ess_min": np.full(SETS, 12.0)})
    assert columns["reason"] == ["ESS of b 12, limit 400"] * SETS


@pytest.mark.parametrize("kind", ["markov", "ensemble", "weighted"])
@pytest.mark.parametrize("figure", MODES)
def test_mass_that_the_draws_lack_condemns_every_kind(judged, kind, figure):
    judged.check = replace(fine(), **{figure: np.nan_to_num(sides(MODES[figure]), nan=9.0)})
    columns = judged(kind, limits={"ess": 300.0})
    assert columns["verdict"] == labels([True, False, False, False])
    assert columns["mode_shift" if figure == "shift" else figure].tolist() == getattr(judged.check, figure).tolist()


def test_sds_that_differ_either_way_condemn(judged):
    judged.check = replace(fine(), sd_ratio=np.exp([-0.19, -0.17, 0.17, 0.19]))
    assert judged("weighted")["verdict"] == labels([False, True, True, False])


@pytest.mark.parametrize("kind", ["markov", "ensemble", "weighted"])
@pytest.mark.parametrize("choice", ["not_converged", "flag"])
def test_an_inconclusive_check_proves_nothing_of_any_kind(judged, kind, choice):
    conclusive = np.array([True, False, True, False])
    judged.check = replace(fine(), conclusive=conclusive, shift=np.where(conclusive, 0.0, 9.0))
    columns = judged(kind, limits={"ess": 300.0, "inconclusive": choice})
    assert columns["verdict"] == labels((conclusive | (choice == "flag")).tolist())
    assert columns["flags"] == ["" if proven else "mode_check_inconclusive" for proven in conclusive]


@pytest.mark.parametrize(("kind", "own"), [("ensemble", "ess_min"), ("weighted", "ess")])
def test_the_mode_check_is_told_how_many_draws_the_figures_stand_for(judged, kind, own):
    judged(kind, {own: np.array([500.0, 600.0, 700.0, 800.0])})
    ((_, effective),) = judged.asked
    assert effective.tolist() == [500.0, 600.0, 700.0, 800.0]


def test_what_has_no_draws_is_not_checked_and_the_others_keep_their_places(judged):
    whole = fine()
    judged.causes = {
        0: Finding(Cause.DENSITY_NOT_A_NUMBER, "no density"),
        1: Finding(Cause.NOT_A_FUNCTION, "no function"),
    }
    judged.check = whole.take(np.array([1, 3]))
    columns = judged("ensemble", n_draws=np.array([0, DRAWS, 0, DRAWS]), failures={0: "engine\nfailed", 2: "no start"})
    ((ids, _),) = judged.asked
    assert ids == ("line-1", "line-3")
    assert columns["verdict"] == ["failed", "not_converged", "failed", "not_converged"]
    assert columns["reason"] == ["engine failed", "no density", "no start", "no function"]
    assert columns["draws"].tolist() == [0, 4 * DRAWS, 0, 4 * DRAWS]
    assert np.isnan(columns["mode_shift"][[0, 2]]).all()


def test_a_misfit_and_an_unlikely_data_set_are_flagged_at_their_limits(judged):
    judged.pvalue = sides(0.001)
    columns = judged("weighted", {"ood_pvalue": sides(0.001)[::-1]})
    assert columns["verdict"] == ["converged"] * SETS
    assert columns["flags"] == ["misfit", "", "", "unlike_simulations"]


def test_dropped_simulations_condemn_only_where_the_mode_check_cannot_tell(judged):
    judged.check = replace(fine(), conclusive=np.array([True, True, False, False]))
    dropped = {"dropped_by": np.array([np.nan, 0.0, np.nan, 1.0]), "dropped_share": np.full(SETS, 0.25)}
    columns = judged("weighted", dropped, limits={"inconclusive": "flag"})
    assert columns["verdict"] == labels([True, True, True, False])
    assert "25.0% of the network's simulations" in columns["reason"][3]
    assert ["simulations_dropped" in flags for flags in columns["flags"]] == [False, True, False, True]
    columns = judged("likelihood-free", dropped)
    assert columns["verdict"] == labels([True, False, True, False])
