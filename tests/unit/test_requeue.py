"""How often a task may come back: as long as it makes progress, and twice without."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainsweep.campaign.paths import TaskFiles
from chainsweep.errors import DataError, StoppedEarly
from chainsweep.publish import LostOwnership
from chainsweep.run.requeue import GivenUp, JobAttempt, LastEnd, forgive, run_bounded
from chainsweep.stages.graph import Result, Task
from chainsweep.tasks.failures import Kind, read_failure

TASK = Task("infer", 3, "nuts", 3)
MANY = JobAttempt(left=50)


class Killed(BaseException):
    """Stands for a process that is gone: nothing behind it runs."""


def stops(target: Path, state: str | None):
    def run() -> Result:
        if state is not None:
            TaskFiles(target).state.write_text(state)
        return Result.STOPPED

    return run


def dies(target: Path, state: str | None):
    def run() -> Result:
        if state is not None:
            TaskFiles(target).state.write_text(state)
        raise Killed

    return run


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "00003.h5"


def test_stopping_with_progress_may_go_on_for_ever(target):
    for number in range(20):
        assert run_bounded(target, TASK, stops(target, str(number)), MANY) is Result.STOPPED
    assert read_failure(target) is None


@pytest.mark.parametrize("state", [None, "the same"])
def test_stopping_twice_without_progress_is_a_failure(target, state):
    if state is not None:
        TaskFiles(target).state.write_text(state)
    assert run_bounded(target, TASK, stops(target, state), MANY) is Result.STOPPED
    with pytest.raises(GivenUp, match="walltime is too short"):
        run_bounded(target, TASK, stops(target, state), MANY)
    assert read_failure(target).kind is Kind.TIME_LIMIT
    assert GivenUp.exit_code not in (0, 75)


def test_progress_in_between_starts_the_count_anew(target):
    for state in ("1", "1", "2", "2", "3"):
        assert run_bounded(target, TASK, stops(target, state), MANY) is Result.STOPPED


@pytest.mark.parametrize(
    ("last_end", "times", "match", "kind"),
    [
        (LastEnd.DIED, 5, "killed before saving", Kind.KILLED),
        (LastEnd.OVERRAN, 2, "walltime is too short", Kind.TIME_LIMIT),
    ],
)
def test_dying_without_progress_ends_at_the_next_start(target, last_end, times, match, kind):
    job = JobAttempt(left=50, last_end=last_end)
    for _ in range(times):
        with pytest.raises(Killed):
            run_bounded(target, TASK, dies(target, None), job)
    with pytest.raises(GivenUp, match=match):
        run_bounded(target, TASK, dies(target, "never reached"), job)
    assert not TaskFiles(target).state.exists()
    assert read_failure(target).kind is kind


def test_an_attempt_that_stopped_in_time_does_not_make_the_next_death_count_twice(target):
    job = JobAttempt(left=50, last_end=LastEnd.OVERRAN)
    assert run_bounded(target, TASK, stops(target, None), job) is Result.STOPPED
    assert run_bounded(target, TASK, stops(target, "new"), job) is Result.STOPPED


def test_dying_with_progress_goes_on(target):
    for number in range(5):
        with pytest.raises(Killed):
            run_bounded(target, TASK, dies(target, str(number)), MANY)
    assert read_failure(target) is None


def test_preemption_and_lost_nodes_are_not_the_task_s_fault(target):
    for _ in range(5):
        with pytest.raises(Killed):
            run_bounded(target, TASK, dies(target, None), JobAttempt(left=50, last_end=LastEnd.INTERRUPTED))
    taken = JobAttempt(left=50, taken_away=lambda: True)
    for _ in range(5):
        assert run_bounded(target, TASK, stops(target, None), taken) is Result.STOPPED
    assert read_failure(target) is None


def test_the_last_attempt_says_that_it_was_the_last(target):
    with pytest.raises(GivenUp, match="requeue_limit"):
        run_bounded(target, TASK, stops(target, "new"), JobAttempt(left=0))
    assert read_failure(target).kind is Kind.TIME_LIMIT


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ZeroDivisionError("no"), Kind.BUG, 70),
        (MemoryError(), Kind.OUT_OF_MEMORY, 70),
        (DataError("bad"), Kind.BAD_DATA, 65),
    ],
)
def test_an_exception_is_written_down_and_goes_on(target, error, kind, code):
    def run() -> Result:
        raise error

    with pytest.raises(type(error)):
        run_bounded(target, TASK, run, MANY)
    found = read_failure(target)
    assert (found.kind, found.exit_code) == (kind, code)


def test_a_task_without_what_it_stands_on_fails_at_once(target):
    def run() -> Result:
        raise StoppedEarly("not trained yet")

    with pytest.raises(GivenUp, match="not trained"):
        run_bounded(target, TASK, run, MANY)
    assert "not trained" in read_failure(target).reason


def test_losing_a_task_to_a_later_attempt_is_no_failure_of_the_task(target):
    def run() -> Result:
        raise LostOwnership("another one has it")

    with pytest.raises(LostOwnership):
        run_bounded(target, TASK, run, MANY)
    assert read_failure(target) is None


def test_done_forgets_everything(target):
    run_bounded(target, TASK, stops(target, None), MANY)
    assert run_bounded(target, TASK, lambda: Result.DONE, MANY) is Result.DONE
    TaskFiles(target).state.unlink(missing_ok=True)
    assert list(target.parent.iterdir()) == []


def test_a_task_handed_out_anew_starts_from_zero(target):
    job = JobAttempt(left=50, last_end=LastEnd.OVERRAN)
    for _ in range(2):
        with pytest.raises(Killed):
            run_bounded(target, TASK, dies(target, None), job)
    forgive(target)
    assert run_bounded(target, TASK, stops(target, None), MANY) is Result.STOPPED
