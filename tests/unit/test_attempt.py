"""Who owns a task, and what the next attempt finds of the last one."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.publish import LostOwnership, publish
from chainsweep.tasks import attempt as attempts
from chainsweep.tasks.attempt import FileSink, claim, load_state

STATE = {"iteration": np.asarray(7), "draws/w": np.arange(6.0).reshape(2, 3)}


def quiet(done, total, note):
    """A Report that nobody reads."""


def test_a_later_attempt_takes_the_task_and_the_earlier_may_not_publish(tmp_path):
    target = tmp_path / "shards" / "00000.h5"
    first, second = claim(target), claim(target)
    assert (first.number, second.number) == (1, 2)
    assert not first.still_owner()
    assert second.still_owner()
    with pytest.raises(LostOwnership):
        publish(target, lambda path: path.write_text("stale") and None, lambda path: None, first.still_owner)
    assert not target.exists()
    publish(target, lambda path: path.write_text("good") and None, lambda path: None, second.still_owner)
    assert target.read_text() == "good"


def test_a_former_owner_may_not_replace_the_state(tmp_path):
    first = claim(tmp_path / "00000.h5")
    sink = FileSink(first, "hash", quiet)
    claim(tmp_path / "00000.h5")
    with pytest.raises(LostOwnership):
        sink.checkpoint(STATE)


def test_state_comes_back_as_it_was(tmp_path):
    attempt = claim(tmp_path / "00000.h5")
    assert load_state(attempt, "hash") is None
    sink = FileSink(attempt, "hash", quiet)
    sink.checkpoint(STATE)
    sink.flush()
    found = load_state(claim(tmp_path / "00000.h5"), "hash")
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(found[name], value)


def test_state_of_another_campaign_or_a_damaged_one_is_not_used_and_the_log_says_so(tmp_path, capsys):
    attempt = claim(tmp_path / "00000.h5")
    sink = FileSink(attempt, "hash", quiet)
    sink.checkpoint(STATE)
    sink.flush()
    assert load_state(attempt, "other") is None
    assert "is of another campaign; this task begins again" in capsys.readouterr().out
    content = attempt.state_path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\0" * 100):
        attempt.state_path.write_bytes(damaged)
        assert load_state(attempt, "hash") is None
        assert "cannot be read" in capsys.readouterr().out


def test_states_are_saved_at_most_once_an_interval(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    attempt = claim(tmp_path / "00000.h5")
    sink = FileSink(attempt, "hash", quiet)
    saved = []
    for now[0] in (0.0, 1.0, attempts.CHECKPOINT_SECONDS - 0.1, attempts.CHECKPOINT_SECONDS + 0.1):
        sink.checkpoint({"step": np.asarray(now[0])})
        saved.append(float(load_state(attempt, "hash")["step"]))
    assert saved == [0.0, 0.0, 0.0, attempts.CHECKPOINT_SECONDS + 0.1]


def test_a_finished_task_leaves_nothing_beside_its_file(tmp_path):
    attempt = claim(tmp_path / "00000.h5")
    sink = FileSink(attempt, "hash", quiet)
    sink.checkpoint(STATE)
    sink.flush()
    attempt.finish()
    assert list(tmp_path.iterdir()) == []
