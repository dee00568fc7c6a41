"""A worker process of ``chainsweep run``: takes tasks from a pipe, runs them, says how they ended.

Workers are started with ``spawn``, so a library's threads never cross a fork. They ignore Ctrl-C, which the
parent turns into ``stop``; a worker whose parent died stops at its next block boundary as well.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from chainsweep.campaign import Campaign
from chainsweep.engines.base import Deadline
from chainsweep.errors import ChainsweepError
from chainsweep.execute.environment import prepare
from chainsweep.execute.tasks import Task, find_task, run_task

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of the task."""

    task: Task
    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Finished:
    """A task ended: ``result`` is the name of a Result, or None with an error and its exit code."""

    task: Task
    result: str | None
    error: str = ""
    exit_code: int = 0


def work(root: Path, tasks: Connection, stop: Event, parent: int) -> None:
    """Run tasks until the pipe closes. Everything a task prints goes to its log file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    campaign = Campaign(root)
    prepare(campaign.paths.compiled)

    def deadline() -> bool:
        return stop.is_set() or os.getppid() != parent

    while True:
        try:
            stage, index = tasks.recv()
        except EOFError:
            return
        task = find_task(campaign, stage, index)
        _redirect_output(campaign.paths.log(stage, index))
        tasks.send(_run(campaign, task, tasks, deadline))


def _run(campaign: Campaign, task: Task, pipe: Connection, deadline: Deadline) -> Finished:
    last = 0.0

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS or done == total:
            last = time.monotonic()
            pipe.send(Progress(task, done, total, note))

    began = time.monotonic()
    print(f"{_now()} {task.label}: started by process {os.getpid()}", flush=True)
    try:
        result = run_task(campaign, task, report, deadline)
    except ChainsweepError as error:
        print(f"{_now()} {task.label}: {error}", flush=True)
        return Finished(task, None, str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        return Finished(task, None, f"{type(error).__name__}: {error}", ChainsweepError.exit_code)
    print(f"{_now()} {task.label}: {result.value} after {time.monotonic() - began:.1f} s", flush=True)
    return Finished(task, result.name)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _redirect_output(log: Path) -> None:
    """Append standard output and error, those of compiled libraries too, to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
