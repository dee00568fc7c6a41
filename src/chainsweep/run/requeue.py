"""The limit on requeueing a task: it may be requeued as long as its attempts make progress.

Progress is a changed state file (or a published file). ``.progress-<name>.json`` holds the digest of the state that the
last attempt started from, and the number of attempts in a row that did not change it. After two such attempts that ran
out of time, the task ends as failed: a walltime too short for one data set must not be repeated for ever. An attempt
that was killed for an unknown reason proves less, since a machine may kill it before anything is saved: the task ends
as failed after five of those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import file_digest
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.paths import TaskFiles
from chainsweep.errors import ChainsweepError, StoppedEarly
from chainsweep.publish import publish_text
from chainsweep.stages.graph import WORK, Result, Task, target_of
from chainsweep.tasks.failures import Kind, forget_failure, record_failure, recorded

MAX_IDLE = 2
"""The number of attempts in a row that ran out of time without progress, after which a task has failed."""

MAX_DEATHS = 5
"""The number of attempts in a row that were killed before they saved progress, after which a task has failed."""


class LastEnd(StrEnum):
    """The end of the last attempt, as far as the host script saw it."""

    DIED = "died"
    """The attempt was killed by a signal without warning, such as -9 when memory ran out."""
    OVERRAN = "overran"
    """The attempt was killed because it did not stop after the signal that announces its time limit."""
    INTERRUPTED = "interrupted"
    """The attempt ended together with the script, by a lost node or a preemption, which is not due to the task."""


class GivenUp(ChainsweepError):
    """A task stopped early in too many attempts without progress; it is recorded as failed."""


@dataclass(frozen=True)
class _Record:
    """``idle`` attempts that ran out of time and ``deaths`` in a row left the state at ``digest``.

    ``open`` is True while the last attempt has not recorded its end.
    """

    digest: str
    idle: int = 0
    deaths: int = 0
    open: bool = False


@dataclass(frozen=True)
class JobAttempt:
    """The knowledge of the host script: the number of requeues left, and the end of the last attempt."""

    left: int
    last_end: LastEnd = LastEnd.DIED
    taken_away: Callable[[], bool] = lambda: False
    """True where this attempt was told to stop by a cancellation or preemption (SIGTERM), not by its time limit."""


def run_bounded(target: Path, task: Task, run: Callable[[], Result], attempt: JobAttempt) -> Result:
    """Make one attempt in a job: call ``run()``, and record its outcome.

    Raises
    ------
    GivenUp
        There were too many attempts in a row without progress, or this was the last one that the queue allows.
    """
    began = _begin(target, attempt.last_end)
    if began.idle >= MAX_IDLE:
        _give_up(target, task, Kind.TIME_LIMIT, _too_short(began.idle))
    if began.deaths >= MAX_DEATHS:
        _give_up(target, task, Kind.KILLED, f"{began.deaths} attempts in a row were killed before saving progress")
    try:
        with recorded(target):
            result = run()
    except StoppedEarly as error:
        # A file that the task depends on is missing, and another attempt would not make it.
        record_failure(target, Kind.UNAVAILABLE, str(error), GivenUp.exit_code)
        raise GivenUp(f"{task.label}: {error}") from error
    if result is not Result.STOPPED:
        forgive(target)
        return result
    own_end = 0 if attempt.taken_away() else 1
    digest = _digest(target)
    ended = _Record(digest) if digest != began.digest else replace(began, idle=began.idle + own_end, open=False)
    _write(target, ended)
    if ended.idle >= MAX_IDLE:
        _give_up(target, task, Kind.TIME_LIMIT, _too_short(ended.idle))
    if attempt.left <= 0 and own_end:
        _give_up(
            target, task, Kind.TIME_LIMIT, "stopped early in the last attempt that the site's requeue_limit allows"
        )
    return result


def run_afresh(campaign: Campaign, task: Task, run: Callable[[], Result]) -> Result:
    """Make one attempt outside a job: earlier failures are forgotten, and a failure of this attempt is recorded."""
    if task.stage not in WORK:
        return run()
    target = target_of(campaign, task)
    forgive(target)
    with recorded(target):
        return run()


def forgive(target: Path) -> None:
    """Forget failures and idle attempts, because the task is done or is handed out again."""
    forget_failure(target)
    TaskFiles(target).progress.unlink(missing_ok=True)


def _begin(target: Path, last_end: LastEnd) -> _Record:
    """Open this attempt's record; an earlier attempt that did not record its end is judged by the state it left."""
    last, digest = _read(target), _digest(target)
    if last is None or last.digest != digest:
        record = _Record(digest, open=True)
    else:
        idle = last.idle + (last.open and last_end is LastEnd.OVERRAN)
        deaths = last.deaths + (last.open and last_end is LastEnd.DIED)
        record = _Record(digest, idle, deaths, open=True)
    _write(target, record)
    return record


def _too_short(times: int) -> str:
    return f"stopped before its end {times} times in a row without progress: the walltime is too short for it"


def _give_up(target: Path, task: Task, kind: Kind, reason: str) -> None:
    record_failure(target, kind, reason, GivenUp.exit_code)
    raise GivenUp(f"{task.label}: given up: {reason}")


def _digest(target: Path) -> str:
    """Return the sha256 of the saved state, which tells states apart; empty if none is saved."""
    path = TaskFiles(target).state
    if not path.exists():
        return ""
    with path.open("rb") as handle:
        return file_digest(handle, "sha256").hexdigest()


def _read(target: Path) -> _Record | None:
    try:
        return _Record(**json.loads(TaskFiles(target).progress.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _write(target: Path, record: _Record) -> None:
    publish_text(TaskFiles(target).progress, json.dumps(vars(record)))
