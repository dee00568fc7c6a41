"""A file is published whole, valid and owned, or the old one stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chainsweep.errors import ChainsweepError
from chainsweep.publish import ATTEMPT_PREFIX, LostOwnership, publish


def accept(_path: Path) -> None:
    """Every file is valid."""


def writer(text: str):
    return lambda path: path.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_publishes_into_a_new_folder_and_replaces(tmp_path):
    path = tmp_path / "shards" / "with 'quote' and space" / "0.h5"
    publish(path, writer("old"), accept)
    publish(path, writer("new"), accept)
    assert path.read_text() == "new"
    assert names(path.parent) == ["0.h5"]


def test_temporary_name_is_unique_and_in_the_same_folder(tmp_path):
    seen = []

    def write(path):
        seen.append(path)
        path.write_text("x")

    publish(tmp_path / "f", write, accept)
    publish(tmp_path / "f", write, accept)
    assert len(set(seen)) == 2
    for path in seen:
        assert path.parent == tmp_path
        assert path.name.startswith(f"{ATTEMPT_PREFIX}{os.getpid()}-")


def test_validate_sees_the_temporary_file_before_the_rename(tmp_path):
    path = tmp_path / "f"

    def validate(temporary):
        assert not path.exists()
        assert temporary.read_text() == "x"

    publish(path, writer("x"), validate)
    assert path.exists()


@pytest.mark.parametrize("error", [ChainsweepError("invalid"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write", "validate"])
def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, error, step):
    path = tmp_path / "f"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise error

    steps = {"write": (fail, accept), "validate": (writer("new"), fail)}
    with pytest.raises(type(error)):
        publish(path, *steps[step])
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_attempt_that_lost_its_task_does_not_publish(tmp_path):
    path = tmp_path / "f"
    path.write_text("the owner's")
    with pytest.raises(LostOwnership, match="took it over"):
        publish(path, writer("mine"), accept, still_owner=lambda: False)
    assert path.read_text() == "the owner's"
    assert names(tmp_path) == ["f"]


def test_file_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    path, synced, real = tmp_path / "f", [], os.fsync

    def fsync(descriptor):
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve(), path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(path, writer("x"), accept)
    (file, renamed_before), (folder, renamed_after) = synced
    assert file.name.startswith(ATTEMPT_PREFIX)
    assert not renamed_before
    assert folder == tmp_path.resolve()
    assert renamed_after


def test_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from chainsweep.publish import publish
kill = lambda temporary: os.kill(os.getpid(), signal.SIGKILL)
publish(Path(sys.argv[1]), lambda temporary: temporary.write_text("new"), kill)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    left = [name for name in names(tmp_path) if name != "f"]
    assert len(left) == 1
    assert left[0].startswith(ATTEMPT_PREFIX)
