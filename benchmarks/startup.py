"""What a task costs before it samples: opening the image, imports, tracing, compiling; inside and outside an image.

    python benchmarks/startup.py IMAGE

Times a NUTS task of `jobs/gaussian_peak` that samples next to nothing (one data set, 100 iterations, one attempt), with
an empty and with a filled cache of compiled programs: all of it is start-up. The share is that of a task of 20 minutes.
Short steps: the median of five; a warm task: of three.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.machine.programs import CACHE_VARIABLE
from chainsweep.slurm.image import inside
from chainsweep.slurm.site import Site

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "import chainsweep.stages.infer, chainsweep.engines.nuts.engine, jax, numpyro; jax.devices()"
TASK_S = 20 * 60
NEXT_TO_NOTHING = """
[engines.nuts]
warmup = 50
draws = 50

[engines.nuts.tuning]
attempts = 1
"""


def seconds(words: Sequence[str], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(prefix: Sequence[str], python: str, campaign: Campaign) -> dict[str, float]:
    cache = Path(os.environ[CACHE_VARIABLE])

    def task() -> float:
        shutil.rmtree(campaign.paths.root / "shards", ignore_errors=True)
        return seconds([*prefix, python, "-m", "chainsweep", "task", str(campaign.paths.root), "infer", "0"], 1)

    opened = seconds([*prefix, "true"], 5)
    imported = seconds([*prefix, python, "-c", IMPORTS], 5)
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    cold, warm = task(), statistics.median(task() for _ in range(3))
    return {
        "open": opened,
        "imports": imported - opened,
        "model, tracing, cached programs": warm - imported,
        "every task but the first": warm,
        "compiling, first task only": cold - warm,
        "first task": cold,
    }


def main() -> None:
    image = Path(sys.argv[1]).resolve()
    apptainer = ("sh", str(ROOT / "containers" / "apptainer.sh"))
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        cache.mkdir()
        os.environ[CACHE_VARIABLE] = str(cache)
        site = Site(name="startup", device="cpu", apptainer=apptainer, binds=(str(cache),))
        job = Path(folder, "job")
        shutil.copytree(ROOT / "jobs" / "gaussian_peak", job)
        config = (job / "campaign.toml").read_text()
        (job / "campaign.toml").write_text(
            config + '\n[shards]\nsize = 1\n\n[policy]\nengines = ["nuts"]\n' + NEXT_TO_NOTHING
        )
        frozen = Path(folder, "frozen")
        line = [sys.executable, "-m", "chainsweep", "init", str(job / "campaign.toml"), "--out", str(frozen)]
        subprocess.run(line, check=True, capture_output=True)
        campaign = Campaign(frozen)
        boxed = inside(site, image, False, frozen, campaign.paths.frozen)
        found = {"outside": measure([], sys.executable, campaign), image.name: measure(boxed, "python3", campaign)}
    print(f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for row in found["outside"]:
        print(f"| {row} | {' | '.join(f'{times[row]:.2f} s' for times in found.values())} |")
    for row in ("every task but the first", "first task"):
        print(f"| {row}, of 20 min | {' | '.join(f'{times[row] / TASK_S:.2%}' for times in found.values())} |")


if __name__ == "__main__":
    main()
