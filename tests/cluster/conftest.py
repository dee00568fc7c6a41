"""One private Slurm for the cluster tests of a test process, and the images, built from their definitions."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.private_slurm import PrivateSlurm, missing_reason

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def slurm() -> Iterator[PrivateSlurm]:
    """A running private Slurm with MaxArraySize 101; skips where Slurm is not installed."""
    if reason := missing_reason():
        pytest.skip(reason)
    # Not a folder of tmp_path_factory: a Unix socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, PrivateSlurm(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def images() -> dict[str, Path]:
    """The images that a machine without a GPU can build, up to date; skips where they cannot be built."""
    missing = [name for name in ("apptainer", "debootstrap", "make") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["make", "test-images"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return {name: ROOT / "build" / f"{name}.sif" for name in ("cpu-mpi", "jax-cpu", "torch-cpu")}
