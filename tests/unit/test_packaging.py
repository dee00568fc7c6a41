"""What an installed package must bring along: the sbatch templates, which lie outside of the source folder."""

from __future__ import annotations

import tomllib
from importlib import metadata

import chainsweep
from chainsweep.packages import VERSION, versions
from chainsweep.site import JOB_KINDS
from chainsweep.slurm import render
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_takes_the_templates_to_where_they_are_looked_for():
    forced = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    packaged = render._PACKAGED.relative_to(ROOT / "src").as_posix()
    assert forced == {"slurm": packaged}
    assert render.TEMPLATES == ROOT / "slurm"
    assert {f"{kind}.sbatch.j2" for kind in JOB_KINDS} <= {path.name for path in (ROOT / "slurm").iterdir()}


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
