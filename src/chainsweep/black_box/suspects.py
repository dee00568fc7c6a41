"""Notes of data sets whose black-box function is being called, by which the next attempt knows what killed this one.

Before a process calls the function of a data set it writes ``.suspect-<shard>-<attempt>-<rank>`` next to the shard's
state; the note is removed when the attempt ends without a crash.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from chainsweep.campaign.paths import TaskFiles
from chainsweep.publish import open_below, publish_text


@dataclass(frozen=True)
class Notes:
    """The notes of one attempt at one shard file; every rank writes its own note."""

    target: Path
    attempt: int

    def path(self, rank: int) -> Path:
        """The path of the note of one rank."""
        return TaskFiles(self.target).suspect(self.attempt, rank)

    @property
    def known_path(self) -> Path:
        """The path of the file that lists the suspects of all attempts until now."""
        return TaskFiles(self.target).suspects

    def collect(self) -> frozenset[str]:
        """Return the suspects that dead attempts left; one file keeps them until the shard is published."""
        notes = list(TaskFiles(self.target).suspect_notes())
        known = _read_known(self.known_path)
        suspects = known | {name for path in notes for name in _read_note(path)}
        if suspects - known:
            publish_text(self.known_path, json.dumps(sorted(suspects)))
        for path in notes:
            path.unlink(missing_ok=True)
        return frozenset(suspects)

    def clear(self) -> None:
        """Remove this attempt's notes, because it ended without a crash."""
        for path in TaskFiles(self.target).suspect_notes(self.attempt):
            path.unlink(missing_ok=True)


def forget_suspects(target: Path) -> None:
    """Remove all records of suspects, because the shard is published."""
    TaskFiles(target).suspects.unlink(missing_ok=True)


def in_call(target: Path) -> list[str]:
    """Return the data sets whose function the attempt at ``target`` is calling, or called last."""
    notes = sorted(TaskFiles(target).suspect_notes())
    return list(dict.fromkeys(name for path in notes for name in _read_note(path)))


def _read_known(path: Path) -> set[str]:
    try:
        return set(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return set()


def _read_note(path: Path) -> list[str]:
    """Return the data set of a note; an empty list where the process died before its first call."""
    try:
        line = path.read_bytes().partition(b"\n")[0]
    except FileNotFoundError:
        return []
    return [json.loads(line)] if line else []


class Note:
    """The note of one rank, a file that is opened once; only a change of the data set costs a write, of a few bytes."""

    def __init__(self, path: Path) -> None:
        self._handle = open_below(path.parent, path, os.O_WRONLY | os.O_TRUNC)
        self._latest: str | None = None

    def set(self, dataset_id: str) -> None:
        """Note that ``dataset_id`` is being evaluated."""
        if dataset_id != self._latest:
            os.pwrite(self._handle, json.dumps(dataset_id).encode() + b"\n", 0)
            self._latest = dataset_id

    def close(self) -> None:
        """Close the file; its content stays."""
        os.close(self._handle)
