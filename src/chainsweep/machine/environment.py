"""The environment variables that a process needs before the first numerical library is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from chainsweep.machine.programs import Say, program_folder, say_on_stderr

SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
"""The variables that limit threads. ``NPROC`` is XLA's number of threads, by default one per core of the process."""
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
QUICK_COMPILING = "--xla_backend_optimization_level=1"
"""The XLA flag for machines without a GPU: it saves a third of the compile time, and programs are as fast. With a GPU
it would also apply to the GPU's kernels."""
GPU_DRIVER = Path("/dev/nvidiactl")
GPU_FLAGS = "--xla_gpu_deterministic_ops=true"
"""The XLA flag for GPUs: sums have a fixed order and kernels are not chosen by timing, so draws are reproducible."""
ON_A_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""The settings with a GPU: JAX leaves GPU memory to torch and other processes, and matrix products are in full single
precision (the default of 10 bits is too coarse for log densities)."""


def prepare(environment: MutableMapping[str, str] = os.environ, say: Say = say_on_stderr) -> None:
    """Set double precision, one thread per worker and the cache of compiled programs; a user's own settings win.

    JAX reads its settings when it is imported, so this must be called before. ``say`` is called if the cache cannot be
    used.

    There is one thread because the number of threads changes the last bits of a sum, and because the workers already
    use every core.

    Raises
    ------
    UsageError
        A variable of the cache does not hold a number.
    """
    environment.setdefault("JAX_ENABLE_X64", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in environment and (folder := program_folder(environment, say)) is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # XLA's own caches for GPUs would lie next to JAX's, and their path would be part of the key of every program.
    environment.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("XLA_FLAGS", f"{XLA_FLAGS} {GPU_FLAGS if GPU_DRIVER.exists() else QUICK_COMPILING}")
    for name, value in ON_A_GPU.items() if GPU_DRIVER.exists() else ():
        environment.setdefault(name, value)
    for name in SINGLE_THREADED:
        environment.setdefault(name, "1")


@contextmanager
def prepared() -> Iterator[None]:
    """Call ``prepare`` and undo it at the end, so that processes started afterwards do not inherit the settings."""
    before = dict(os.environ)
    prepare()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
