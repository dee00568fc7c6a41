"""NUTS against exact posteriors; restarts that change no bit; data sets that cannot be sampled."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Inputs, Status
from chainsweep.engines.nuts import attempts, kernels
from chainsweep.engines.nuts import engine as nuts
from chainsweep.engines.nuts.lanes import FIRST_LOOK
from chainsweep.engines.nuts.settings import NutsSettings
from chainsweep.model.load import example_observation
from chainsweep.model.problem import Problem
from chainsweep.model.trace import trace_structure
from chainsweep.numerics import loops
from chainsweep.numerics.seeds import Seeds
from tests.conftest import line_data
from tests.engine_settings import changed

SETTINGS = changed(NutsSettings(), warmup=200, draws=400, block=100, prior_draws=256, descents=4)


class Recorder:
    """A Sink that keeps every state in memory."""

    def __init__(self):
        self.states = []

    def checkpoint(self, state):
        self.states.append({name: np.array(value) for name, value in state.items()})

    def progress(self, done, total, note=""):
        assert 0 <= done <= total


def line(x, y_err, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("obs", dist.Normal(a + b * x, y_err), obs=y)


def two_modes(x, y=None):
    """The square of a parameter is seen: two modes of equal mass, at +3 and -3."""
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a**2 + 0 * x, 0.5), obs=y)


@lru_cache
def problem_of(model):
    """One Problem a model, so that its program is compiled once for all tests."""
    points = 8 if model in (two_modes, spike) else 12
    fields = dict.fromkeys(("x", "y") if points == 8 else ("x", "y", "y_err"), np.ones(points))
    example = example_observation({n: v * (1.0 + np.arange(points)) for n, v in fields.items()}, {})
    return Problem(model, trace_structure(model, Path("model.py"), example, ("y",)), ("y",))


def lines(datasets=4):
    data = line_data(datasets)
    fields = {name: data[name] for name in ("x", "y", "y_err")}
    return Batch(tuple(f"line-{i}" for i in range(datasets)), fields, {}, np.ones_like(data["x"], bool))


def sample(model, batch, settings=SETTINGS, resume=None, deadline=lambda: False, sink=None, ess=400.0):
    return nuts.run(
        problem_of(model),
        batch,
        settings,
        Seeds(1, "nuts"),
        limits=VerdictSection(ess=ess),
        sink=sink or Recorder(),
        resume=resume,
        deadline=deadline,
    )


def exact(batch, row):
    design = np.stack([np.ones_like(batch.fields["x"][row]), batch.fields["x"][row]], axis=1)
    weights = 1 / batch.fields["y_err"][row] ** 2
    precision = design.T @ (design * weights[:, None]) + np.eye(2) / 4
    return np.linalg.solve(precision, design.T @ (weights * batch.fields["y"][row])), np.linalg.inv(precision)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_means_and_covariances_of_lines_are_exact(precision):
    batch = lines()
    chains = sample(line, batch, changed(SETTINGS, precision=precision)).chains
    assert not chains.failures
    assert set(chains.info["precision_bits"]) == {int(precision[-2:])}
    for row in range(len(batch)):
        draws = chains.theta[row, :, : chains.n_draws[row]].reshape(-1, 2).T
        mean, covariance = exact(batch, row)
        sd = np.sqrt(np.diag(covariance))
        assert np.all(np.abs(draws.mean(axis=1) - mean) < 5 * sd / np.sqrt(400))
        np.testing.assert_allclose(np.cov(draws) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.2)
        assert np.all(np.abs(draws.mean(axis=1) - exact(batch, (row + 1) % 4)[0]).max() > 0.3 * sd.max())


def test_chains_visit_both_modes():
    """Chains start in all modes found; one mode alone would have a mean of 3, not 0."""
    rng = np.random.default_rng(0)
    batch = Batch(("twins",), {"x": np.zeros((1, 8)), "y": rng.normal(9, 0.5, (1, 8))}, {}, np.ones((1, 8), bool))
    draws = sample(two_modes, batch).chains.theta[0, ..., 0]
    assert {1.0, -1.0} == set(np.sign(draws[:, 0]))
    assert np.nanstd(draws) > 2.5


def late(x, y_err, y=None):
    """A mean far from zero, known to a thousandth: single precision has steps of 1/256 there."""
    level = numpyro.sample("level", dist.Normal(59_000.0, 1.0))
    numpyro.sample("obs", dist.Normal(level + 0 * x, y_err), obs=y)


def test_what_single_precision_is_too_coarse_for_is_sampled_in_double():
    """The energies where chains start say so; the mean is exact all the same."""
    rng = np.random.default_rng(4)
    fields = {"x": np.zeros((2, 12)), "y": rng.normal(59_000.0, 1e-3, (2, 12)), "y_err": np.full((2, 12), 1e-3)}
    batch = Batch(("late", "later"), fields, {}, np.ones((2, 12), bool))
    chains = sample(late, batch, changed(SETTINGS, precision="float32")).chains
    assert list(chains.info["precision_bits"]) == [64, 64]
    error = 1e-3 / np.sqrt(12)
    for row in range(2):
        draws = chains.theta[row, :, : chains.n_draws[row], 0]
        assert abs(draws.mean() - fields["y"][row].mean()) < 0.3 * error
        assert draws.std() == pytest.approx(error, rel=0.2)


def test_coarse_energies_along_the_chains_are_seen(monkeypatch):
    """With a tolerance below rounding every data set is done again in double precision, and none passes before."""
    monkeypatch.setattr(nuts, "ENERGY_ERROR", 1e-9)
    monkeypatch.setattr(nuts._Run, "_check_precision", lambda run: None)
    chains = sample(line, lines(2), changed(SETTINGS, precision="float32")).chains
    assert list(chains.info["precision_bits"]) == [64, 64]
    np.testing.assert_array_equal(chains.theta[..., 0], sample(line, lines(2)).chains.theta[..., 0])


def spike(x, y=None):
    """What is seen is near 0 but in a window of 1e-8, which no search meets and holds all of the mass."""
    a = numpyro.sample("a", dist.Uniform(0, 1))
    numpyro.sample("obs", dist.Normal(3.0 * jnp.exp(-0.5 * ((a - 0.7) / 1e-8) ** 2) + 0 * x, 0.5), obs=y)


def test_chains_go_where_given_draws_are():
    """Draws of another engine show a mode that prior draws and descents cannot find; without them it is missed."""
    batch = Batch(("found", "lost"), {"x": np.zeros((2, 8)), "y": np.full((2, 8), 3.0)}, {}, np.ones((2, 8), bool))
    given = np.full((2, 64, 1), np.nan)
    given[0, :, 0] = np.random.default_rng(0).normal(0.7, 3e-9, 64)
    problem = problem_of(spike)
    chains = nuts.run(
        problem,
        batch,
        changed(SETTINGS, attempts=2),
        Seeds(1, "nuts"),
        limits=VerdictSection(),
        sink=Recorder(),
        resume=None,
        deadline=lambda: False,
        inputs=Inputs(draws_elsewhere=lambda ids: given),
    ).chains
    found, lost = (chains.theta[row, :, : chains.n_draws[row], 0] for row in range(2))
    assert np.abs(found - 0.7).max() < 1e-7
    assert np.abs(lost - 0.7).min() > 1e-7


def test_an_error_that_all_points_share_is_none():
    exact = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, np.inf], [0.0, 1.0, 2.0]])
    single = exact + np.array([[3.0, 3.0, 3.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, np.nan, 0.0]])
    error = attempts.energy_error(single, exact, np.ones_like(exact, bool))
    np.testing.assert_allclose(error, [0.0, np.sqrt(2.0), 0.0, np.inf])


@pytest.mark.parametrize(("stop_after", "precision"), [(0, "float64"), (2, "float64"), (1, "float32")])
def test_a_stopped_run_continues_with_the_same_bits(stop_after, precision):
    batch, settings = lines(), changed(SETTINGS, precision=precision)
    whole = sample(line, batch, settings).chains
    calls = iter(range(100))
    sink = Recorder()
    stopped = sample(line, batch, settings, deadline=lambda: next(calls) >= stop_after, sink=sink)
    assert stopped.status is Status.STOPPED
    assert len(sink.states) == stop_after + 1
    resumed = sample(line, batch, settings, resume=sink.states[-1]).chains
    np.testing.assert_array_equal(whole.theta, resumed.theta)
    for name, values in whole.sample_stats.items():
        np.testing.assert_array_equal(values, resumed.sample_stats[name])


def test_a_resumed_run_from_a_changed_state_differs():
    """The twin: the saved state matters. Without independence steps, which forget where a chain was."""
    batch, settings = lines(), changed(SETTINGS, jumps=0)
    sink = Recorder()
    whole = sample(line, batch, settings, sink=sink).chains
    state = sink.states[2]
    moved = {**state, "lanes/kernel/1": state["lanes/kernel/1"] + 0.1}
    resumed = sample(line, batch, settings, resume=moved).chains
    assert not np.array_equal(whole.theta, resumed.theta)


@pytest.mark.parametrize("algorithm", ["nuts", "hmc"])
def test_waiting_data_sets_take_the_lanes_of_those_that_are_done(algorithm):
    """Seven data sets through two lanes, stopped and resumed on the way: the draws of all seven at once."""
    batch = lines(7)
    changes = {
        "algorithm": algorithm,
        "lanes": 2,
        "attempts": 1,
        "block": 20,
        "jumps": 1,
        "draws": 1000,
    }
    settings = changed(SETTINGS, **changes)
    sink = Recorder()
    few = sample(line, batch, settings, sink=sink, ess=1500)
    middle = sink.states[len(sink.states) // 2]
    assert 0 < len(middle["lanes/left/members"]) < 7
    assert set(few.chains.info["attempts"]) == {1}
    assert np.ptp(few.chains.n_draws) > 0, "all left at once: nothing was shown"
    resumed = sample(line, batch, settings, resume=middle, ess=1500)
    all_at_once = sample(line, batch, changed(settings, lanes=None), ess=1500)
    np.testing.assert_array_equal(few.chains.theta, resumed.chains.theta)
    np.testing.assert_allclose(few.chains.theta, all_at_once.chains.theta, rtol=1e-6)
    for row in range(7):
        draws = few.chains.theta[row, :, : few.chains.n_draws[row]].reshape(-1, 2).T
        mean, covariance = exact(batch, row)
        assert np.all(np.abs(draws.mean(axis=1) - mean) < 5 * np.sqrt(np.diag(covariance) / 150))


def test_lanes_that_go_together_draw_what_each_draws_alone(monkeypatch):
    """As on an accelerator, two at a time, of three lanes, the last of them behind a repeated one."""
    batch = lines(5)
    settings = changed(SETTINGS, lanes=3, attempts=1)
    alone = sample(line, batch, settings, ess=800).chains
    kernels.kernels_of.cache_clear()
    monkeypatch.setattr(loops, "_together", lambda width: 2)
    sink = Recorder()
    notes = []
    sink.progress = lambda done, total, note="": notes.append(note)
    together = sample(line, batch, settings, sink=sink, ess=800).chains
    kernels.kernels_of.cache_clear()
    np.testing.assert_array_equal(together.n_draws, alone.n_draws)
    np.testing.assert_allclose(together.theta, alone.theta, rtol=1e-6)
    assert "75% busy" in notes[0], "of three lanes two groups of two are computed"


def test_a_data_set_that_cannot_be_sampled_fails_alone():
    batch = lines()
    batch.fields["y"][1, 4] = np.nan
    chains = sample(line, batch).chains
    assert list(chains.failures) == [1]
    assert "finite likelihood" in chains.failures[1]
    assert chains.n_draws.tolist()[1] == 0
    assert np.all(chains.n_draws[[0, 2, 3]] >= 200)


def test_what_fails_its_diagnostics_is_run_again_longer():
    batch = lines()
    settings = changed(SETTINGS, attempts=2)
    chains = sample(line, batch, settings, ess=2500).chains
    assert chains.info["attempts"].tolist() == [2, 2, 2, 2]
    assert np.all((chains.n_draws > 400) & (chains.n_draws <= 800))


def test_a_run_stopped_in_a_later_attempt_continues_with_the_same_bits():
    """There the proposal is refitted to what the attempt before drew, as it is again on resuming."""
    batch, settings = lines(), changed(SETTINGS, attempts=2)
    sink = Recorder()
    whole = sample(line, batch, settings, sink=sink, ess=2500).chains
    later = [state for state in sink.states if int(state["round"]) > 0]
    assert len(later) > 3
    assert len(later[1]["done/members"]) == len(batch)
    resumed = sample(line, batch, settings, resume=later[1], ess=2500).chains
    np.testing.assert_array_equal(whole.theta, resumed.theta)


def test_what_an_attempt_cannot_reach_is_given_up_at_once():
    settings = changed(SETTINGS, attempts=2, draws=600)
    chains = sample(line, lines(), settings, ess=1e9).chains
    assert chains.info["attempts"].tolist() == [2, 2, 2, 2]
    assert chains.n_draws.tolist() == [FIRST_LOOK] * 4


def test_progress_says_what_a_user_asks_for():
    """Running, waiting, how busy the lanes are, and the pace once a data set has left."""
    sink = Recorder()
    notes = []
    sink.progress = lambda done, total, note="": notes.append((done, total, note))
    sample(line, lines(7), changed(SETTINGS, lanes=2, attempts=1), sink=sink)
    assert notes[0][:2] == (0, 7)
    assert "2 running, 5 waiting" in notes[0][2]
    assert notes[-1][:2] == (7, 7)
    for words in ("0 running, 0 waiting", "% busy", "verified/s", "gradients/s", "0 s left"):
        assert words in notes[-1][2]


def test_lanes_follow_the_memory_of_a_gpu():
    """A processor takes the default; a GPU half its memory's worth, within bounds."""
    assert attempts.lanes_that_fit(None, 1 << 20) == attempts.DEFAULT_LANES
    assert attempts.lanes_that_fit(1 << 30, 1 << 20) == 512
    assert attempts.lanes_that_fit(1 << 20, 1 << 20) == attempts.DEFAULT_LANES
    assert attempts.lanes_that_fit(1 << 40, 1 << 20) == attempts.MOST_LANES
