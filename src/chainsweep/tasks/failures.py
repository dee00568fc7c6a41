"""What is written down of a task that failed: a small file beside the one it should have published.

``.failed-<name>.json`` says what kind of failure it was and why. It goes away when the task publishes its file, and
when the task is handed out anew. Until then the task's data sets count as ``failed``, with that reason.
"""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chainsweep.errors import CampaignError, ChainsweepError, InputError, StoppedEarly, UnavailableError
from chainsweep.publish import LostOwnership, publish_text
from chainsweep.verdicts.rules import one_line


class Kind(enum.StrEnum):
    """Why a task failed, as far as its own process could tell."""

    OUT_OF_MEMORY = "out of memory"
    TIME_LIMIT = "time limit"
    NODE_FAILURE = "node failure"
    BAD_DATA = "bad data"
    CHANGED = "changed campaign or image"
    UNAVAILABLE = "missing device, package or service"
    CANCELLED = "cancelled"
    KILLED = "killed"
    STOPPED = "stopped, its state is saved"
    BUG = "bug"


@dataclass(frozen=True)
class Failure:
    """A failed task: ``exit_code`` is what its process ended with, ``at`` the local time."""

    kind: Kind
    reason: str
    exit_code: int
    at: str


def kind_of(error: BaseException) -> Kind:
    """The kind of failure that an exception stands for."""
    if isinstance(error, MemoryError):
        return Kind.OUT_OF_MEMORY
    if isinstance(error, CampaignError):
        return Kind.CHANGED
    if isinstance(error, InputError):
        return Kind.BAD_DATA
    return Kind.UNAVAILABLE if isinstance(error, UnavailableError) else Kind.BUG


@contextmanager
def recorded(target: Path | None) -> Iterator[None]:
    """Write an exception down as the failure of the task that should publish ``target``, and let it go on.

    Not one that says that the work is with somebody else, or stopped early. None: a task that publishes no such file.
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
    """Write down that the task that should publish ``target`` failed."""
    content = {"kind": str(kind), "reason": one_line(reason), "exit_code": exit_code, "at": _now()}
    publish_text(_path(target), json.dumps(content) + "\n")


def read_failure(target: Path) -> Failure | None:
    """The failure of the task that should publish ``target``; None where none is written down."""
    try:
        content = json.loads(_path(target).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Failure(Kind(content["kind"]), content["reason"], int(content["exit_code"]), content["at"])


def forget_failure(target: Path) -> None:
    """The task is done, or is tried anew."""
    _path(target).unlink(missing_ok=True)


def _path(target: Path) -> Path:
    return target.with_name(f".failed-{target.stem}.json")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
