"""The emcee engine: known posteriors, data sets apart, resumed runs bit for bit, failures contained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.config import parse_config
from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.weights import effective_sample_size
from chainsweep.engines.base import Outcome, Status
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.engines.emcee import engine
from chainsweep.engines.emcee.moves import StretchMove
from chainsweep.engines.emcee.settings import EmceeSettings
from chainsweep.engines.emcee.stack import MOVES_WITH_INDEPENDENCE, PLAIN_MOVES
from chainsweep.errors import ModelError
from chainsweep.importance.global_proposal import GlobalProposal, refit_from_chains, search
from chainsweep.importance.mixture import draw, log_density
from chainsweep.importance.mixture_density import Mixture, Prepared
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.load import example_observation, load_problem
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays
from chainsweep.numerics.seeds import Seeds
from tests.engine_settings import changed
from tests.statistical.calibration import problem_of, rank_pvalues, scale_and_place, simulated

LINE = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Normal(0.0, 3.0))
    numpyro.sample("obs", dist.Normal(a + b * x, y_err), obs=y)
"""

BLACK_BOX = """
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0.0, 3.0), "b": dist.Normal(0.0, 3.0)}
calls = {}

def log_likelihood(params, x, y_err, y):
    if y[0] > 900:
        raise ZeroDivisionError("at once")
    if y[0] > 90:
        calls[y[0]] = calls.get(y[0], 0) + 1
        if calls[y[0]] > 1000:
            raise OSError("a table ran out")
        y = y - 100
    return float(-0.5 * np.sum(((y - params["a"] - params["b"] * x) / y_err) ** 2))
"""

SHORT = changed(EmceeSettings(), walkers=8, max_steps=480, check_every=60, prior_draws=128, moves=PLAIN_MOVES)
LIMITS = VerdictSection()
WAITING, SOON = changed(SHORT, max_steps=910), VerdictSection(tau=30.0, ess=50.0)
"""With these settings and limits data sets finish at different blocks."""


class Memory:
    """A sink that keeps the last state, as a file would."""

    def __init__(self) -> None:
        self.state: Arrays | None = None
        self.saved = 0

    def checkpoint(self, state: Arrays) -> None:
        self.state = {name: np.array(value) for name, value in state.items()}
        self.saved += 1

    def progress(self, done: int, total: int, note: str = "") -> None:
        assert 0 <= done <= total


def never() -> bool:
    return False


def lines(n: int) -> Batch:
    rng = np.random.default_rng(12)
    x = np.sort(rng.uniform(-1, 1, (n, 20)), axis=1)
    y_err = rng.uniform(0.1, 0.4, x.shape)
    y = rng.normal(0, 2, (n, 1)) + rng.normal(0, 2, (n, 1)) * x + y_err * rng.normal(size=x.shape)
    return Batch(tuple(f"s{i}" for i in range(n)), {"x": x, "y_err": y_err, "y": y}, {}, np.ones(x.shape, bool))


def load(folder: Path, text: str) -> Problem:
    path = folder / "model.py"
    path.write_text(text, encoding="utf-8")
    config = parse_config(
        {"model": {"file": "model.py"}, "data": {"fields": {"x": "x", "y_err": "y_err", "y": "y"}}}, "test"
    )
    return load_problem(path, config, example_observation({k: v[0] for k, v in lines(1).fields.items()}, {}))


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return load(tmp_path_factory.mktemp("line"), LINE)


