"""A file is published whole, valid and owned, or the old one stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.publish import ATTEMPT_PREFIX, LostOwnership, append_below, publish, remove_below, write_below


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


@pytest.fixture
def root(tmp_path):
    """A campaign that is reached through a link, next to a folder that is not its own."""
    (tmp_path / "mnt" / "campaign").mkdir(parents=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "f").write_text("not ours")
    (tmp_path / "scratch").symlink_to("mnt")
    return tmp_path / "scratch" / "campaign"


def test_a_folder_that_is_itself_reached_through_a_link_is_written_into(root):
    write_below(root, root / "a" / "b" / "f", b"one")
    append_below(root, root / "log", "two")
    assert (root.resolve() / "a" / "b" / "f").read_text() == "one"
    remove_below(root, root / "a" / "b" / "f")
    assert names(root) == ["a", "log"]
    assert names(root / "a") == []


LINKED = {
    "the folder": ("a", "../../foreign"),
    "a folder in it": ("a/b", "../../../foreign"),
    "the file": ("a/b/f", "../../../../foreign/f"),
    "a file that is not there": ("a/b/f", "../../../../foreign/new"),
    "itself": ("a/b", "b"),
}


@pytest.mark.parametrize("act", [lambda *where: write_below(*where, b"x"), lambda *where: append_below(*where, "x")])
@pytest.mark.parametrize("case", LINKED)
def test_no_link_below_it_is_followed(root, case, act):
    link, target = LINKED[case]
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target)
    with pytest.raises(CampaignError, match="link that leads to") as error:
        act(root, root / "a" / "b" / "f")
    assert str(root.resolve() / link) in str(error.value).replace(str(root), str(root.resolve()))
    assert error.value.exit_code == 65
    foreign = root.parent.parent / "foreign"
    assert [path.read_text() for path in foreign.iterdir()] == ["not ours"]


@pytest.mark.parametrize("case", ["the folder", "a folder in it", "the file"])
def test_nothing_is_deleted_through_a_link(root, case):
    link, target = LINKED[case]
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target)
    (root.parent.parent / "foreign" / "b").mkdir()
    with pytest.raises(CampaignError, match="link that leads to"):
        remove_below(root, root / "a" / "b" / "f")
    assert names(root.parent.parent / "foreign") == ["b", "f"]


def test_a_way_out_by_its_name_is_not_taken(root):
    for act in (lambda path: write_below(root, path, b"x"), lambda path: remove_below(root, path)):
        with pytest.raises(CampaignError, match="inside"):
            act(root / ".." / ".." / "foreign" / "f")
    assert (root.parent.parent / "foreign" / "f").read_text() == "not ours"


def test_a_folder_in_a_files_place_is_named(root):
    (root / "f").mkdir()
    with pytest.raises(CampaignError, match="expected a file, found a folder"):
        write_below(root, root / "f", b"x")
    write_below(root, root / "g", b"x")
    with pytest.raises(CampaignError, match="expected a folder, found a file"):
        write_below(root, root / "g" / "h", b"x")
    assert names(root) == ["f", "g"]


def test_a_name_that_was_foreseen_is_not_written_through(root, monkeypatch):
    """However it was foreseen: the file must be new."""
    monkeypatch.setattr("chainsweep.publish.secrets.token_hex", lambda _: "0")
    (root / f"{ATTEMPT_PREFIX}{os.getpid()}-0-f").symlink_to("../../foreign/f")
    with pytest.raises(FileExistsError):
        write_below(root, root / "f", b"x")
    assert (root.parent.parent / "foreign" / "f").read_text() == "not ours"


def test_a_line_goes_on_a_line_of_its_own(root):
    (root / "log").write_text("half")
    append_below(root, root / "log", "one")
    append_below(root, root / "log", "two")
    assert (root / "log").read_text() == "half\none\ntwo\n"
