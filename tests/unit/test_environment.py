"""A task's process computes with one thread, however many cores it may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SUMS = """
import os, sys
from chainsweep.execute.environment import prepare

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
