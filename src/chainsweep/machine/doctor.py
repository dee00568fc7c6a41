"""The trials of ``doctor``, which find out what works on this machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError
from chainsweep.machine.devices import gpu_names
from chainsweep.machine.programs import CACHE_VARIABLE, cache_limit, cache_root, cache_size
from chainsweep.packages import versions

TIMEOUT_SECONDS = 120
CLOCK_TOLERANCE_S = 5.0
RANK_PROGRAM = (
    "import os; from chainsweep.run.mpi.ranks import start_mpi; "
    "os.write(1, b'size %d\\n' % start_mpi().COMM_WORLD.Get_size())"
)
JAX_PROGRAM = "import jax; d = jax.devices(); print(d[0].platform, len(d), d[0].device_kind)"
COMPILING_PROGRAM = """
from chainsweep.machine.environment import prepare
prepare()
from chainsweep.machine.compiling import watch
clock = watch()
import jax
jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones(64))
print(clock.now().programs, clock.now().cache_hits)
"""
TORCH_PROGRAM = "import torch; print('cuda', torch.cuda.is_available(), torch.cuda.device_count())"


@dataclass(frozen=True)
class Finding:
    """The result of a trial; ``state`` is ``ok``, ``missing`` (not here) or ``broken`` (here, but does not work)."""

    what: str
    state: str
    found: str


def examine() -> list[Finding]:
    """Make all trials; none of them changes anything outside a temporary folder."""
    trials: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", _python),
        *((f"engine {name}", lambda name=name: _engine(name)) for name in ENGINES),
        ("MPI", _mpi),
        ("GPU", _gpu),
        ("JAX device", lambda: _program("JAX device", "jax", JAX_PROGRAM)),
        ("torch device", lambda: _program("torch device", "torch", TORCH_PROGRAM)),
        ("compiled programs", compiled_programs),
        ("Apptainer", lambda: _command("Apptainer", ["apptainer", "--version"])),
        ("Slurm", lambda: _command("Slurm", ["sinfo", "--version"])),
        ("scratch", _scratch),
        ("file locks", _locks),
        ("file clock", _clock),
    ]
    return [tried(what, trial) for what, trial in trials]


def tried(what: str, trial: Callable[[], Finding]) -> Finding:
    """Return the finding of a trial; an error in the trial gives a finding ``broken``."""
    try:
        return trial()
    except (OSError, subprocess.SubprocessError, ChainsweepError) as error:
        name = "" if isinstance(error, ChainsweepError) else f"{type(error).__name__}: "
        return Finding(what, "broken", f"{name}{error}")


def _python() -> Finding:
    return Finding("Python", "ok", f"{sys.version.split()[0]}, chainsweep {versions('chainsweep')['chainsweep']}")


def _engine(name: str) -> Finding:
    needs = ENGINES[name].needs
    found = versions(*needs)
    missing = [package for package in needs if package not in found]
    if missing:
        text = f"needs {', '.join(missing)}: pip install 'chainsweep[{name}]'"
        return Finding(f"engine {name}", "missing", text)
    return Finding(f"engine {name}", "ok", ", ".join(f"{package} {found[package]}" for package in needs))


def _mpi() -> Finding:
    if not versions("mpi4py"):
        return Finding("MPI", "missing", "mpi4py is not installed: pip install 'chainsweep[emcee]'")
    launcher = _launcher()
    if launcher is None:
        return Finding("MPI", "missing", "no mpiexec here; under Slurm ranks start through srun")
    done = _run([launcher, "-n", "2", sys.executable, "-c", RANK_PROGRAM])
    sizes = done.stdout.split()[1::2]
    if done.returncode == 0 and sizes == ["2", "2"]:
        return Finding("MPI", "ok", f"2 ranks through {launcher}")
    last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
    return Finding(
        "MPI", "broken", f"{launcher} -n 2: sizes {sizes} (expected 2, 2), exit {done.returncode}: {last[0]}"
    )


def _launcher() -> str | None:
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def _gpu() -> Finding:
    names = gpu_names()
    return Finding("GPU", "ok", ", ".join(names)) if names else Finding("GPU", "missing", "no NVIDIA driver here")


def _program(what: str, package: str, program: str) -> Finding:
    if not versions(package):
        return Finding(what, "missing", f"{package} is not installed")
    done = _run([sys.executable, "-c", program])
    if done.returncode:
        return Finding(what, "broken", done.stderr.strip().splitlines()[-1])
    return Finding(what, "ok", done.stdout.strip())


def compiled_programs() -> Finding:
    """Return a finding on whether a process finds the programs of another one, tried in a temporary cache."""
    what = "compiled programs"
    if not versions("jax"):
        return Finding(what, "missing", "jax is not installed")
    root, limit = cache_root(os.environ), cache_limit(os.environ)
    size = f"{root}, {cache_size(root) / 2**20:.0f} MiB of at most {limit / 2**30:g} GiB"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        environment[CACHE_VARIABLE] = folder
        done = [_run([sys.executable, "-c", COMPILING_PROGRAM], environment) for _ in range(2)]
    for process in done:
        if process.returncode:
            return Finding(what, "broken", process.stderr.strip().splitlines()[-1])
    programs, hits = map(int, done[1].stdout.split())
    return Finding(what, *judged_cache(programs, hits, size))


def judged_cache(programs: int, hits: int, size: str) -> tuple[str, str]:
    """Return state and text for a process that found ``hits`` of the ``programs`` that an earlier one compiled."""
    if hits == programs:
        return "ok", f"a process finds what another compiled ({hits} of {programs}); kept in {size}"
    return "broken", (
        f"JAX refuses what another process compiled on this processor ({hits} of {programs} found; "
        "jax-ml/jax#38445): every process compiles all its programs itself, a minute in place of seconds at each "
        "start; so take more data sets a task ([shards] size), and fewer workers"
    )


def _command(what: str, command: Sequence[str]) -> Finding:
    if shutil.which(command[0]) is None:
        return Finding(what, "missing", f"no {command[0]} on the path")
    done = _run(command)
    text = (done.stdout or done.stderr).strip().splitlines()[:1] or ["no output"]
    return Finding(what, "ok" if done.returncode == 0 else "broken", text[0])


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, env=environment
    )


def _scratch() -> Finding:
    with tempfile.NamedTemporaryFile() as handle:
        handle.write(b"chainsweep")
        handle.flush()
        os.fsync(handle.fileno())
        free = shutil.disk_usage(Path(handle.name).parent).free / 2**30
        return Finding("scratch", "ok", f"{Path(handle.name).parent} is writable, {free:.0f} GiB free")


def _locks() -> Finding:
    """Return a finding on file locks: a second open file must not get a lock that the first one holds."""
    with tempfile.NamedTemporaryFile() as first, Path(first.name).open("rb+") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Finding("file locks", "ok", "held locks are respected")
    return Finding("file locks", "broken", "a held lock was given away: this file system only pretends to lock")


def _clock() -> Finding:
    """Compare the file system's clock with this machine's, because file ages decide what is up to date."""
    with tempfile.NamedTemporaryFile() as handle:
        handle.write(b"chainsweep")
        handle.flush()
        off = abs(os.fstat(handle.fileno()).st_mtime - time.time())
    state = "ok" if off < CLOCK_TOLERANCE_S else "broken"
    return Finding("file clock", state, f"{off:.1f} s from this machine's")
