"""Counts and times of the compilations of this process and of its cache of compiled programs, from JAX's events."""

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
"""The events that are counted: JAX times each program that it gets, compiled or loaded, and within that the loading."""


@dataclass(frozen=True)
class Compiled:
    """The number of programs that were asked for, the number of those in the cache, and the seconds of all threads."""

    programs: int = 0
    cache_hits: int = 0
    compile_seconds: float = 0.0
    """The time of XLA, for the programs that were not in the cache."""
    load_seconds: float = 0.0
    """The time to find and read the programs that were in the cache."""
    trace_seconds: float = 0.0
    """The time to translate Python into XLA's input; the cache does not save it."""

    @property
    def seconds(self) -> float:
        """The sum of all three times."""
        return self.compile_seconds + self.load_seconds + self.trace_seconds

    def __add__(self, other: Compiled) -> Compiled:
        return Compiled(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Compiled) -> Compiled:
        return Compiled(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def header(self) -> dict[str, int | float]:
        """Return these figures for a file's header, seconds rounded to milliseconds."""
        return {each.name: round(getattr(self, each.name), 3) for each in fields(self)}

    def __str__(self) -> str:
        return (
            f"{self.programs} programs: {self.programs - self.cache_hits} compiled in {self.compile_seconds:.1f} s, "
            f"{self.cache_hits} from the cache in {self.load_seconds:.1f} s; tracing {self.trace_seconds:.1f} s"
        )


NOTHING = Compiled()


class CompileClock:
    """A count of all that JAX has compiled since the first call of ``watch``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._sums: dict[str, Any] = dict.fromkeys((each.name for each in fields(Compiled)), 0)

    def now(self) -> Compiled:
        """Return the figures until now."""
        with self._lock:
            return Compiled(**self._sums)

    def listen(self, event: str, duration_secs: float, **_: object) -> None:
        """Record an event, called by JAX at its end; the time of a nested event is not counted for the outer one."""
        if event not in _KINDS:
            return
        kind, own, start = _KINDS[event], duration_secs, time.perf_counter() - duration_secs
        ended: list[tuple[float, float, str]] = self._of_thread.__dict__.setdefault("ended", [])
        while ended and ended[-1][0] >= start:
            inner, what = ended.pop()[1:]
            own -= inner
            if kind == "compile_seconds" and what == "load_seconds":
                kind = what  # nothing was compiled: the rest of the time was spent on the cache key
        ended.append((start, duration_secs, kind))
        with self._lock:
            self._sums[kind] += max(own, 0.0)
            if event in _COUNTS:
                self._sums[_COUNTS[event]] += 1


@lru_cache(maxsize=1)
def watch() -> CompileClock:
    """Return the one clock of this process; the first call also makes the cache keep whole programs only.

    The cache is then a ``ProgramFolder``. To be called after ``prepare``, because it imports JAX; where JAX is not
    installed, the clock counts nothing.
    """
    clock = CompileClock()
    if not missing("jax"):
        import jax

        jax.monitoring.register_event_duration_secs_listener(clock.listen)
        _keep_whole_programs()
    return clock


def _keep_whole_programs() -> None:
    """Replace the cache that JAX makes by ``ProgramFolder``, for which JAX has no public interface.

    In a JAX version with other internals JAX's own cache is used, which does not repair truncated entries.
    """
    import jax

    try:
        from jax._src import compilation_cache

        theirs = compilation_cache.get_file_cache
    except (ImportError, AttributeError):
        return

    def ours(path: str) -> Any:
        if "://" in path or jax.config.jax_compilation_cache_max_size != -1:  # type: ignore[attr-defined]
            return theirs(path)  # only JAX's own cache can use a remote store, or its own size limit
        return ProgramFolder(Path(path)), path

    compilation_cache.get_file_cache = ours
    compilation_cache.reset_cache()
