"""The run of one task with all its output in its log file, and its end as a value."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import ChainsweepError
from chainsweep.machine.compiling import NOTHING, CompileClock, Compiled, watch
from chainsweep.publish import open_below
from chainsweep.stages.graph import Result, Task


@dataclass(frozen=True)
class Finished:
    """The end of a task: ``result`` is the name of a Result, or None with an error and its exit code.

    ``compiled`` counts its compilations; it is zero for a task that failed.
    """

    task: Task
    result: str | None
    error: str = ""
    exit_code: int = 0
    compiled: Compiled = NOTHING


Run = Callable[[Task], Result]
"""The type of a function that carries out one task in this process."""


def run_logged(campaign: Campaign, task: Task, run: Callable[[], Result], speaker: str) -> Finished:
    """Call ``run``; its output and its end are appended to the task's log, where ``speaker`` names this process.

    Any exception, even ``sys.exit`` in a user's code, is this task's failure.
    """
    with output_to(campaign.paths.log(task.stage, task.index)):
        return _run(task, run, speaker)


def _run(task: Task, run: Callable[[], Result], speaker: str) -> Finished:
    began = time.monotonic()
    print(f"{_now()} {task.label}: started by {speaker}", flush=True)
    try:
        clock = CompileClock() if task.stage == "merge" else watch()  # a merge does not need JAX
        before = clock.now()
        result = run()
    except ChainsweepError as error:
        print(f"{_now()} {task.label}: {error} ({speaker})", flush=True)
        return Finished(task, None, str(error), error.exit_code)
    except BaseException as error:
        traceback.print_exc()
        return Finished(task, None, f"{type(error).__name__}: {error}", ChainsweepError.exit_code)
    print(f"{_now()} {task.label}: {result.value} after {time.monotonic() - began:.1f} s ({speaker})", flush=True)
    compiled = clock.now() - before
    if compiled.programs:
        print(f"{_now()} {task.label}: {compiled}", flush=True)
    return Finished(task, result.name, compiled=compiled)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append standard output and error, also those of compiled libraries, to ``log``."""
    descriptor_of_log = open_below(log.parent.parent, log, os.O_WRONLY | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(descriptor_of_log, descriptor)
        os.close(descriptor_of_log)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
