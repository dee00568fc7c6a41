"""The trials of ``doctor --site``, which test a site file by real questions to the cluster and real job steps."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from chainsweep.engines.entry import Library
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import UnavailableError
from chainsweep.machine.doctor import JAX_PROGRAM, RANK_PROGRAM, TORCH_PROGRAM, Finding, tried
from chainsweep.packages import versions
from chainsweep.slurm import client
from chainsweep.slurm.image import examine, host_variables, inside
from chainsweep.slurm.plan import shares_ranks
from chainsweep.slurm.render import interpreter
from chainsweep.slurm.site import JOB_KINDS, Site

WAIT_S = 60
"""The seconds that a step waits for its allocation before it gives up and leaves the queue."""
STEP_TIMEOUT_S = 180.0
CLOCK_TOLERANCE_S = 5.0
MOST_RANKS = 4
NODE_PROGRAM = """
import json, platform, tempfile, time
from chainsweep.packages import versions
with tempfile.TemporaryFile() as file:
    file.write(b"chainsweep")
print(json.dumps([platform.node(), versions("chainsweep"), tempfile.gettempdir(), time.time()]))
"""
GPU_PROGRAMS = {Library.JAX: (JAX_PROGRAM, ("gpu", "cuda")), Library.TORCH: (TORCH_PROGRAM, ("cuda True",))}
"""The program that says what a library sees, and the words of which its answer has one if it sees a GPU."""
WITH_MODULES = 'count=$1; shift; for ((; count > 0; count--)); do module load "$1" || exit; shift; done; exec "$@"'
"""A bash program that loads modules and runs a command; its arguments are the number of modules, the modules, and the
command."""


def examine_site(site: Site) -> list[Finding]:
    """Ask the cluster, and run short steps as the site's jobs would; no job or file is left."""
    controller = tried("Slurm controller", _controller)
    if controller.state != "ok":
        return [controller]
    trials: list[tuple[str, Callable[[], Finding]]] = [
        ("Slurm limits", lambda: _limits(site)),
        ("partitions", lambda: _partitions(site)),
        *((f"image {path.name}", partial(_image, path)) for path in sorted(_images(site))),
        ("a node", lambda: _node(site)),
        *((what, partial(_mpi_launch, what, one)) for what, one in _mpi_ways(site)),
    ]
    if site.device == "gpu":
        for library, (program, signs) in GPU_PROGRAMS.items():
            kind = next((name for name, each in ENGINES.items() if each.uses_gpu and each.library is library), None)
            if kind is not None:
                what = f"GPU by {library}"
                trials.append((what, partial(_gpu, site, what, kind, program, signs)))
    return [controller, *(tried(what, trial) for what, trial in trials)]


def _controller() -> Finding:
    answer = client.run_command(["scontrol", "ping"]).strip().splitlines()
    return Finding("Slurm controller", "ok" if any("UP" in line for line in answer) else "broken", "; ".join(answer))


def _limits(site: Site) -> Finding:
    found = client.limits()
    text = f"MaxArraySize {found.max_array_size}, MaxJobCount {found.max_jobs}"
    limits = {"max_array_size": found.max_array_size, "max_submitted": found.max_jobs}
    for key, limit in limits.items():
        wanted = getattr(site, key)
        if wanted is not None and wanted > limit:
            return Finding("Slurm limits", "broken", f"{text}; the site's {key} = {wanted} is above")
    return Finding("Slurm limits", "ok", text)


def _partitions(site: Site) -> Finding:
    """Return a finding on the partitions: each must exist and allow a job the walltime that the site says."""
    listed = [line.split("|") for line in client.run_command(["sinfo", "-h", "-o", "%R|%a|%l|%D"]).split()]
    longest = {name: _minutes(limit) for name, _, limit, _ in listed}
    for kind in JOB_KINDS:
        settings = site.job_settings(kind)
        for name in (settings.partition or "").split(","):
            if name and name not in longest:
                known = ", ".join(sorted(longest))
                return Finding("partitions", "broken", f"the site names {name} for {kind}; the cluster has {known}")
            if name and longest[name] < settings.walltime_min:
                text = f"{name} ends jobs after {longest[name]:g} min; the site's walltime_min for {kind} is "
                return Finding("partitions", "broken", f"{text}{settings.walltime_min}")
    return Finding("partitions", "ok", ", ".join("{} ({}, limit {}, {} nodes)".format(*each) for each in listed))


def _minutes(limit: str) -> float:
    """Return a time limit as sinfo writes it, ``[days-]hours:minutes:seconds`` or ``infinite``, in minutes."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+)*", limit):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = ([0, 0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _images(site: Site) -> set[Path]:
    return {path for kind in JOB_KINDS if (path := site.image_of(kind)) is not None}


def _image(path: Path) -> Finding:
    image = examine(path, {})
    return Finding(f"image {path.name}", "ok", f"{path.stat().st_size / 1e6:.0f} MB, SHA-256 {image.sha256}")


def _mpi_ways(site: Site) -> list[tuple[str, Site]]:
    """Return the MPI set-ups to try for this site: one, or two if the site names the host's MPI."""
    if site.image_of(_ranked()) is None:
        return [("MPI launch", site)]
    own = ("MPI of the image", site.model_copy(update={"mpi_library": None}))
    return [own] if site.mpi_library is None else [own, ("MPI of the host in the image", site)]


