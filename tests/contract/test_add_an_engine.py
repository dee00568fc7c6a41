"""The engine of ``docs/developer/add-an-engine.md``, added to a copy of the source: a folder and a line suffice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import chainsweep
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "developer" / "add-an-engine.md").read_text(encoding="utf-8")
NAME = "reweighted"
POINTS, SPREAD = 5, 1.5
MODEL = f"""
import numpyro
import numpyro.distributions as dist


def model(y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("point", {POINTS}):
        numpyro.sample("y", dist.Normal(a, {SPREAD}), obs=y)
"""
CONFIG = f"""
[campaign]
name = "means"
[model]
file = "model.py"
[data]
source = "data.npz"
[policy]
engines = ["{NAME}"]
[engines.{NAME}]
draws = 4000
[report]
worst = 0
"""


def blocks() -> dict[str, str]:
    """The text of each file of the engine, by its path below ``engines/``."""
    found = re.findall(r"^\*\*`engines/(\S+)`\*\*(?:(?!^\*\*).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return dict(found)


def source_with_the_engine(folder: Path) -> Path:
    """A copy of the source below ``folder`` with the files and the line of the page, and nothing else."""
    package = folder / "src" / "chainsweep"
    shutil.copytree(Path(chainsweep.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "slurm", folder / "slurm")
    files = blocks()
    imported, line = (part.strip("\n") for part in files.pop("registry.py").split("\n\n"))
    assert set(files) == {f"{NAME}/{module}.py" for module in ("__init__", "settings", "entry", "engine")}
    for name, text in files.items():
        (package / "engines" / name).parent.mkdir(exist_ok=True)
        (package / "engines" / name).write_text(text)
    registry = package / "engines" / "registry.py"
    last = "from chainsweep.engines.snpe.entry import SNPE\n"
    text = registry.read_text()
    assert text.count(last) == text.count("        SNPE,\n") == 1
    registry.write_text(
        text.replace(last, f"{last}{imported}\n").replace("        SNPE,\n", f"        SNPE,\n{line}\n")
    )
    return package


class Copy:
    """A copy of chainsweep that has the engine, and a frozen campaign that uses it."""

    def __init__(self, folder: Path) -> None:
        self.package = source_with_the_engine(folder / "copy")
        self.sweep = folder / "sweep"
        self.y = np.random.default_rng(7).normal(1.0, SPREAD, (3, POINTS))
        np.savez(folder / "data.npz", y=self.y)
        (folder / "model.py").write_text(MODEL)
        (folder / "campaign.toml").write_text(CONFIG)
        self.command("init", folder / "campaign.toml", "--out", self.sweep)

    def command(self, *arguments: str | Path) -> str:
        line = [sys.executable, "-m", "chainsweep", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(self.package.parent)}
        done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, env=environment)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def rows(self) -> pd.DataFrame:
        self.command("run", self.sweep)
        return pd.read_parquet(self.sweep / "catalogue.parquet")


def test_an_engine_is_a_folder_and_a_line(tmp_path):
    copy = Copy(tmp_path)
    site = copy.package.parents[1] / "slurm" / "sites" / "local.toml"
    planned = json.loads(copy.command("plan", copy.sweep, "--site", site, "--json"))
    assert [job["kind"] for job in planned["jobs"]] == [NAME, "merge", "report"]
    rows = copy.rows()
    assert set(rows["engine"]) == {NAME}
    assert rows["verdict"].tolist() == ["converged"] * 3
    precision = 1 + POINTS / SPREAD**2
    np.testing.assert_allclose(rows["mean_a"], copy.y.sum(axis=1) / SPREAD**2 / precision, atol=0.06)
    np.testing.assert_allclose(rows["sd_a"], precision**-0.5, rtol=0.05)
    status = json.loads(copy.command("status", copy.sweep, "--json"))
    assert status["engines"][NAME]["converged"] == 3
    page = (copy.sweep / "report" / "index.html").read_text()
    assert NAME in page
    assert "#CC79A7" in page
    assert f"engine {NAME}" in copy.command("doctor")


def test_wrong_draws_of_a_new_engine_are_seen(tmp_path):
    """The twin: the weights are left out, so its draws are the prior's, and all their own figures are perfect."""
    copy = Copy(tmp_path)
    engine = copy.package / "engines" / NAME / "engine.py"
    text = engine.read_text()
    kept = "log_weight = np.asarray(batched.log_likelihood(theta))"
    assert text.count(kept) == 1
    engine.write_text(text.replace(kept, f"{kept} * 0.0"))
    rows = copy.rows()
    assert (rows["khat"] == 0).all()
    assert rows["verdict"].tolist() == ["not_converged"] * 3
    assert rows["reason"].str.contains("mode check|shift of a mean|sds").all()


def test_without_the_line_there_is_no_such_engine(tmp_path):
    """The twin of the copy, with the source as it is."""
    (tmp_path / "campaign.toml").write_text(CONFIG)
    line = [
        sys.executable,
        "-m",
        "chainsweep",
        "init",
        str(tmp_path / "campaign.toml"),
        "--out",
        str(tmp_path / "sweep"),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 65
    assert "'emcee', 'nuts' or 'snpe'" in done.stderr
    assert f"unknown key '{NAME}' in table [engines]; valid keys: emcee, nuts, snpe" in done.stderr
