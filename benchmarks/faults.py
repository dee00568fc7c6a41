"""The worked example on a private Slurm, with every fault in turn: what happened, and whether the results are the same.

    python benchmarks/faults.py FOLDER [FAULT ...] [--ensembles DATASETS]

Needs Slurm's daemons and root, as the tests in `tests/cluster` do. Prints a table for `docs/faults.md`. The campaign is
that of `jobs/gaussian_peak` (32 data sets, three engines) in shards of 8, with a shorter training and
fewer rounds of importance sampling. With `--ensembles`, emcee alone on so many visible peaks, in four shards.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.ensembles import CAMPAIGN  # noqa: E402 (the folder of the project comes first)
from benchmarks.nuts import peaks  # noqa: E402 (the folder of the project comes first)
from tests.cluster.private_slurm import FINISHED, PrivateSlurm  # noqa: E402 (the checkout's tests are no installed package)
from tests.cluster.sweeps import SITE, Sweep, assert_same_results, no_leftovers, plain_environment  # noqa: E402

RANKS = SITE.replace("[job]", "[job.emcee]\nranks = 2\nmemory_gib = 3\n\n[job]")
ONE_BY_ONE = "array_cap = 1\n" + RANKS
KILLS = 20
PAUSES_S = {"nuts": (5, 12), "emcee": (10, 30)}
"""Between two kills, by the engine of `longest`: five in a row before anything is saved end a task."""


def longest(ids: dict[str, int]) -> tuple[str, int]:
    """The engine in whose chains a fault is made, and the number of its first task."""
    return ("nuts", 4) if "nuts" in ids else ("emcee", 0)


def chainsweep(*arguments: str | Path) -> None:
    line = [sys.executable, "-m", "chainsweep", *map(str, arguments)]
    subprocess.run(line, check=True, capture_output=True, env=plain_environment())


def none(sweep: Sweep) -> str:
    sweep.submit()
    sweep.finish()
    return "submit, and no command until the report"


def time_limit(sweep: Sweep) -> str:
    ids = sweep.submit()
    for kind in sorted(ids.keys() & {"emcee", "nuts"}):
        sweep.wait_for_state(kind)
        sweep.slurm.hasten_limit(f"{ids[kind]}_0", 61)
    sweep.finish()
    saved, killed = (sweep.outputs().count(words) for words in ("ended with 75", "s after the signal: killed"))
    return f"told by Slurm's own limit: {saved} times saved, {killed} times killed 45 s later; requeued"


def preemption(sweep: Sweep) -> str:
    sweep.wait_for_state(longest(sweep.submit())[0])
    urgent = ["--partition=urgent", "--nodes=4", "--exclusive", "--mem=100", "--output=/dev/null"]
    sweep.slurm.sbatch(*urgent, "--wrap", "sleep 5")
    sweep.slurm.wait_until(lambda: "DUE TO PREEMPTION" in sweep.outputs(), 60, "preempted")
    sweep.finish()
    return f"cut off and requeued by Slurm ({sweep.outputs().count('DUE TO PREEMPTION')} lines of it in the logs)"


def kills(sweep: Sweep) -> str:
    rng = random.Random(1)
    ids = sweep.submit()
    done, lost, pauses = 0, set(), PAUSES_S[longest(ids)[0]]
    while done < KILLS:
        time.sleep(rng.uniform(*pauses))
        sweep.slurm.hasten_requeues()
        states = sweep.slurm.squeue_states()
        if set(states.values()) <= FINISHED:
            break
        final = {str(ids["merge"]), str(ids["report"])}
        if not list((sweep.folder / "models").glob("*/.state-*")):
            final.add(str(ids.get("train")))  # its first checkpoint takes longer than the time between two kills
        running = [job for job, state in states.items() if state == "RUNNING" and job not in final]
        if running:
            victim = rng.choice(running)
            sweep.slurm.run("scancel", "--signal=KILL", f"{victim}.0", check=False)
            done += 1
            lost.add(victim)
    sweep.finish()
    return f"{done} kills of {len(lost)} jobs and array elements, {pauses[0]} to {pauses[1]} s apart"


def lost_node(sweep: Sweep) -> str:
    ids = sweep.submit()
    engine, task = longest(ids)
    sweep.wait_for_state(engine)
    element = f"{ids[engine]}_0"
    node = sweep.slurm.job(element)["NodeList"]
    sweep.slurm.node_freeze(node)
    shard = sweep.folder / "shards" / engine / "00000.h5"
    try:
        sweep.slurm.wait_until(lambda: sweep.slurm.hasten_requeues() or shard.exists(), 300, "published elsewhere")
        before = hashlib.sha256(shard.read_bytes()).hexdigest()
        sweep.slurm.thaw_tasks(node)
        log = sweep.folder / "logs" / f"infer-{task:05d}.log"
        sweep.slurm.wait_until(lambda: "not published" in log.read_text(), 300, "the old process is refused")
    finally:
        sweep.slurm.node_up(node)
    sweep.finish()
    assert hashlib.sha256(shard.read_bytes()).hexdigest() == before
    return "requeued to another node; the old process went on, and was refused when it wanted to write"


def controller(sweep: Sweep) -> str:
    sweep.wait_for_state(longest(sweep.submit())[0])
    sweep.slurm.restart_controller(down_s=10)
    sweep.finish()
    return "slurmctld away for 10 s in mid-run"


def rank_killed(sweep: Sweep) -> str:
    sweep.submit()
    sweep.wait_for_state("emcee", 1)
    log = (sweep.folder / "logs" / "infer-00001.log").read_text()
    began = time.monotonic()
    os.kill(int(log[log.index("process ") :].split()[1].rstrip(")")), signal.SIGKILL)
    sweep.slurm.wait_until(lambda: "ended with" in sweep.outputs(), 60, "the step ends")
    took = time.monotonic() - began
    sweep.finish()
    return f"the other rank was gone and the element requeued after {took:.1f} s"


FAULTS: dict[str, tuple[Callable[[Sweep], str], str]] = {
    "none": (none, RANKS),
    "time limit": (time_limit, RANKS),
    "preemption, GraceTime 0": (preemption, RANKS),
    "kill -9 at random moments": (kills, ONE_BY_ONE),
    "lost node, old process back": (lost_node, RANKS),
    "slurmctld restarted": (controller, RANKS),
    "MPI rank killed with -9": (rank_killed, RANKS),
}


def frozen_campaign(folder: Path, ensembles: int | None) -> Path:
    job = folder / "job"
    shutil.copytree(ROOT / "jobs" / "gaussian_peak", job)
    if ensembles is not None:
        np.savez(job / "data.npz", **peaks("visible", ensembles).fields)
        (job / "campaign.toml").write_text(f"{CAMPAIGN}\n[shards]\nsize = {-(-ensembles // 4)}\n")
        chainsweep("init", job / "campaign.toml", "--out", folder / "frozen")
        return folder / "frozen"
    config = (job / "campaign.toml").read_text()
    config = config.replace("[engines.snpe.tuning]\n", "[engines.snpe.tuning]\nadaptive_rounds = 2\n")
    (job / "campaign.toml").write_text(config + "\n[shards]\nsize = 8\n")
    chainsweep("init", job / "campaign.toml", "--out", folder / "frozen")
    return folder / "frozen"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}; default: all")
    parser.add_argument("--ensembles", type=int, metavar="DATASETS", help="emcee alone on so many visible peaks")
    options = parser.parse_args()
    folder, chosen = options.folder, options.faults or list(FAULTS)
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are: {', '.join(FAULTS)}")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    if not (folder / "reference").exists():
        folder.mkdir(parents=True)
        frozen = frozen_campaign(folder, options.ensembles)
        shutil.copytree(frozen, folder / "reference")
        began = time.monotonic()
        chainsweep("run", folder / "reference", "--workers", "2")
        print(f"reference: chainsweep run, {time.monotonic() - began:.0f} s", flush=True)
    print("| fault | what happened | attempts | results | seconds |\n|---|---|---|---|---|", flush=True)
    for name in chosen:
        fault, site = FAULTS[name]
        campaign = folder / name.replace(" ", "-").replace(",", "") / "campaign"
        shutil.rmtree(campaign.parent, ignore_errors=True)
        shutil.copytree(folder / "frozen", campaign)
        with tempfile.TemporaryDirectory(prefix="slurm-") as daemons, PrivateSlurm(Path(daemons)) as slurm:
            sweep = Sweep(slurm, campaign, site, timeout_s=1200)
            began = time.monotonic()
            happened = fault(sweep)
            took = time.monotonic() - began
            try:
                assert_same_results(campaign, folder / "reference")
                verdict = "identical"
            except (AssertionError, OSError) as error:
                verdict = f"DIFFERENT: {(str(error).splitlines() or ['other arrays'])[0]}"
            leftovers = no_leftovers(campaign)
            attempts = sweep.attempts().values()
            print(
                f"| {name} | {happened} | {sum(attempts)} for {len(attempts)} shards | {verdict}"
                f"{f', left behind: {leftovers}' if leftovers else ''} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