@pytest.fixture(scope="module")
def black_box(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return load(tmp_path_factory.mktemp("black_box"), BLACK_BOX)


def sample(
    problem: Problem,
    batch: Batch,
    settings: EmceeSettings,
    resume: Arrays | None = None,
    sink: Memory | None = None,
    deadline: Callable[[], bool] = never,
    limits: VerdictSection = LIMITS,
) -> Outcome:
    sink = sink if sink is not None else Memory()
    seeds = Seeds(7, "emcee")
    return engine.run(problem, batch, settings, seeds, limits=limits, sink=sink, resume=resume, deadline=deadline)


def complete(problem: Problem, batch: Batch, settings: EmceeSettings, limits: VerdictSection = LIMITS) -> Chains:
    outcome = sample(problem, batch, settings, limits=limits)
    assert outcome.status is Status.COMPLETE
    assert outcome.chains is not None
    return outcome.chains


def assert_same(one: Chains, two: Chains, rows: slice = slice(None)) -> None:
    """Bit for bit, wall time aside."""
    np.testing.assert_array_equal(one.theta[rows], two.theta[rows])
    assert one.sample_stats.keys() == two.sample_stats.keys()
    for name, values in one.sample_stats.items():
        np.testing.assert_array_equal(values[rows], two.sample_stats[name][rows], err_msg=name)
    np.testing.assert_array_equal(one.n_draws[rows], two.n_draws[rows])
    for name in one.info:
        if name != "seconds":
            np.testing.assert_array_equal(one.info[name][rows], two.info[name][rows], err_msg=name)


def exact_line(batch: Batch, i: int) -> tuple[np.ndarray, np.ndarray]:
    design = np.column_stack([np.ones(batch.width), batch.fields["x"][i]]) / batch.fields["y_err"][i][:, None]
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / 9)
    return covariance @ design.T @ (batch.fields["y"][i] / batch.fields["y_err"][i]), covariance


def worst_z(chains: Chains, batch: Batch, shift: float = 0.0) -> float:
    """Largest error of means and standard deviations in Monte-Carlo errors."""
    worst = 0.0
    for i in range(len(batch)):
        draws = chains.theta[i, :, : chains.n_draws[i]].reshape(-1, 2)
        mean, covariance = exact_line(batch, i)
        sd, ess = np.sqrt(np.diag(covariance)), min(chains.info["ess_min"][i], len(draws))
        worst = max(worst, np.max(np.abs(draws.mean(axis=0) - mean - shift * sd) / sd) * np.sqrt(ess))
        worst = max(worst, np.max(np.abs(draws.std(axis=0) / sd - 1)) * np.sqrt(2 * ess))
    return float(worst)


@pytest.fixture(scope="module")
def converged(problem: Problem) -> Chains:
    return complete(problem, lines(6), changed(EmceeSettings(), check_every=250))


def test_the_posterior_of_lines_is_exact_and_passes_its_checks(converged):
    info = converged.info
    assert converged.kind is DrawKind.ENSEMBLE
    assert not converged.failures
    assert converged.theta.shape == (6, 2, converged.n_draws.max(), 2)
    assert (converged.n_draws <= 2000).all()
    assert (converged.n_draws % 32 == 0).all()
    assert (info["kept_over_tau"] > 50).all()
    assert (info["rhat_max"] < 1.01).all()
    assert (info["ess_min"] > 400).all()
    assert (info["n_steps"] < 5000).all()
    assert (info["burn_in"] >= 5 * info["tau_max"] - 1).all()
    assert info["tau"].shape == (6, 2)
    assert np.isfinite(info["trace"][:, :50]).all()
    assert worst_z(converged, lines(6)) < 4.5


def test_a_shifted_chain_would_be_seen(converged):
    assert worst_z(converged, lines(6), shift=0.2) > 6


def test_lp_is_the_log_density_of_its_draw(problem):
    batch = lines(3)
    chains = complete(problem, batch, SHORT)
    for i, row in ((0, 7), (2, int(chains.n_draws[2]) - 1)):
        obs = example_observation({name: values[i] for name, values in batch.fields.items()}, {})
        theta = chains.theta[i, 1, row]
        np.testing.assert_allclose(chains.sample_stats["lp"][i, 1, row], problem.log_density(theta, obs), rtol=1e-10)


def test_data_sets_do_not_see_each_other(problem):
    batch = lines(3)
    other = {name: values.copy() for name, values in batch.fields.items()}
    other["y"][1] += 3.0
    changed = Batch(batch.ids, other, {}, batch.mask)
    one, two = complete(problem, batch, SHORT), complete(problem, changed, SHORT)
    assert_same(one, two, slice(0, 1))
    assert_same(one, two, slice(2, 3))
    assert not np.array_equal(one.theta[1], two.theta[1])


