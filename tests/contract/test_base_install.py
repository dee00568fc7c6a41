"""Commands that only read and submit need no engine's libraries: on a login node a base install suffices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.freeze import init_campaign
from chainsweep.stages.networks import is_trained, network_key, weights_path
from chainsweep.store.network import read_metadata
from tests.conftest import LINE_CONFIG, ROOT

# Without the extras of pyproject.toml none of these can be imported.
BLOCKED = """
import sys
for name in ("jax", "jaxlib", "numpyro", "torch", "sbi", "safetensors", "emcee", "schwimmbad", "mpi4py", "matplotlib",
             "corner", "astropy", "blackjax", "arviz"):
    sys.modules[name] = None
from chainsweep.cli import main
main()
"""
SITE = ROOT / "slurm" / "sites" / "example.toml"
BLACK_BOX = """
import numpyro.distributions as dist
prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}
def log_likelihood(params, x, y, y_err): return 0.0
"""
SLURM = {
    "sbatch": "echo 7",
    "squeue": "true",
    "scontrol": "printf 'MaxArraySize = 1001\\nMaxJobCount = 10000\\n'",
}


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The command line of a base install, with stand-ins for Slurm's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, does in SLURM.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    return call


def test_a_campaign_is_looked_at_planned_and_submitted_in_a_base_install(base, write_job, tmp_path):
    folder = init_campaign(write_job(), tmp_path / "sweep").paths.root
    for line in (("status", folder), ("logs", folder), ("show", folder, "000000"), ("cancel", folder)):
        done = base(*line, "--json")
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    for command in ("plan", "submit"):
        done = base(command, folder, "--site", SITE, "--json")
        assert done.returncode == 0, done.stderr
        kinds = {job["kind"] for job in json.loads(done.stdout)["jobs"]}
        assert kinds == {"train", "emcee", "nuts", "snpe", "merge", "report"}


def test_what_samples_names_the_package_that_is_missing(base, write_job, tmp_path):
    """The twin: the libraries are really gone."""
    path = write_job()
    folder = init_campaign(path, tmp_path / "sweep").paths.root
    for line in (("run", folder), ("init", path, "--out", tmp_path / "other")):
        done = base(*line)
        assert done.returncode == 69
        assert "jax" in done.stderr
        assert "pip install 'chainsweep[" in done.stderr
    assert not (tmp_path / "other").exists()


def test_a_black_box_that_cannot_be_timed_has_its_data_sets_shared_out_and_says_why(base, write_job, tmp_path):
    config = LINE_CONFIG.replace('curve = "mu"\n', "") + '[policy]\nengines = ["emcee"]\n'
    folder = init_campaign(write_job(model=BLACK_BOX, config=config), tmp_path / "sweep").paths.root
    done = base("plan", folder, "--site", SITE)
    assert done.returncode == 0, done.stderr
    assert "ranks share out datasets: log_likelihood cannot be timed here, where jax and numpyro" in done.stdout


def test_a_network_is_known_by_its_whole_file(write_job, tmp_path):
    campaign = Campaign(init_campaign(write_job(), tmp_path / "sweep").paths.root)
    path = weights_path(campaign)
    assert not is_trained(campaign)
    path.parent.mkdir(parents=True)
    save_file({"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(0)}, path, metadata={"key": network_key(campaign)})
    assert is_trained(campaign)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:50], whole[:4], b"", b"\xff" * 100, whole.replace(b"{", b"[")):
        path.write_bytes(damaged)
        assert read_metadata(path) is None
        assert not is_trained(campaign)
    save_file({"a": np.zeros(3)}, path, metadata={"key": "of another campaign"})
    assert not is_trained(campaign)
