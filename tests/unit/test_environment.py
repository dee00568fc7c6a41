"""A task's process computes with one thread, however many cores it may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chainsweep.machine import environment

SUMS = """
import os, sys
from chainsweep.machine.environment import prepare

cores, threads = int(sys.argv[1]), sys.argv[2:]
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
prepare()
if threads:
    os.environ["NPROC"] = threads[0]
import hashlib, jax, numpy as np

rng = np.random.default_rng(0)
weights, points = rng.random(40000), rng.standard_normal((40000, 5))
sums = jax.jit(lambda w, z: (w @ z, (z * w[:, None]).T @ z))(weights, points)
print(hashlib.sha256(b"".join(np.asarray(each).tobytes() for each in sums)).hexdigest())
"""


def sums(folder, *arguments: object) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
    clean["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    line = [sys.executable, "-c", SUMS, *map(str, arguments)]
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=120, env=clean).stdout


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing to compare")
def test_the_number_of_cores_changes_no_bit_of_a_sum(tmp_path):
    one, two, threaded = sums(tmp_path, 1), sums(tmp_path, 2), sums(tmp_path, 2, 2)
    assert one == two
    assert threaded != one, "two threads give the same bits: the setting is no longer needed"


def test_a_gpu_gets_its_own_settings_and_a_user_s_win(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "GPU_DRIVER", tmp_path)
    found = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "CHAINSWEEP_CACHE": str(tmp_path)}
    environment.prepare(found)
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    assert found["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert "deterministic" in found["XLA_FLAGS"]
    assert "optimization_level" not in found["XLA_FLAGS"]
    monkeypatch.setattr(environment, "GPU_DRIVER", tmp_path / "none")
    found = {"CHAINSWEEP_CACHE": str(tmp_path)}
    environment.prepare(found)
    assert "JAX_DEFAULT_MATMUL_PRECISION" not in found
    assert "xla_gpu" not in found["XLA_FLAGS"]


def test_xla_knows_the_flags_of_a_gpu():
    """XLA ends the process at a flag that it does not know."""
    flags = {"XLA_FLAGS": f"{environment.XLA_FLAGS} {environment.GPU_FLAGS}"}
    line = [sys.executable, "-c", "import jax; jax.numpy.ones(3).sum()"]
    assert subprocess.run(line, env=os.environ | flags, timeout=120, check=False).returncode == 0
    wrong = {"XLA_FLAGS": f"{environment.GPU_FLAGS}_misspelt"}
    assert subprocess.run(line, env=os.environ | wrong, timeout=120, check=False, capture_output=True).returncode != 0