def test_another_shard_changes_nothing_but_rounding(problem):
    batch = lines(3)
    settings = changed(SHORT, max_steps=120)
    together, alone = complete(problem, batch, settings), complete(problem, batch.take([2]), settings)
    np.testing.assert_array_equal(together.n_draws[2:], alone.n_draws)
    np.testing.assert_allclose(together.theta[2], alone.theta[0], rtol=1e-6)


@pytest.mark.parametrize("check_every", [20, 60])
def test_data_sets_that_wait_change_no_draw(problem, monkeypatch, check_every):
    batch = lines(7)
    settings = changed(WAITING, check_every=check_every)
    together = complete(problem, batch, settings, SOON)
    assert len(set(together.info["n_steps"])) > 1
    few, sink, notes = changed(settings, stack=3), Memory(), []
    monkeypatch.setattr(sink, "progress", lambda done, total, note="": notes.append((done, note)))
    outcome = sample(problem, batch, few, sink=sink, limits=SOON)
    assert notes[0] == (0, f"3 running, step {check_every}, 4 waiting")
    assert notes[-1][0] == 7
    # somebody entered while others went on
    assert any(0 < done < 4 and note.startswith("3 running") for done, note in notes)
    assert_same(outcome.chains, together)
    stopped, calls = Memory(), iter(range(10_000))
    monkeypatch.setattr("chainsweep.engines.emcee.stack.SECONDS_BETWEEN_LOOKS", 0.0)
    halted = sample(problem, batch, few, sink=stopped, deadline=lambda: next(calls) == 777, limits=SOON)
    assert halted.status is Status.STOPPED
    assert_same(sample(problem, batch, few, stopped.state, limits=SOON).chains, together)


def test_ensembles_are_not_copies_of_each_other(problem):
    chains = complete(problem, lines(3), SHORT)
    assert not np.intersect1d(chains.theta[0, 0, :, 0], chains.theta[0, 1, :, 0]).size


def test_stopped_at_every_block_it_resumes_bit_for_bit(problem):
    batch = lines(3)
    settings = changed(WAITING, check_every=20)
    whole = complete(problem, batch, settings, SOON)
    assert len(set(whole.info["n_steps"])) > 1
    sink, stops = Memory(), 0
    outcome = sample(problem, batch, settings, sink=sink, deadline=lambda: True, limits=SOON)
    while outcome.status is Status.STOPPED:
        assert outcome.chains is None
        stops += 1
        outcome = sample(problem, batch, settings, sink.state, sink, deadline=lambda: True, limits=SOON)
    assert stops == whole.info["n_steps"].max() / 20 - 1
    assert_same(outcome.chains, whole)


def test_stopped_within_a_block_it_resumes_bit_for_bit(problem, monkeypatch):
    batch, calls = lines(3), iter(range(10_000))
    whole = complete(problem, batch, SHORT)
    monkeypatch.setattr("chainsweep.engines.emcee.stack.SECONDS_BETWEEN_LOOKS", 0.0)
    sink = Memory()
    outcome = sample(problem, batch, SHORT, sink=sink, deadline=lambda: next(calls) == 77)
    assert outcome.status is Status.STOPPED
    assert sink.state["now"] % SHORT.tuning.check_every != 0
    assert_same(sample(problem, batch, SHORT, sink.state).chains, whole)


def test_a_killed_attempt_continues_from_its_last_checkpoint(problem):
    class Killed(Exception):
        pass

    class Dying(Memory):
        def progress(self, done, total, note=""):
            if note == "3 running, step 180":
                raise Killed

    sink = Dying()
    with pytest.raises(Killed):
        sample(problem, lines(3), SHORT, sink=sink)
    assert sink.saved >= 1
    assert_same(sample(problem, lines(3), SHORT, sink.state).chains, complete(problem, lines(3), SHORT))


