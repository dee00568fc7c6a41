"""Campaigns on a private Slurm: submitting them, waiting for a moment in mid-chain, and comparing what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chainsweep.machine.programs import cache_root
from chainsweep.slurm.record import sent_jobs
from tests.cluster.private_slurm import PrivateSlurm
from tests.contract.test_campaign import assert_same_draws

SITE = """
name = "private"
device = "cpu"
signal_lead_s = 60

[job]
walltime_min = 10
memory_gib = 1.5
"""
WARM_SITE = f'cache = "{cache_root(os.environ)}"\n{SITE}'
"""The same with this user's compiled programs, so that jobs of the shapes that tests run here compile nothing."""


@dataclass
class Sweep:
    """A campaign folder on a private Slurm; ``site`` is the text of its site file."""

    slurm: PrivateSlurm
    folder: Path
    site: str = SITE
    timeout_s: float = 300
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """``chainsweep ARGUMENTS`` with this Slurm in reach; fails on another exit code than ``codes``."""
        line = [sys.executable, "-m", "chainsweep", *arguments]
        done = self.slurm.run(*line, check=False, timeout_s=self.timeout_s, env=self.environment)
        assert done.returncode in codes, f"{line} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def submit(self, *options: str) -> dict[str, int]:
        """Submit what is missing; the job ids by kind (the first part of each)."""
        path = self.folder.parent / "site.toml"
        path.write_text(self.site)
        done = self.command("submit", str(self.folder), "--site", str(path), "--json", *options)
        jobs = json.loads(done.stdout)["jobs"]
        return {job["kind"]: job["job_id"] for job in reversed(jobs)}

    def status(self) -> dict[str, Any]:
        """``status --json``."""
        return json.loads(self.command("status", str(self.folder), "--json").stdout)

    def finish(self) -> dict[str, str]:
        """Wait until every job of the last submission has ended; their last states."""
        jobs = sent_jobs(self.folder / "jobs.jsonl")
        last = max(job.submission for job in jobs)
        ids = [job.job_id for job in jobs if job.job_id is not None and job.submission == last]
        return self.slurm.wait_for_jobs(*ids, timeout_s=self.timeout_s)

    def wait_for_state(self, engine: str = "emcee", shard: int = 0) -> Path:
        """Wait until a task has saved a state, so that it is in mid-chain."""
        path = self.folder / "shards" / engine / f".state-{shard:05d}.npz"
        self.slurm.wait_until(path.exists, 120, f"{path} is there", every_s=0.05)
        return path

    def outputs(self) -> str:
        """Everything that Slurm wrote for this campaign's jobs."""
        return "\n".join(
            path.read_text(errors="replace") for path in sorted((self.folder / "logs").glob("slurm-*.out"))
        )

    def attempts(self) -> dict[str, int]:
        """Attempt number of each published shard, by ``engine/shard``."""
        import h5py

        found = {}
        for path in sorted((self.folder / "shards").glob("*/[0-9]*.h5")):
            with h5py.File(path) as file:
                found[f"{path.parent.name}/{path.stem}"] = int(file.attrs["attempt"])
        return found


TIMING = ("seconds", "check_seconds", "attempt")


def assert_same_results(sweep: Path, reference: Path, timing: tuple[str, ...] = TIMING) -> None:
    """The same draws, bit for bit, and the same catalogue but for what says how long it took."""
    assert_same_draws(reference, sweep)
    one, other = (
        pd.read_parquet(folder / "catalogue.parquet").drop(columns=list(timing)) for folder in (reference, sweep)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (sweep / "report" / "index.html").stat().st_size > 0


def no_leftovers(folder: Path) -> list[str]:
    """Files that belong to attempts and should be gone when all is done."""
    return [path.name for path in (folder / "shards").rglob(".*") if path.is_file()]


SLOW_MODEL = """
import time
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}

def log_likelihood(params, x, y, y_err):
    time.sleep(%g)
    residual = (y - params["a"] - params["b"] * x) / y_err
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * y_err**2))
"""
SLOW_CONFIG = """
[campaign]
name = "slow"
seed = 3

[model]
file = "model.py"
observed = ["y"]
x = "x"

[data]
source = "data.npz"
fields = { x = "x", y = "y", y_err = "y_err" }

[policy]
engines = ["emcee"]

[engines.emcee]
spread = "datasets"
walkers = 8
max_steps = 800
prior_draws = 64

[engines.emcee.tuning]
check_every = 50

[verdict]
ess = 1e9

[shards]
size = 1

[report]
worst = 0
"""


def write_slow_job(folder: Path, call_s: float, datasets: int = 2, model: str = SLOW_MODEL) -> Path:
    """A job whose chains are long because each likelihood call sleeps; the path of its ``campaign.toml``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(-1, 1, (datasets, 6)), axis=1)
    (folder / "model.py").write_text(model % call_s if "%g" in model else model)
    (folder / "campaign.toml").write_text(SLOW_CONFIG)
    np.savez(folder / "data.npz", x=x, y=0.3 + x + 0.3 * rng.standard_normal(x.shape), y_err=np.full(x.shape, 0.3))
    return folder / "campaign.toml"


def plain_environment() -> dict[str, str]:
    """This process's environment: what a ``run`` without any Slurm is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
