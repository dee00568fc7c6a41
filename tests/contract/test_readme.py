"""README's own example, as it is printed: its files, its commands in a shell, its Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = """
[policy]
engines = ["nuts"]
[engines.nuts]
warmup = 200
draws = 400

[engines.nuts.tuning]
prior_draws = 512
descents = 4
"""


def commands(first: str) -> list[str]:
    """The indented block that begins with ``first``, without comments."""
    blocks = re.findall(r"(?:^    \S.*\n)+", TEXT, flags=re.MULTILINE)
    (block,) = (block for block in blocks if block.strip().startswith(first))
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def write_spectra(folder: Path) -> None:
    """Three visible peaks."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    for number in range(3):
        x = np.linspace(0, 1, 30)
        y = 1.2 * np.exp(-0.5 * ((x - rng.uniform(0.35, 0.65)) / 0.1) ** 2) + 0.1 * rng.standard_normal(30)
        table = np.stack([x, y, np.full(30, 0.1)], axis=1)
        header = "wavelength,flux,flux_err"
        np.savetxt(folder / f"star{number}.csv", table, delimiter=",", header=header, comments="")


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment after README's first line: the programs next to this Python come first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_readme_runs_as_it_is_printed(tmp_path, environment):
    (model, look), (config,) = fenced("python"), fenced("toml")
    (tmp_path / "model.py").write_text(model)
    (tmp_path / "campaign.toml").write_text(config + QUICK)
    write_spectra(tmp_path / "spectra")
    lines = commands(". CLONE/.venv/bin/activate")[1:]
    assert len(lines) == 4
    assert "BIN := .venv/bin" in (ROOT / "Makefile").read_text()
    script = "\n".join(["set -e", *lines]).replace(" ID", " star1")
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "star1 (30 points)" in done.stdout
    pytest.importorskip("arviz")
    looked = [sys.executable, "-W", "ignore", "-c", look]
    done = subprocess.run(looked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("height", "centre", "width", "r_hat"):
        assert name in done.stdout


def test_make_has_the_targets_that_readme_names():
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"make (\w+)", TEXT):
        assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE), name
