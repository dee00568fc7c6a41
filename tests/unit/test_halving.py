"""An engine that raises: only the data sets that make it raise fail, and nothing of a part is saved as the whole's."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from chainsweep.data.collection import Batch
from chainsweep.engines.base import Outcome, Status
from chainsweep.engines.chains import Chains, DrawKind, without_draws
from chainsweep.errors import ModelError
from chainsweep.stages.infer import sample_by_halves

IDS = tuple("abcdefgh")


class Sink:
    """Counts what it is asked to keep."""

    def __init__(self):
        self.states = []

    def checkpoint(self, state):
        self.states.append(state)

    def progress(self, done, total, note=""):
        pass


def batch_of(ids=IDS):
    return Batch(ids, {"y": np.zeros((len(ids), 3))}, {}, np.ones((len(ids), 3), bool))


def engine(culprits, status=Status.COMPLETE, error=ValueError):
    """Draws equal to the position of a data set among all; raises when a culprit is in the batch."""

    def run(batch, sink, resume):
        sink.checkpoint({"ids": np.array(batch.ids)})
        if culprits & set(batch.ids):
            raise error("singular")
        if status is Status.STOPPED:
            return Outcome(Status.STOPPED)
        draws = np.array([IDS.index(name) for name in batch.ids], float)
        count = len(batch)
        theta = np.broadcast_to(draws[:, None, None, None], (count, 1, 5, 1)).copy()
        return Outcome(
            Status.COMPLETE,
            Chains(DrawKind.MARKOV, theta, {}, np.full(count, 5), {"seconds": np.ones(count)}),
        )

    return run


no_draws = partial(without_draws, DrawKind.MARKOV, 1)


@pytest.mark.parametrize("culprits", [{"c"}, {"a", "b"}, set("abcd"), {"d", "e"}, set("bcdefgh")])
def test_only_the_culprits_fail(culprits):
    chains = sample_by_halves(engine(culprits), batch_of(), Sink(), None, no_draws).chains
    assert {IDS[i] for i in chains.failures} == culprits
    for row, name in enumerate(IDS):
        assert chains.n_draws[row] == (0 if name in culprits else 5)
        if name not in culprits:
            assert np.all(chains.theta[row] == row)


def test_an_error_of_every_data_set_is_the_tasks_own():
    with pytest.raises(ValueError, match="singular"):
        sample_by_halves(engine(set(IDS)), batch_of(), Sink(), None, no_draws)


def test_one_data_set_alone_fails_by_itself():
    chains = sample_by_halves(engine({"a"}), batch_of(("a",)), Sink(), None, no_draws).chains
    assert chains.failures == {0: "ValueError: singular"}


def test_errors_that_are_not_the_data_go_on():
    with pytest.raises(ModelError):
        sample_by_halves(engine({"a"}, error=ModelError), batch_of(), Sink(), None, no_draws)


def test_a_part_never_saves_its_state_as_the_whole_one():
    sink = Sink()
    outcome = sample_by_halves(engine({"a"}, Status.STOPPED), batch_of(), sink, None, no_draws)
    assert outcome.status is Status.STOPPED
    assert [state["ids"].tolist() for state in sink.states] == [list(IDS)]


def counted(run):
    """``run``, and the sizes of the batches that it was called with."""
    sizes = []

    def call(batch, sink, resume):
        sizes.append(len(batch))
        return run(batch, sink, resume)

    return call, sizes


MANY = tuple(f"{i:06d}" for i in range(256))


def many(culprits):
    """An engine for ``MANY`` data sets that tells the batch's size when a culprit is in it."""

    def run(batch, sink, resume):
        if culprits & set(batch.ids):
            raise RuntimeError(f"bad operand of shape ({len(batch)}, 3)")
        count = len(batch)
        theta = np.broadcast_to(np.array(batch.ids, float)[:, None, None, None], (count, 1, 5, 1)).copy()
        chains = Chains(DrawKind.MARKOV, theta, {}, np.full(count, 5), {"seconds": np.ones(count)})
        return Outcome(Status.COMPLETE, chains)

    return run


def test_a_bug_of_the_engine_ends_after_the_first_halving():
    run, sizes = counted(many(set(MANY)))
    with pytest.raises(RuntimeError, match=r"shape \(256, 3\)"):
        sample_by_halves(run, batch_of(MANY), Sink(), None, no_draws)
    assert sizes == [256, 128, 128, *[1] * 8]


@pytest.mark.parametrize("culprits", [(0, 255), (5, 130), tuple(range(0, 256, 2)), (0, 36, 73, 109, 146, 182, 219)])
def test_culprits_in_both_halves_are_found_and_the_others_saved(culprits):
    named = {MANY[i] for i in culprits}
    run, sizes = counted(many(named))
    chains = sample_by_halves(run, batch_of(MANY), Sink(), None, no_draws).chains
    assert set(chains.failures) == set(culprits)
    assert all(np.all(chains.theta[i] == i) for i in range(256) if i not in culprits)
    assert len(sizes) <= 8 + min(2 * 256 - 1, 1 + 2 * 8 * len(culprits))
