"""What a task's process must be told before the first numerical library is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from chainsweep.machine.programs import Say, program_folder, say_on_stderr

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


def prepare(environment: MutableMapping[str, str] = os.environ, say: Say = say_on_stderr) -> None:
    """Double precision, one thread a worker, and the user's cache of compiled programs; a user's own settings win.

    JAX reads its settings when it is imported, so this comes before. ``say`` is told where the cache cannot be used.

    One thread, because parallel sums change the last bits of a draw with the number of threads, and because
    the workers already use every core.

    Raises
    ------
    UsageError
        A variable of the cache holds no number.
    """
    environment.setdefault("JAX_ENABLE_X64", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in environment and (folder := program_folder(environment, say)) is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # XLA's own caches for GPUs would lie beside JAX's, and their path would be part of the key of every program.
    environment.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("XLA_FLAGS", f"{XLA_FLAGS} {GPU_FLAGS if GPU_DRIVER.exists() else QUICK_COMPILING}")
    for name, value in ON_A_GPU.items() if GPU_DRIVER.exists() else ():
        environment.setdefault(name, value)
    for name in SINGLE_THREADED:
        environment.setdefault(name, "1")


@contextmanager
def prepared() -> Iterator[None]:
    """``prepare`` for a while: what this process starts afterwards, such as jobs elsewhere, is not told the same."""
    before = dict(os.environ)
    prepare()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
