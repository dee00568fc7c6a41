"""Calls of a black-box likelihood as messages of a pool, and what dead attempts leave behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chainsweep.black_box.host import HostCalls
from chainsweep.black_box.suspects import Note, Notes, forget_suspects
from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.model.host import HostAnswer, HostCall, combined
from chainsweep.run.mpi import walker_pool as pooling
from chainsweep.run.mpi.walker_pool import PoolMap, Reply, WalkerOrder, cut


def calls(*rows: int) -> list[HostCall]:
    return [HostCall(f"d{i}", np.full((n, 2), float(i)), {"x": np.zeros(3)}) for i, n in enumerate(rows)]


def test_cutting_keeps_every_row_in_order():
    for rows in (1, 2, 3, 7, 100):
        asked = calls(5, 1, 0, 4)
        owners, messages = cut(asked, rows)
        parts = [part for message in messages for part in message]
        assert all(sum(len(part.theta) for part in message) == rows for message in messages[:-1]), rows
        assert all(part.fields is None for part in parts)
        for owner, call in enumerate(asked):
            own = [part.theta for part, of in zip(parts, owners, strict=True) if of == owner]
            assert sum(map(len, own)) == len(call.theta), rows
            assert all((theta == owner).all() for theta in own), rows


def test_fields_travel_only_where_they_are_not_the_campaigns():
    replica = HostCall("d0", np.zeros((1, 2)), {"y": np.ones(3)}, frozen=False)
    _, messages = cut([*calls(1), replica], 10)
    assert [part.fields is None for part in messages[0]] == [True, False]


def test_the_first_failure_is_the_calls():
    parts = [HostAnswer(np.ones(2)), HostAnswer(np.zeros(1), "first"), HostAnswer(np.zeros(1), "second")]
    assert combined(parts).failure == "first"
    assert combined(parts[:1]).failure == ""


class FakePool:
    """Evaluates here: the sum of each row, unless told to fail."""

    size = 3

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.sizes: list[int] = []

    def map(self, function: object, orders: list[WalkerOrder]) -> list[Reply]:
        assert function is pooling.serve
        self.sizes = [sum(len(part.theta) for part in order.parts) for order in orders]
        answers = [tuple(HostAnswer(part.theta.sum(axis=1)) for part in order.parts) for order in orders]
        return [Reply(each, seconds=1e-6 * sum(self.sizes), error=self.error) for each in answers]


class Here(HostCalls):
    """Rank 0's own part, evaluated alike; notes how many rows that was."""

    rows = 0

    def answer(self, problem: object, call: HostCall) -> HostAnswer:
        self.rows += len(call.theta)
        return HostAnswer(call.theta.sum(axis=1))


def test_answers_come_back_to_their_calls():
    here, pool = Here(Path()), FakePool()
    answers = PoolMap(pool, Path("log"))(here, None, calls(5, 1, 4))  # type: ignore[arg-type]
    assert [answer.values.tolist() for answer in answers] == [[0.0] * 5, [2.0], [4.0] * 4]
    assert here.rows == 2
    assert sum(pool.sizes) == 8


def test_messages_are_as_small_as_are_worth_one_and_rank_0_takes_its_share():
    pool, here = FakePool(), Here(Path())
    mapped = PoolMap(pool, Path("log"))
    mapped(here, None, calls(600))  # type: ignore[arg-type]
    assert len(pool.sizes) == 3 * pooling.MESSAGES_PER_RANK
    assert here.rows == 600 - sum(pool.sizes)
    mapped.seconds_per_row = 1e-6
    mapped(here, None, calls(600))  # type: ignore[arg-type]
    assert pool.sizes == [150, 150, 150]
    mapped.seconds_per_row = 1.0
    mapped(here, None, calls(3, 5))  # type: ignore[arg-type]
    assert pool.sizes == [1] * 6


def test_a_rank_that_cannot_serve_is_an_error():
    mapped = PoolMap(FakePool("rank 2: no model file"), Path("log"))
    with pytest.raises(ChainsweepError, match="rank 2: no model file"):
        mapped(Here(Path()), None, calls(5))  # type: ignore[arg-type]


def test_notes_of_a_dead_attempt_make_suspects_until_the_shard_is_published(tmp_path):
    target = tmp_path / "00003.h5"
    note = Note(Notes(target, 1).path(rank=0))
    note.set('a rather long "id"')
    note.set("b")
    note.close()
    Note(Notes(target, 1).path(rank=1)).close()
    assert Notes(target, 2).collect() == {"b"}
    Note(Notes(target, 2).path(rank=0)).set("c")
    assert Notes(target, 3).collect() == {"b", "c"}
    forget_suspects(target)
    assert Notes(target, 4).collect() == frozenset()
    assert not list(tmp_path.iterdir())


def test_a_note_that_is_a_link_is_not_written_through(tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_text("not ours")
    path = Notes(tmp_path / "00003.h5", 1).path(rank=0)
    path.symlink_to(foreign)
    with pytest.raises(CampaignError, match=f"{path.name}: expected a file or folder of this campaign"):
        Note(path)
    assert foreign.read_text() == "not ours"


def test_an_attempt_that_ends_alive_leaves_no_suspect(tmp_path):
    notes = Notes(tmp_path / "00003.h5", 1)
    Note(notes.path(rank=0)).set("a")
    notes.clear()
    assert Notes(tmp_path / "00003.h5", 2).collect() == frozenset()
