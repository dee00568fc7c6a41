"""What an installed package must bring along: the sbatch templates, which lie outside of the source folder."""

from __future__ import annotations

import subprocess
import tomllib
from importlib import metadata

import pytest

import chainsweep
from chainsweep.packages import VERSION, versions
from chainsweep.slurm import render
from chainsweep.slurm.site import JOB_KINDS
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_takes_the_templates_to_where_they_are_looked_for():
    forced = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    packaged = render._PACKAGED.relative_to(ROOT / "src").as_posix()
    assert forced == {"slurm": packaged}
    assert render.TEMPLATES == ROOT / "slurm"
    assert {render.template_of(kind) for kind in JOB_KINDS} <= {path.name for path in (ROOT / "slurm").iterdir()}


def test_the_licence_and_who_wrote_it_are_said():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("BSD 3-Clause License")
    assert "The chainsweep developers" in text
    project = PROJECT["project"]
    assert (project["license"], project["license-files"]) == ("BSD-3-Clause", ["LICENSE"])
    assert project["authors"] == [{"name": "The chainsweep developers"}]
    assert len(project["keywords"]) > 4
    assert not [kind for kind in project["classifiers"] if kind.startswith("License")]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in project["classifiers"]


def test_a_source_tree_that_is_not_installed_knows_its_version(monkeypatch):
    def nothing_is_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing_is_installed)
    assert versions("numpy", "chainsweep") == {"chainsweep": VERSION}
    assert chainsweep.__version__ == VERSION


def test_packaging_reads_the_version_where_the_program_does():
    assert PROJECT["project"]["dynamic"] == ["version"]
    home = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert f'\nVERSION = "{VERSION}"\n' in home


def test_what_every_command_imports_is_no_extra():
    main = {line.split(">=")[0] for line in PROJECT["project"]["dependencies"]}
    extras = {line.split(">=")[0] for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines}
    assert "jinja2" in main
    assert not main & extras


@pytest.mark.parametrize(
    ("page", "asks_for"),
    [
        ("", []),
        ("/folder/of/wheels", ["--find-links /folder/of/wheels"]),
        (
            "https://page.example/cpu",
            ["--find-links https://page.example/cpu", "--extra-index-url https://page.example/cpu"],
        ),
    ],
)
def test_make_hands_the_page_of_torch_to_pip(page, asks_for):
    """A page may list wheels, or be an index of packages: pip looks in both ways."""
    line = ["make", "--dry-run", "--always-make", "install", *([f"TORCH_CPU={page}"] if page else [])]
    shown = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (install,) = (text for text in shown.splitlines() if " pip install " in text)
    assert " --constraint constraints.txt --editable '.[dev]'" in install
    assert [option for option in ("--find-links", "--extra-index-url") if option in install] == [
        option.split()[0] for option in asks_for
    ]
    assert all(option in install for option in asks_for)
