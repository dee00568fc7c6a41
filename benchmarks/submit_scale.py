"""How long planning and submitting 100,000 data sets takes, and how much memory, on the cluster in reach.

    python benchmarks/submit_scale.py SITE.toml [DATASETS]

Makes a campaign in a temporary folder, then plans and submits it in processes of their own (the jobs are held, so that
nothing runs, and are cancelled at the end).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MODEL = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("obs", dist.Normal(a + b * x, y_err), obs=y)
"""
CONFIG = """
[model]
file = "model.py"
[data]
source = "data.npz"
fields = { x = "x", y = "y", y_err = "y_err" }
"""


def timed(*arguments: str) -> None:
    began = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "chainsweep", *arguments, "--json"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    print(
        f"{arguments[0]:<8} exit {os.waitstatus_to_exitcode(status)}  {time.perf_counter() - began:6.2f} s  "
        f"{usage.ru_maxrss / 1024:7.0f} MiB",
        flush=True,
    )


def main() -> None:
    site, datasets = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    rng = np.random.default_rng(0)
    os.environ["SBATCH_HOLD"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.py").write_text(MODEL)
        (folder / "campaign.toml").write_text(CONFIG)
        x = np.sort(rng.uniform(-1, 1, (datasets, 40)), axis=1)
        np.savez(folder / "data.npz", x=x, y=rng.standard_normal(x.shape), y_err=np.full(x.shape, 0.3))
        campaign = str(folder / "campaign")
        timed("init", str(folder / "campaign.toml"), "--out", campaign)
        timed("plan", campaign, "--site", site)
        timed("submit", campaign, "--site", site)
        timed("submit", campaign, "--site", site)
        timed("status", campaign)
        subprocess.run([sys.executable, "-m", "chainsweep", "cancel", campaign], check=True)
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