def _ranked() -> str:
    """Return the kind of job whose MPI ranks share its work."""
    return next(kind for kind in JOB_KINDS if shares_ranks(kind))


def _mpi_launch(what: str, site: Site) -> Finding:
    kind = _ranked()
    ranks = max(2, min(site.job_settings(kind).ranks, MOST_RANKS))
    launch = [part.replace("{ranks}", str(ranks)) for part in site.mpi_launch]
    line = " ".join(launch)
    options = _options(site, kind, ranks)
    by_srun = Path(launch[0]).name == "srun"
    if by_srun:
        launch += [*options, "--kill-on-bad-exit=1"]
    else:
        launch = ["salloc", "--quiet", *options, *launch]
    done = _step(launch, site, kind, ["-m", "mpi4py", "-c", RANK_PROGRAM])
    sizes = [int(size) for size in re.findall(r"size (\d+)", done.stdout)]
    if done.returncode == 0 and sizes == [ranks] * ranks:
        return Finding(what, "ok", f"{ranks} ranks through {line}")
    if sizes == [1] * ranks:
        found = f"each of {ranks} ranks thinks that it is alone"
    else:
        found = f"expected {ranks} ranks of {ranks}, got sizes {sizes}, exit code {done.returncode}: {_last(done)}"
    advice = "; 'srun --mpi=list' shows what this Slurm speaks" if by_srun else ""
    return Finding(what, "broken", f"{line}: {found}; the site's key is mpi_launch{advice}")


def _node(site: Site) -> Finding:
    """Return a finding on a node: its clock, its temporary folder, and the version of chainsweep there."""
    before = time.time()
    done = _step(["srun", *_options(site, "merge")], site, "merge", ["-c", NODE_PROGRAM])
    after = time.time()
    if done.returncode != 0:
        return Finding("a node", "broken", f"a step with {interpreter(site, 'merge')} did not run: {_last(done)}")
    name, there, scratch, clock = json.loads(done.stdout.splitlines()[-1])
    here = versions("chainsweep")
    if there != here:
        return Finding("a node", "broken", f"{name}: {interpreter(site, 'merge')} has {there}, this is {here}")
    off = max(before - clock, clock - after, 0.0)
    state = "ok" if off < CLOCK_TOLERANCE_S else "broken"
    text = f"{name}: chainsweep {there['chainsweep']}, {scratch} is writable, its clock is {off:.1f} s from this one's"
    return Finding("a node", state, text)


def _gpu(site: Site, what: str, kind: str, program: str, signs: Sequence[str]) -> Finding:
    number = f"{site.gpu_type}:1" if site.gpu_type else "1"
    request = f"--gres=gpu:{number}" if site.gpu_request == "gres" else f"--gpus-per-task={number}"
    done = _step(["srun", *_options(site, kind), request], site, kind, ["-c", program])
    if done.returncode != 0:
        return Finding(what, "broken", _last(done))
    seen = done.stdout.strip()
    if any(sign in seen for sign in signs):
        return Finding(what, "ok", seen)
    advice = "check gpu_request, the driver and the CUDA build of the package"
    return Finding(what, "broken", f"no GPU in a step with {request} (it saw: {seen}); {advice}")


def _options(site: Site, kind: str, ranks: int = 1) -> list[str]:
    """Return the resource options of a job of this kind, with a short walltime and at most ``ranks`` ranks."""
    want = site.job_settings(kind)
    named = [(name, getattr(want, name)) for name in ("partition", "account", "qos", "constraint")]
    options = [f"--{name}={value}" for name, value in named if value]
    if want.memory_gib is not None:
        options.append(f"--mem-per-cpu={want.memory_gib * 1024 / want.cpus:.0f}M")
    if want.nodes is not None:
        options.append(f"--nodes={min(want.nodes, ranks)}")
    return [f"--ntasks={ranks}", f"--cpus-per-task={want.cpus}", "--time=2", f"--immediate={WAIT_S}", *options]


def _step(launch: Sequence[str], site: Site, kind: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of a kind of job in a step, with the image, modules and environment of that job."""
    image = site.image_of(kind)
    around = [] if image is None else inside(site, image, site.uses_gpu(kind))
    command = [*launch, *around, interpreter(site, kind), *arguments]
    if site.modules:
        command = ["bash", "-c", WITH_MODULES, "bash", str(len(site.modules)), *site.modules, *command]
    environment = {"MPIR_CVAR_NOLOCAL": "1", **host_variables(), **site.environment, "PYTHONNOUSERSITE": "1"}
    if site.mpi_library is not None:
        environment["MPI4PY_LIBMPI"] = site.mpi_library
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"no {command[0]} on the path") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"a step through {launch[0]} did not end within {STEP_TIMEOUT_S:g} s") from error


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """Return the most informative line: the last that names an error, except Slurm's count of failed tasks."""
    lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
    errors = [line for line in lines if "error" in line.lower() and "Exited with exit code" not in line]
    return (errors or lines)[-1]
