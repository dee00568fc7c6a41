"""What a task's process must be told before the first numerical library is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"


def prepare(compiled: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Double precision, one thread a worker, and a cache of compiled programs; a user's own settings win.

    One thread, because parallel sums change the last bits of a draw with the number of threads, and because
    the workers already use every core.
    """
    environment.setdefault("JAX_ENABLE_X64", "1")
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    environment.setdefault("XLA_FLAGS", XLA_FLAGS)
    for name in SINGLE_THREADED:
        environment.setdefault(name, "1")
