"""The record of a failed task: a small file next to the one that the task should have published.

``.failed-<name>.json`` holds the kind of failure and its reason. It is removed when the task publishes its file, and
when the task is handed out again. Until then the task's data sets count as ``failed``, with that reason.
"""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from chainsweep.campaign.paths import TaskFiles
from chainsweep.errors import (
    CalibrationError,
    CampaignError,
    ChainsweepError,
    InputError,
    StoppedEarly,
    UnavailableError,
)
from chainsweep.publish import LostOwnership, publish_text
from chainsweep.verdicts.causes import Cause
from chainsweep.verdicts.rules import one_line


class Kind(enum.StrEnum):
    """The reason why a task failed, as far as its own process could tell."""

    OUT_OF_MEMORY = "out of memory"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    BAD_DATA = "bad data"
    CALIBRATION = "calibration"
    CHANGED = "changed campaign or image"
    UNAVAILABLE = "missing device, package or service"
    CANCELLED = "cancelled"
    KILLED = "killed"
    STOPPED = "stopped, its state is saved"
    BUG = "bug"


CAUSES: Mapping[Kind, Cause] = MappingProxyType(
    {
        Kind.OUT_OF_MEMORY: Cause.LOST_PROCESS,
        Kind.TIME_LIMIT: Cause.TIME_LIMIT,
        Kind.NODE_FAILURE: Cause.LOST_PROCESS,
        Kind.BAD_DATA: Cause.BAD_DATA,
        Kind.CALIBRATION: Cause.CALIBRATION,
        Kind.CHANGED: Cause.CHANGED,
        Kind.UNAVAILABLE: Cause.UNAVAILABLE,
        Kind.CANCELLED: Cause.CANCELLED,
        Kind.KILLED: Cause.LOST_PROCESS,
        Kind.STOPPED: Cause.CANCELLED,
        Kind.BUG: Cause.INTERNAL_ERROR,
    }
)
"""The cause in the catalogue of the data sets of a failed task."""


@dataclass(frozen=True)
class Failure:
    """The failure of a task; ``exit_code`` is that of its process, ``at`` the local time."""

    kind: Kind
    reason: str
    exit_code: int
    at: str


def kind_of(error: BaseException) -> Kind:
    """Return the kind of failure that an exception stands for."""
    if isinstance(error, MemoryError):
        return Kind.OUT_OF_MEMORY
    if isinstance(error, CalibrationError):
        return Kind.CALIBRATION
    if isinstance(error, CampaignError):
        return Kind.CHANGED
    if isinstance(error, InputError):
        return Kind.BAD_DATA
    return Kind.UNAVAILABLE if isinstance(error, UnavailableError) else Kind.BUG


@contextmanager
def recorded(target: Path | None) -> Iterator[None]:
    """Record an exception as the failure of the task that should publish ``target``, and raise it again.

    An exception is not recorded if it says that another attempt owns the task, or that the task stopped early. None is
    for a task that publishes no such file.
    """
    try:
        yield
    except (LostOwnership, StoppedEarly):
        raise
    except Exception as error:
        if target is not None:
            own = isinstance(error, ChainsweepError)
            reason = str(error) if own else f"{type(error).__name__}: {error}"
            code = error.exit_code if isinstance(error, ChainsweepError) else ChainsweepError.exit_code
            record_failure(target, kind_of(error), reason, code)
        raise


def record_failure(target: Path, kind: Kind, reason: str, exit_code: int) -> None:
    """Record that the task that should publish ``target`` failed."""
    content = {"kind": str(kind), "reason": one_line(reason), "exit_code": exit_code, "at": _now()}
    publish_text(TaskFiles(target).failure, json.dumps(content) + "\n")


def read_failure(target: Path) -> Failure | None:
    """Return the failure of the task that should publish ``target``; None if none is recorded."""
    try:
        content = json.loads(TaskFiles(target).failure.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Failure(Kind(content["kind"]), content["reason"], int(content["exit_code"]), content["at"])


def forget_failure(target: Path) -> None:
    """Remove the record of a failure, because the task is done or is tried again."""
    TaskFiles(target).failure.unlink(missing_ok=True)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
