"""The other ways of training snpe: on a host simulator alone, and in sequential rounds."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.weights import weighted_mean
from chainsweep.engines.base import Status
from chainsweep.engines.snpe import engine as snpe
from chainsweep.numerics.seeds import Seeds
from tests.engine_settings import changed
from tests.snpe_lines import (
    HOST_MODEL,
    LEARNING,
    MemorySink,
    after,
    draws,
    errors,
    line_batch,
    line_problem,
    never,
    train,
)

BATCH = line_batch(12, seed=8)
SEQUENTIAL = {"mode": "sequential", "simulations_per_round": 1000, "rounds": 3}


def test_a_simulator_alone_gives_a_posterior_that_is_close(tmp_path):
    problem = line_problem(tmp_path, HOST_MODEL)
    chains = draws(problem, train(problem, BATCH, bank_simulations=4000), BATCH)
    in_sd = errors(chains, BATCH) / np.sqrt(LEARNING.draws)
    assert np.median(in_sd) < 0.3
    chains.theta[..., 0] = chains.theta[::-1, ..., 0].copy()
    assert np.median(errors(chains, BATCH)[0]) / np.sqrt(LEARNING.draws) > 1


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return line_problem(tmp_path_factory.mktemp("line"))


def test_sequential_rounds_sharpen_on_one_data_set(problem):
    one = BATCH.take([3])
    trained = train(problem, one, **SEQUENTIAL)
    chains = draws(problem, trained, one)
    assert (trained.space["halfwidth"] < 1.6).all()
    assert chains.info["proposal_efficiency"][0] > 0.3
    assert errors(chains, one).max() < 4


def test_run_trains_a_sequential_network_itself_and_keeps_it_when_stopped(problem):
    one, settings = BATCH.take([5]), changed(LEARNING, **SEQUENTIAL | {"rounds": 2, "round_steps": 20})
    arguments = {"limits": VerdictSection(), "resume": None}
    sink = MemorySink()
    whole = snpe.run(problem, one, settings, Seeds(2, "snpe"), sink=sink, deadline=never, **arguments).chains
    calls = 2 * (2 + settings.tuning.round_steps)
    stopped = snpe.run(problem, one, settings, Seeds(2, "snpe"), sink=sink, deadline=after(calls), **arguments)
    assert stopped.status is Status.STOPPED
    assert any(name.startswith("trained/") for name in sink.states[-1])
    arguments["resume"] = sink.states[-1]
    continued = snpe.run(problem, one, settings, Seeds(2, "snpe"), sink=sink, deadline=never, **arguments).chains
    np.testing.assert_array_equal(whole.theta, continued.theta)
    own = slice(int(whole.n_draws[0]))
    assert np.isfinite(weighted_mean(whole.theta[..., own, 0], whole.sample_stats["log_weight"][..., own])).all()
