"""A check that raises on one data set takes no other with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chainsweep.campaign.config import parse_config
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts import judge as judging
from chainsweep.verdicts.judge import judge, judge_each
from tests.snpe_lines import exact_posterior, line_batch, line_problem

DRAWS = 250


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A function that judges three data sets, of which the check raises on those named, and the columns without."""
    problem, batch = line_problem(tmp_path), line_batch(3)
    limits = parse_config({"model": {"file": "model.py"}, "data": {"source": "data.npz"}}, origin="test").verdict
    draws = np.random.default_rng(1).standard_normal((3, 4, DRAWS, 2))
    info = {"seconds": np.arange(3.0), "acceptance": np.ones((3, 4))}
    chains = Chains(DrawKind.MARKOV, draws, {}, np.full(3, DRAWS), info, {})
    batched, seeds, real = BatchedProblem(problem, batch), Seeds(1, "nuts"), judging.density_causes
    plain = judge(chains, batched, limits, seeds)

    def act(culprits: set[str]) -> tuple[Chains, dict]:
        def raising(some, chains, seeds):
            drawn = {name for name, count in zip(some.batch.ids, chains.n_draws, strict=True) if count}
            if culprits & drawn:
                raise np.linalg.LinAlgError("Matrix is not positive definite")
            return real(some, chains, seeds)

        monkeypatch.setattr(judging, "density_causes", raising)
        return judge_each(chains, batched, limits, seeds)

    return act, plain, batch.ids


def test_nothing_is_changed_where_nothing_raises(judged):
    act, plain, _ = judged
    chains, columns = act(set())
    assert chains.n_draws.tolist() == [DRAWS] * 3
    for name, values in plain.items():
        np.testing.assert_array_equal(columns[name], values)


def test_the_one_on_which_a_check_raises_fails_and_the_others_keep_their_verdicts(judged):
    act, plain, ids = judged
    chains, columns = act({ids[1]})
    assert chains.n_draws.tolist() == [DRAWS, 0, DRAWS]
    assert columns["verdict"][1] == "failed"
    assert "LinAlgError: Matrix is not positive definite" in columns["reason"][1]
    for name, values in plain.items():
        np.testing.assert_array_equal(np.asarray(columns[name])[[0, 2]], np.asarray(values)[[0, 2]])


def test_an_error_on_every_data_set_is_no_fault_of_theirs(judged):
    act, _, ids = judged
    with pytest.raises(np.linalg.LinAlgError):
        act(set(ids))


@pytest.mark.parametrize(("choice", "verdict"), [("not_converged", "not_converged"), ("flag", "converged")])
def test_a_mode_check_that_proves_nothing_does_not_pass_unless_told(tmp_path, monkeypatch, choice, verdict):
    """Exact draws of a Gaussian posterior; of the second data set the check has too few effective draws."""
    problem, batch = line_problem(tmp_path), line_batch(2)
    batched = BatchedProblem(problem, batch)
    noise, draws = np.random.default_rng(2).standard_normal((4 * DRAWS, 2)), []
    for position in range(2):
        mean, covariance, _ = exact_posterior(batch, position)
        draws.append(mean + noise @ np.linalg.cholesky(covariance).T)
    theta = np.reshape(draws, (2, 4, DRAWS, 2))
    info = {"seconds": np.ones(2), "acceptance": np.ones((2, 4))}
    chains = Chains(DrawKind.MARKOV, theta, {}, np.full(2, DRAWS), info, {})
    real = judging.check_chains

    def unsure(*arguments):
        check = real(*arguments)
        return replace(check, conclusive=check.conclusive & [True, False], ess=check.ess * [1.0, 0.01])

    monkeypatch.setattr(judging, "check_chains", unsure)
    raw = {"model": {"file": "model.py"}, "data": {"source": "data.npz"}, "verdict": {"inconclusive": choice}}
    columns = judge(chains, batched, parse_config(raw, origin="test").verdict, Seeds(1, "nuts"))
    assert columns["verdict"] == ["converged", verdict]
    assert columns["flags"] == ["", "mode_check_inconclusive"]
    told = "mode check inconclusive: k-hat" in columns["reason"][1]
    assert told == (choice == "not_converged")


@pytest.mark.parametrize(("sick", "judged_alone"), [(range(20), 8), ([0, 19], 20)])
def test_a_check_that_always_raises_ends_after_some_data_sets(tmp_path, monkeypatch, sick, judged_alone):
    calls = []

    def judge_fake(chains, batched, limits, seeds):
        calls.append(len(batched.batch))
        if any(chains.n_draws[i] and name in names for i, name in enumerate(batched.batch.ids)):
            raise RuntimeError("no device")
        return {}

    batch = line_batch(20)
    names = {batch.ids[i] for i in sick}
    chains = Chains(DrawKind.MARKOV, np.zeros((20, 4, 5, 1)), {}, np.full(20, 5), {}, {})
    monkeypatch.setattr(judging, "judge", judge_fake)
    if len(names) == 20:
        with pytest.raises(RuntimeError, match="no device"):
            judge_each(chains, BatchedProblem(line_problem(tmp_path), batch), None, None)
    else:
        left, _ = judge_each(chains, BatchedProblem(line_problem(tmp_path), batch), None, None)
        assert set(left.failures) == set(sick)
    assert calls.count(1) == judged_alone