def test_a_data_set_without_a_start_fails_alone(problem):
    batch = lines(3)
    batch.fields["y"][1] = np.nan
    chains = complete(problem, batch, SHORT)
    assert list(chains.failures) == [1]
    assert "finite at 0 of 64 prior draws" in chains.failures[1]
    assert chains.n_draws[1] == 0
    assert np.isnan(chains.theta[1]).all()
    assert np.isnan(chains.info["tau_max"][1])
    assert (chains.n_draws[[0, 2]] > 0).all()


def test_all_data_sets_without_a_start(problem):
    batch = lines(3)
    batch.fields["y"][:] = np.nan
    chains = complete(problem, batch, SHORT)
    assert sorted(chains.failures) == [0, 1, 2]
    assert not chains.n_draws.any()


def test_a_black_box_that_raises_fails_alone(black_box, problem):
    batch = lines(3)
    batch.fields["y"][0] += 1000
    batch.fields["y"][2] += 100
    settings = changed(SHORT, max_steps=180)
    chains = complete(black_box, batch, settings)
    assert chains.failures[0] == "log_likelihood raised ZeroDivisionError: at once"
    assert chains.failures[2] == "log_likelihood raised OSError: a table ran out"
    assert chains.n_draws[1] > 0
    # the same streams and, but for a constant, the same log density
    same = complete(problem, batch, settings)
    np.testing.assert_allclose(chains.theta[1], same.theta[1, :, : chains.n_draws[1]], rtol=1e-6)


def test_a_failure_within_a_block_survives_resuming(black_box, monkeypatch):
    batch = lines(2)
    batch.fields["y"][1] += 100
    monkeypatch.setattr("chainsweep.engines.emcee.stack.SECONDS_BETWEEN_LOOKS", 0.0)
    sink, calls = Memory(), iter(range(10_000))
    outcome = sample(black_box, batch, SHORT, sink=sink, deadline=lambda: next(calls) == 110)
    assert outcome.status is Status.STOPPED
    resumed = sample(black_box, batch, SHORT, sink.state)
    assert resumed.chains.failures == {1: "log_likelihood raised OSError: a table ran out"}


def test_too_few_walkers_are_refused(problem):
    with pytest.raises(ModelError, match="at least twice the 2 parameters of the model, got 3"):
        sample(problem, lines(1), changed(SHORT, walkers=3))


CALIBRATED = changed(EmceeSettings(), walkers=16, max_steps=2000, check_every=250, prior_draws=512)
ROUGH = VerdictSection(ess=200, rhat=1.05)


SHARES = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist

def model(y=None):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array([1.5, 2.5, 1.0])))
    numpyro.sample("obs", dist.Categorical(probs=p), obs=y)
