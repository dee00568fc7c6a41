"""An attempt at a task: the ownership of the task's file, and the state that the next attempt continues from.

While a task runs, two files lie next to its published file ``<name>.h5``: ``.attempt-<name>.json`` (number and token of
the owner, and its process; the last one to write it owns the task) and ``.state-<name>.npz`` (resumable state).
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from chainsweep.campaign.paths import TaskFiles
from chainsweep.numerics.arrays import Arrays
from chainsweep.publish import publish, publish_text

CHECKPOINT_SECONDS = 10.0
"""The least seconds between two saved states; a killed attempt loses at most this and the block in progress."""

Report = Callable[[int, int, str], None]
"""The type of a function that is called with (done, total, note) as a task goes on."""


@dataclass(frozen=True)
class Process:
    """A process of one machine; ``started`` (clock ticks after boot) tells it from a later one with the same number."""

    host: str
    pid: int
    started: int

    def is_running(self) -> bool | None:
        """Return True if the process still runs, or None if it belongs to another machine."""
        return _start_of(self.pid) == self.started if self.host == socket.gethostname() else None


def this_process() -> Process:
    """Return the calling process."""
    return Process(socket.gethostname(), os.getpid(), _start_of(os.getpid()) or 0)


def _start_of(pid: int) -> int | None:
    """Return the start of a process of this machine in clock ticks after boot; None if no process has this number."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = status.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])


@dataclass(frozen=True)
class Attempt:
    """The right to publish ``target``, until a later attempt claims it."""

    target: Path
    number: int
    token: str

    @property
    def state_path(self) -> Path:
        """The path of the resumable state."""
        return TaskFiles(self.target).state

    def still_owner(self) -> bool:
        """Return True if no later attempt has claimed the task."""
        return _read_claim(TaskFiles(self.target).attempt) == (self.number, self.token)

    def finish(self) -> None:
        """Remove claim and state of a task whose file is published."""
        self.state_path.unlink(missing_ok=True)
        TaskFiles(self.target).attempt.unlink(missing_ok=True)


def claim(target: Path) -> Attempt:
    """Become the owner of the task that publishes ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = TaskFiles(target).attempt
    attempt = Attempt(target, _read_claim(path)[0] + 1, secrets.token_hex(8))
    content = {"number": attempt.number, "token": attempt.token, "process": asdict(this_process())}
    publish_text(path, json.dumps(content))
    return attempt


def was_started(target: Path) -> bool:
    """Return True if an attempt at the task that publishes ``target`` began, and has not published."""
    return TaskFiles(target).attempt.exists()


def owner_of(target: Path) -> Process | None:
    """Return the process that last began the task that publishes ``target``; None if none did or it is published."""
    try:
        content = json.loads(TaskFiles(target).attempt.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Process(**content["process"]) if "process" in content else None


def note_stopped(target: Path) -> None:
    """Record that the task was stopped in order, not killed, if this process owns it."""
    if owner_of(target) == this_process():
        path = TaskFiles(target).attempt
        publish_text(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"stopped": True}))


def was_stopped(target: Path) -> bool:
    """Return True if the last attempt at the task that publishes ``target`` stopped in order and saved its state."""
    try:
        return bool(json.loads(TaskFiles(target).attempt.read_text(encoding="utf-8")).get("stopped"))
    except FileNotFoundError:
        return False


def _read_claim(path: Path) -> tuple[int, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0, ""
    return int(content["number"]), str(content["token"])


@dataclass
class FileSink:
    """The Sink of a task: progress goes to ``report``, state to the attempt's state file.

    Only the owner writes state. The first one is saved at once; states that come within ``CHECKPOINT_SECONDS`` of
    the last saved one wait in memory; ``flush`` writes the waiting one.
    """

    attempt: Attempt
    campaign_hash: str
    report: Report
    _waiting: Arrays | None = None
    _saved_at: float = -math.inf

    def checkpoint(self, state: Arrays) -> None:
        """Keep ``state``; it is saved at once, or at the latest at the first call after ``CHECKPOINT_SECONDS``."""
        self._waiting = state
        if time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Save the latest state durably."""
        if self._waiting is None:
            return
        content = {**self._waiting, "campaign_hash": np.asarray(self.campaign_hash)}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as handle:
                write_npz(handle, content)

        publish(self.attempt.state_path, write, check_npz, self.attempt.still_owner)
        self._waiting = None
        self._saved_at = time.monotonic()

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Pass progress on."""
        self.report(done, total, note)


def write_npz(handle: BinaryIO, arrays: Arrays, compress: bool = False) -> None:
    """Write arrays by name to an NPZ archive, without pickle."""
    save: Any = np.savez_compressed if compress else np.savez
    save(handle, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class ProgressSink:
    """A Sink that passes progress on and keeps no state."""

    report: Report

    def checkpoint(self, state: Arrays) -> None:
        """Drop the state."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Pass progress on."""
        self.report(done, total, note)


def check_npz(path: Path) -> None:
    """Raise unless ``path`` is a readable archive of plain arrays."""
    with np.load(path, allow_pickle=False) as content:
        content.files  # noqa: B018 (reading the directory is the check)


def load_state(attempt: Attempt, campaign_hash: str) -> Arrays | None:
    """Return the state that an earlier attempt saved, or None if there is none for this campaign.

    If a state cannot be read, the log gives the reason and the work begins again, which costs time but no draw.
    """
    try:
        with attempt.state_path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            state = {name: content[name] for name in content.files}
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        print(f"{attempt.state_path}: the saved state cannot be read ({error}); this task begins again", flush=True)
        return None
    if str(state.pop("campaign_hash")) != campaign_hash:
        print(f"{attempt.state_path}: the saved state is of another campaign; this task begins again", flush=True)
        return None
    return state
