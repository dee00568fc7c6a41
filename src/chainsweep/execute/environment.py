"""What a task's process must be told before the first numerical library is imported."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import MutableMapping
from pathlib import Path

SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
"""``NPROC`` is XLA's: the threads that it computes with, by default one a core that the process may use."""
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
QUICK_COMPILING = "--xla_backend_optimization_level=1"
"""Where there is no GPU: a third less compiling, and programs as fast. It would hold for a GPU's kernels too."""
GPU_DRIVER = Path("/dev/nvidiactl")
GPU_FLAGS = "--xla_gpu_deterministic_ops=true"
"""Sums of a GPU's programs have one order, and no timing chooses among kernels: a draw has the same bits again."""
ON_A_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""Where there is a GPU: JAX leaves torch and other processes their share of its memory, and single precision is single
precision (by default products of matrices have 10 bits, which log densities cannot bear)."""


CPU_DESCRIPTION = Path("/proc/cpuinfo")


def machine() -> str:
    """A name for the instructions that this processor knows; programs compiled on another may crash here."""
    described = CPU_DESCRIPTION.read_text(encoding="utf-8") if CPU_DESCRIPTION.exists() else ""
    flags = next((line for line in described.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def prepare(compiled: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Double precision, one thread a worker, and a cache of compiled programs; a user's own settings win.

    JAX reads its settings when it is imported, so this comes before. ``compiled`` holds a folder for each kind of
    processor, for the nodes of a cluster may differ.

    One thread, because parallel sums change the last bits of a draw with the number of threads, and because
    the workers already use every core.
    """
    environment.setdefault("JAX_ENABLE_X64", "1")
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled / machine()))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("XLA_FLAGS", f"{XLA_FLAGS} {GPU_FLAGS if GPU_DRIVER.exists() else QUICK_COMPILING}")
    for name, value in ON_A_GPU.items() if GPU_DRIVER.exists() else ():
        environment.setdefault(name, value)
    for name in SINGLE_THREADED:
        environment.setdefault(name, "1")
