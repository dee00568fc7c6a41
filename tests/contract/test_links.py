"""A link inside a campaign leads nowhere: the real commands say so and leave alone what it leads to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from chainsweep.campaign.freeze import init_campaign
from chainsweep.cli import main
from chainsweep.run.logged import output_to
from tests.conftest import LINE_CONFIG, line_data, write_lines

COMMANDS = {
    "run": ("run", "{}", "--engine", "emcee", "--workers", "1"),
    "merge": ("merge", "{}"),
    "report": ("report", "{}"),
    "task": ("task", "{}", "merge", "0"),
    "a task that samples": ("task", "{}", "infer", "0"),
}
FOLDERS = ("shards", "shards/emcee", "models", "models/snpe-0", "models/snpe-0/simulations", "logs", "submit", "report")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    config = write_lines(folder, LINE_CONFIG + '[policy]\nengines = ["emcee"]\n', data=line_data(2))
    init_campaign(config, folder / "campaign")
    return folder / "campaign"


@pytest.fixture
def root(frozen, tmp_path) -> Path:
    return Path(shutil.copytree(frozen, tmp_path / "campaign"))


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A folder that is not the campaign's, with files of the names that a task writes and removes."""
    folder = tmp_path / "foreign"
    for name in ("00000.h5", ".attempt-00000.json", ".state-00000.npz", ".failed-00000.json", "infer-00000.log"):
        (folder / "emcee").mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / "emcee"):
            (place / name).write_text("not ours")
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def ended(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["chainsweep", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().err.replace("\n", "")
    return 0, ""


@pytest.mark.parametrize("linked", FOLDERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_linked_folder_is_refused_and_what_it_leads_to_stays(root, foreign, monkeypatch, capsys, command, linked):
    link = root / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(foreign)
    before, names = content(foreign), sorted(root.rglob("*"))
    code, error = ended(monkeypatch, capsys, *(part.format(root) for part in COMMANDS[command]))
    assert code == 65
    assert f"{link}: expected a file or folder of this campaign, found a link that leads to {foreign}" in error
    assert f"rm {link}" in error
    assert content(foreign) == before
    assert sorted(root.rglob("*")) == names


def test_a_link_that_leads_nowhere_is_refused_too(root, monkeypatch, capsys):
    (root / "shards").symlink_to("../not-there")
    code, error = ended(monkeypatch, capsys, "merge", root)
    assert (code, "found a link that leads to" in error) == (65, True)
    assert not (root.parent / "not-there").exists()


def test_a_linked_log_is_not_written_into(root, foreign, monkeypatch, capsys):
    (root / "logs").mkdir()
    (root / "logs" / "merge-00000.log").symlink_to(foreign / "infer-00000.log")
    code, error = ended(monkeypatch, capsys, *(part.format(root) for part in COMMANDS["task"]))
    assert (code, "merge-00000.log: expected a file or folder" in error) == (65, True)
    assert set(content(foreign).values()) == {"not ours"}


def test_a_campaign_behind_a_link_is_written_into(root, monkeypatch, capsys):
    """The whole folder may have been moved to another disk."""
    moved = root.rename(root.parent / "moved")
    root.symlink_to(moved)
    code, _ = ended(monkeypatch, capsys, "merge", root)
    assert code == 75
    with output_to(root / "logs" / "merge-00000.log"):
        os.write(1, b"one\n")
    assert (moved / "logs" / "merge-00000.log").read_text() == "one\n"