"""


def test_shares_of_a_whole_have_their_exact_posterior(tmp_path):
    """Walkers cannot move on a simplex; they move unconstrained, and draws and ``lp`` are of the shares."""
    path = tmp_path / "model.py"
    path.write_text(SHARES, encoding="utf-8")
    y = np.array([[0] * 5 + [1] * 12 + [2] * 3, [2] * 20])
    config = parse_config({"model": {"file": "model.py"}, "data": {"fields": {"y": "y"}}}, "test")
    problem = load_problem(path, config, example_observation({"y": y[0]}, {}))
    batch = Batch(("s0", "s1"), {"y": y}, {}, np.ones(y.shape, bool))
    chains = complete(problem, batch, EmceeSettings(max_steps=2000))
    for row, counts in enumerate(([5, 12, 3], [0, 0, 20])):
        draws = chains.theta[row, :, : chains.n_draws[row]].reshape(-1, 3)
        alpha = np.array([1.5, 2.5, 1.0]) + counts
        mean = alpha / alpha.sum()
        sd = np.sqrt(mean * (1 - mean) / (alpha.sum() + 1))
        error = sd / np.sqrt(chains.info["ess_min"][row])
        np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), 4 * error + 1e-12)
        np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.15)
        np.testing.assert_allclose(draws.sum(axis=1), 1.0, rtol=1e-9)
        lp = chains.sample_stats["lp"][row, 0, 0]
        expected = BatchedProblem(problem, batch).log_density(draws[None, :1].repeat(2, axis=0))[row, 0]
        np.testing.assert_allclose(lp, expected, rtol=1e-9)
        seen = chains.info["trace"][row]
        np.testing.assert_allclose(seen[np.isfinite(seen).all(axis=1)].sum(axis=1), 1.0, rtol=1e-9)


def pvalues(datasets: int, moves: dict[str, float]) -> np.ndarray:
    batch, truth = simulated(datasets)
    settings = changed(CALIBRATED, moves=moves)
    return rank_pvalues(complete(problem_of(scale_and_place), batch, settings, ROUGH), truth)


@pytest.mark.parametrize(
    "moves",
    [PLAIN_MOVES, MOVES_WITH_INDEPENDENCE, {"stretch": 1.0}],
    ids=["plain", "independence", "stretch"],
)
def test_five_hundred_data_sets_are_calibrated(moves):
    assert pvalues(500, moves).min() > 0.005


def test_a_wrong_stretch_exponent_is_caught_by_calibration(monkeypatch):
    """The planted error: ``z ** d`` in place of ``z ** (d - 1)``."""
    right = StretchMove.get_proposal

    def wrong(move, sample, complement):
        points, factors = right(move, sample, complement)
        return points, factors * sample.shape[-1] / (sample.shape[-1] - 1.0)

    monkeypatch.setattr(StretchMove, "get_proposal", wrong)
    assert pvalues(1000, {"stretch": 1.0}).min() < 1e-6


def test_independence_steps_from_a_poor_mixture_are_exact(monkeypatch):
    """Shifted by a scale and twice as wide as what importance sampling found."""
    right = GlobalProposal.mixture

    def poor(proposal, rows, enlarged=None):
        mixture = right(proposal, rows, enlarged)
        return Mixture(mixture.log_weight, mixture.mean + mixture.chol.sum(axis=-1), 2.0 * mixture.chol)

    monkeypatch.setattr(GlobalProposal, "mixture", poor)
    assert pvalues(500, {"jump": 0.5, "de": 0.5}).min() > 0.005


def test_independence_steps_that_leave_out_the_proposal_density_are_caught_by_calibration(monkeypatch):
    monkeypatch.setattr(Prepared, "log_density", lambda mixture, z: 0.0 * z[:, 0])
    assert pvalues(500, {"jump": 0.5, "de": 0.5}).min() < 1e-6


def test_proposals_refitted_to_chains_are_calibrated(monkeypatch):
    """At every look at every chain, of which there are some more than usual."""
    monkeypatch.setattr("tests.statistical.test_emcee.ROUGH", ROUGH.model_copy(update={"tau": 300.0}))
    monkeypatch.setattr(engine, "REFIT_BELOW", np.inf)
    monkeypatch.setattr(engine, "REFIT_AT", 0.0)
    refits = watch(monkeypatch, "refit_from_chains")
    assert pvalues(500, {"jump": 0.5, "de": 0.5}).min() > 0.005
    assert sum(refits) > 500


def test_a_mixture_refitted_to_a_chain_follows_its_posterior(problem):
    batch, seeds, rng = lines(3), Seeds(1, "emcee"), np.random.default_rng(4)
    batched = BatchedProblem(problem, batch)
    proposal = search(batched, seeds, (32, 1), 512, 4)[2]
    spoiled = replace(proposal, mean=proposal.mean + 3.0 * proposal.chol.sum(axis=-1))
    moments = [exact_line(batch, i) for i in range(3)]
    drawn = [rng.multivariate_normal(mean, covariance, 5000) for mean, covariance in moments]
    healed = refit_from_chains(spoiled, batched, drawn, seeds)
    assert healed.refits.tolist() == [1, 1, 1]
    assert healed.is_enlarged.all()

    def efficiency(proposal: GlobalProposal) -> np.ndarray:
        mixture = proposal.mixture(np.arange(3), enlarged=True)
        z = np.asarray(draw(mixture, seeds.jax_keys(batch.ids, "test", 1)[:, 0], 2000))
        log_weight = batched.log_density_unconstrained(z) - np.asarray(log_density(mixture, z))
        return effective_sample_size(log_weight) / 2000

    assert (efficiency(spoiled) < 0.3).all()
    assert (efficiency(healed) > 0.6).all()


HUMPS = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

def model(x, y_err, y=None):
    a = numpyro.sample("a", dist.Uniform(-10.0, 10.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("obs", dist.Normal(jnp.abs(a) + b * x, y_err), obs=y)
"""


