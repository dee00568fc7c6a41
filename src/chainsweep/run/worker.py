"""A worker process of ``chainsweep run``: takes tasks from a pipe, runs them, and reports their ends.

Workers are started with ``spawn``, so a library's threads never cross a fork. They ignore Ctrl-C, which the
parent turns into ``stop``; a worker whose parent died stops at its next block boundary as well.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.base import Deadline
from chainsweep.machine.devices import hold_to
from chainsweep.machine.environment import prepare
from chainsweep.run.logged import Finished, run_logged
from chainsweep.run.requeue import run_afresh
from chainsweep.stages.graph import Task, find_task, run_task

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class TaskProgress:
    """The progress of a task: ``done`` of ``total`` units."""

    task: Task
    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Device:
    """The device that a worker computes on: the ``gpu`` of this name, or with None the CPU."""

    gpu: str | None


class Flag(Protocol):
    """A number in memory that processes share, without a lock, which a process that dies would never release."""

    value: int


def work(root: Path, tasks: Connection, stop: Flag, parent: int, device: Device | None) -> None:
    """Run tasks until the pipe closes, on ``device`` (None: any device). A task's output goes to its log."""
    if device is not None:
        hold_to(device.gpu)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def on_signal(number: int, frame: Any) -> None:
        stop.value = 1

    signal.signal(signal.SIGTERM, on_signal)
    campaign = Campaign(root)
    prepare()

    def deadline() -> bool:
        return bool(stop.value) or os.getppid() != parent

    while True:
        try:
            stage, index = tasks.recv()
        except EOFError:
            return
        task = find_task(campaign, stage, index)
        tasks.send(_run(campaign, task, tasks, deadline))


def _run(campaign: Campaign, task: Task, pipe: Connection, deadline: Deadline) -> Finished:
    last = 0.0

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS or done == total:
            last = time.monotonic()
            pipe.send(TaskProgress(task, done, total, note))

    run = partial(run_afresh, campaign, task, partial(run_task, campaign, task, report, deadline))
    return run_logged(campaign, task, run, f"process {os.getpid()}")
