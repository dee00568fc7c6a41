"""``doctor --site``: what of a site file works, each finding from a real question to the cluster or a real job step."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from chainsweep.errors import UnavailableError
from chainsweep.execute.doctor import JAX_PROGRAM, RANK_PROGRAM, TORCH_PROGRAM, Finding, tried
from chainsweep.site import GPU_KINDS, JOB_KINDS, Site
from chainsweep.slurm import client
from chainsweep.slurm.render import interpreter

STEP_TIMEOUT_S = 120.0
"""How long a step may wait for its allocation and run."""
CLOCK_TOLERANCE_S = 5.0


def examine_site(site: Site) -> list[Finding]:
    """Ask the cluster, and run short steps as the site's jobs would; nothing is left behind."""
    trials: list[tuple[str, Callable[[], Finding]]] = [
        ("Slurm controller", _controller),
        ("Slurm limits", lambda: _limits(site)),
        ("partitions", lambda: _partitions(site)),
        ("MPI launch", lambda: _mpi_launch(site)),
        ("clock", lambda: _clock(site)),
    ]
    if site.device == "gpu":
        trials += [
            ("GPU by JAX", lambda: _gpu(site, "GPU by JAX", JAX_PROGRAM, ("gpu", "cuda"))),
            ("GPU by torch", lambda: _gpu(site, "GPU by torch", TORCH_PROGRAM, ("cuda True",))),
        ]
    return [tried(what, trial) for what, trial in trials]


def _controller() -> Finding:
    answer = client.run_command(["scontrol", "ping"]).strip().splitlines()
    return Finding("Slurm controller", "ok" if any("UP" in line for line in answer) else "broken", "; ".join(answer))


def _limits(site: Site) -> Finding:
    found = client.limits()
    text = f"MaxArraySize {found.max_array_size}, MaxJobCount {found.max_jobs}"
    if site.max_array_size is not None and site.max_array_size > found.max_array_size:
        return Finding("Slurm limits", "broken", f"{text}; the site's max_array_size = {site.max_array_size} is above")
    return Finding("Slurm limits", "ok", text)


def _partitions(site: Site) -> Finding:
    listed = client.run_command(["sinfo", "-h", "-o", "%R|%a|%l|%D"]).split()
    there = {line.split("|")[0] for line in listed}
    wanted = {name for kind in JOB_KINDS for name in (site.job_settings(kind).partition or "").split(",") if name}
    if wanted - there:
        lacking = ", ".join(sorted(wanted - there))
        return Finding("partitions", "broken", f"the site names {lacking}; the cluster has {', '.join(sorted(there))}")
    return Finding("partitions", "ok", ", ".join("{} ({}, limit {}, {} nodes)".format(*x.split("|")) for x in listed))


def _mpi_launch(site: Site) -> Finding:
    settings = site.job_settings("emcee")
    ranks = max(2, min(settings.ranks, 4))
    launch = [part.replace("{ranks}", str(ranks)) for part in site.mpi_launch]
    done = _step([*launch, *_options(site, "emcee"), f"--ntasks={ranks}"], site, ["-m", "mpi4py", "-c", RANK_PROGRAM])
    sizes = re.findall(r"size (\d+)", done.stdout)
    line = " ".join(launch)
    if done.returncode == 0 and sizes == [str(ranks)] * ranks:
        return Finding("MPI launch", "ok", f"{ranks} ranks through {line}")
    return Finding(
        "MPI launch",
        "broken",
        f"{line}: sizes {sizes} (expected {ranks} times {ranks}), exit {done.returncode}: {_last(done)}; "
        "'srun --mpi=list' shows what this Slurm speaks, the site's key is mpi_launch",
    )


def _clock(site: Site) -> Finding:
    before = time.time()
    done = _step(["srun", *_options(site, "merge"), "--ntasks=1"], site, ["-c", "import time; print(time.time())"])
    after = time.time()
    if done.returncode != 0:
        return Finding("clock", "broken", f"no step ran: {_last(done)}")
    there = float(done.stdout.split()[-1])
    off = max(before - there, there - after, 0.0)
    state = "ok" if off < CLOCK_TOLERANCE_S else "broken"
    return Finding("clock", state, f"a node's clock is within {max(off, 0.1):.1f} s of this one's")


def _gpu(site: Site, what: str, program: str, signs: Sequence[str]) -> Finding:
    kind = GPU_KINDS[0]
    number = f"{site.gpu_type}:1" if site.gpu_type else "1"
    request = f"--gres=gpu:{number}" if site.gpu_request == "gres" else f"--gpus-per-task={number}"
    done = _step(["srun", *_options(site, kind), "--ntasks=1", request], site, ["-c", program])
    seen = done.stdout.strip()
    if done.returncode != 0:
        return Finding(what, "broken", _last(done))
    return Finding(what, "ok" if any(sign in seen for sign in signs) else "broken", seen)


def _options(site: Site, kind: str) -> list[str]:
    settings = site.job_settings(kind)
    named = [(name, getattr(settings, name)) for name in ("partition", "account", "qos", "constraint")]
    return ["--time=2", *(f"--{name}={value}" for name, value in named if value)]


def _step(launch: Sequence[str], site: Site, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    image = ["apptainer", "exec", "--no-home", site.image] if site.image else []
    command = [*launch, *image, interpreter(site) or sys.executable, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise UnavailableError(f"no {command[0]} on the path") from error


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr or done.stdout).strip().splitlines() or ["no output"])[-1]