@pytest.mark.parametrize(("moves", "mixes"), [(None, True), (PLAIN_MOVES, False)], ids=["jumps", "plain"])
def test_modes_that_lie_apart_are_both_met(tmp_path, moves, mixes):
    """With plain moves a walker stays where it began, and the verdict's figures say so."""
    batch = lines(4)
    batch.fields["y"] += 8.0 - batch.fields["y"].mean(axis=1, keepdims=True)
    chains = complete(load(tmp_path, HUMPS), batch, changed(EmceeSettings(), moves=moves, max_steps=1000))
    assert ((chains.info["kept_over_tau"] > 50) & (chains.info["rhat_max"] < 1.01)).all() == mixes
    if mixes:
        for i in range(4):
            left = chains.theta[i, :, : chains.n_draws[i], 0] < 0
            assert abs(left.mean() - 0.5) < 4 * 0.5 / np.sqrt(chains.info["ess_min"][i])


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """How many data sets each call of a function of the engine was given."""
    counts: list[int] = []
    original = getattr(engine, name)
    monkeypatch.setattr(engine, name, lambda *given: counts.append(len(given[2])) or original(*given))
    return counts


@pytest.mark.parametrize(("stack", "stride"), [(2, 1), (2, 3)])
def test_guided_ensembles_resume_bit_for_bit(problem, monkeypatch, stack, stride):
    """A deep search and refits in between, stops at every second of its blocks, and data sets that wait."""
    monkeypatch.setattr(engine, "DEEPEN_AT", 0.1 * stride)
    monkeypatch.setattr(engine, "FAR_FROM_DONE", np.inf)
    monkeypatch.setattr(engine, "REFIT_BELOW", np.inf)
    monkeypatch.setattr(engine, "REFIT_AT", 0.1)
    deep, refits = watch(monkeypatch, "with_deep_search"), watch(monkeypatch, "refit_from_chains")
    batch, settings = lines(3), changed(WAITING, moves=None, stack=stack)
    limits = VerdictSection(tau=300.0, ess=50.0)
    whole = complete(problem, batch, changed(settings, stack=256), limits)
    assert sum(deep) == 3
    assert sum(refits) == 3 * engine.REFITS
    sink, stops = Memory(), 0
    outcome = sample(problem, batch, settings, sink=sink, deadline=lambda: True, limits=limits)
    while outcome.status is Status.STOPPED:
        stops += 1
        outcome = sample(problem, batch, settings, sink.state, sink, deadline=lambda: True, limits=limits)
    assert stops > 5
    assert_same(outcome.chains, whole)


def test_a_black_box_makes_independence_steps_when_told(black_box):
    """Without gradients the search goes from prior draws alone."""
    batch = lines(3)
    settings = changed(EmceeSettings(), walkers=16, moves=MOVES_WITH_INDEPENDENCE, max_steps=600, prior_draws=512)
    chains = complete(black_box, batch, settings)
    assert (chains.info["kept_over_tau"] > 50).all()
    assert (chains.info["tau_max"] < 8).all()
    assert worst_z(chains, batch) < 4.5


def test_a_data_set_that_cannot_finish_gives_up_early(problem):
    batch = lines(3)
    settings = changed(EmceeSettings(), walkers=8, moves={"stretch": 1.0}, max_steps=8000)
    chains = complete(problem, batch, settings, VerdictSection(tau=5000.0))
    np.testing.assert_array_equal(chains.info["n_steps"], 1200)
    assert np.isfinite(chains.info["rhat_max"]).all()
    # one that needs its whole budget gets it
    slow = complete(problem, batch, settings, VerdictSection(tau=15.0, ess=1e5))
    np.testing.assert_array_equal(slow.info["n_steps"], 8000)
