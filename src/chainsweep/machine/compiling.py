"""How much this process compiles, and what its cache of compiled programs spares it: counted from JAX's own events."""

from __future__ import annotations

import threading
import time
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from chainsweep.machine.programs import ProgramFolder
from chainsweep.packages import missing

_KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace_seconds",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace_seconds",
    "/jax/core/compile/backend_compile_duration": "compile_seconds",
    "/jax/compilation_cache/cache_retrieval_time_sec": "load_seconds",
}
_COUNTS = {
    "/jax/core/compile/backend_compile_duration": "programs",
    "/jax/compilation_cache/cache_retrieval_time_sec": "cache_hits",
}
"""JAX times what it takes to get a program, compiled or loaded, and within that what loading one took."""


@dataclass(frozen=True)
class Compiled:
    """Programs that were asked for, and how many of them the cache had; seconds of all threads together."""

    programs: int = 0
    cache_hits: int = 0
    compile_seconds: float = 0.0
    """XLA's own, for the programs that the cache had not."""
    load_seconds: float = 0.0
    """Finding and reading the others."""
    trace_seconds: float = 0.0
    """From Python to what XLA compiles; each process pays it, whatever the cache has."""

    @property
    def seconds(self) -> float:
        """All three together."""
        return self.compile_seconds + self.load_seconds + self.trace_seconds

    def __add__(self, other: Compiled) -> Compiled:
        return Compiled(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Compiled) -> Compiled:
        return Compiled(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def header(self) -> dict[str, int | float]:
        """These figures for a file's header, seconds to the millisecond."""
        return {each.name: round(getattr(self, each.name), 3) for each in fields(self)}

    def __str__(self) -> str:
        return (
            f"{self.programs} programs: {self.programs - self.cache_hits} compiled in {self.compile_seconds:.1f} s, "
            f"{self.cache_hits} from the cache in {self.load_seconds:.1f} s; tracing {self.trace_seconds:.1f} s"
        )


NOTHING = Compiled()


class CompileClock:
    """What JAX has compiled since ``watch`` was first called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._sums: dict[str, Any] = dict.fromkeys((each.name for each in fields(Compiled)), 0)

    def now(self) -> Compiled:
        """The figures so far."""
        with self._lock:
            return Compiled(**self._sums)

    def listen(self, event: str, duration_secs: float, **_: object) -> None:
        """What JAX calls at the end of each event; events nest, and the time of an inner one is its own."""
        if event not in _KINDS:
            return
        kind, own, start = _KINDS[event], duration_secs, time.perf_counter() - duration_secs
        ended: list[tuple[float, float, str]] = self._of_thread.__dict__.setdefault("ended", [])
        while ended and ended[-1][0] >= start:
            inner, what = ended.pop()[1:]
            own -= inner
            if kind == "compile_seconds" and what == "load_seconds":
                kind = what  # nothing was compiled: what remains went into the key
        ended.append((start, duration_secs, kind))
        with self._lock:
            self._sums[kind] += max(own, 0.0)
            if event in _COUNTS:
                self._sums[_COUNTS[event]] += 1


@lru_cache(maxsize=1)
def watch() -> CompileClock:
    """The one clock of this process; from the first call on, the cache keeps whole programs only (``ProgramFolder``).

    To be called after ``prepare``, for it imports JAX; where that is not installed, the clock stands still.
    """
    clock = CompileClock()
    if not missing("jax"):
        import jax

        jax.monitoring.register_event_duration_secs_listener(clock.listen)
        _keep_whole_programs()
    return clock


def _keep_whole_programs() -> None:
    """Put ``ProgramFolder`` where JAX makes its cache; JAX has no public way for that.

    In a JAX that is built otherwise its own cache serves, which does not mend entries that were cut off.
    """
    import jax

    try:
        from jax._src import compilation_cache

        theirs = compilation_cache.get_file_cache
    except (ImportError, AttributeError):
        return

    def ours(path: str) -> Any:
        if "://" in path or jax.config.jax_compilation_cache_max_size != -1:  # type: ignore[attr-defined]
            return theirs(path)  # what only JAX can do: a store that is no file system, or its own limit
        return ProgramFolder(Path(path)), path

    compilation_cache.get_file_cache = ours
    compilation_cache.reset_cache()
