"""``chainsweep run``: every task of a campaign on this machine, in worker processes, in dependency order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from chainsweep.campaign import Campaign
from chainsweep.errors import ChainsweepError
from chainsweep.execute.compiling import NOTHING, Compiled
from chainsweep.execute.failures import Kind, record_failure
from chainsweep.execute.logged import Finished
from chainsweep.execute.tasks import WORK, Result, Task, is_done, target_of, tasks_of
from chainsweep.execute.worker import Progress, work

MAX_DEATHS = 2
"""A task whose worker died this often is given up; the others go on."""
STOP_CHECK_SECONDS = 0.25


@dataclass(frozen=True)
class Failure:
    """A task that ended with an error: what it said and the exit code that belongs to it."""

    task: Task
    error: str
    exit_code: int


@dataclass
class RunOutcome:
    """What a run came to: tasks that ran or were done before, those that failed, and whether it was stopped.

    ``compiled`` is what all its processes compiled.
    """

    done: list[Task] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    stopped: bool = False
    compiled: Compiled = NOTHING


Observer = Callable[[Progress | Finished], None]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None


class LocalRun:
    """Runs the tasks of a campaign for ``engines`` with ``workers`` processes; call ``run`` once."""

    def __init__(self, campaign: Campaign, engines: Sequence[str], workers: int, observer: Observer) -> None:
        self.campaign = campaign
        self.observer = observer
        self.count = workers
        self.outcome = RunOutcome()
        self.context = multiprocessing.get_context("spawn")
        self.stop = self.context.Event()
        self.workers: list[_Worker] = []
        self.deaths: dict[Task, int] = {}
        tasks = tasks_of(campaign)
        simulate, train = (tasks[stage] if "snpe" in engines else [] for stage in ("simulate", "train"))
        infer = [task for task in tasks["infer"] if task.engine in engines]
        self.work = [*simulate, *train, *infer]
        self.before = {"train": set(simulate), "infer": set(train)}
        """What each stage of snpe waits for: training for its simulations, inference for its training."""
        self.final = [*tasks["merge"], *tasks["report"]]

    def run(self) -> RunOutcome:
        """Run everything that is not done yet. Ctrl-C and SIGTERM save state and end with ``stopped``."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._run_stage(self.work)
            for task in self.final:
                if not self.stop.is_set():
                    self._run_stage([task])
        finally:
            for worker in self.workers:
                worker.pipe.close()
            for worker in self.workers:
                worker.process.join()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.outcome.stopped = self.stop.is_set()
        return self.outcome

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stop.is_set():
            for worker in self.workers:
                worker.process.kill()
        self.stop.set()

    def _run_stage(self, tasks: Sequence[Task]) -> None:
        waiting = []
        for task in tasks:
            if is_done(self.campaign, task):
                self._finish(task, Finished(task, Result.ALREADY_DONE.name))
            else:
                waiting.append(task)
        while waiting or any(worker.task for worker in self.workers):
            if not self.stop.is_set():
                self._hand_out(waiting)
            elif not any(worker.task for worker in self.workers):
                return
            self._listen(waiting)

    def _hand_out(self, waiting: list[Task]) -> None:
        while (task := next(filter(self._can_start, waiting), None)) is not None:
            worker = self._idle_worker()
            if worker is None:
                return
            waiting.remove(task)
            worker.task = task
            try:
                worker.pipe.send((task.stage, task.index))
            except OSError:
                self._bury(worker, waiting)

    def _can_start(self, task: Task) -> bool:
        """Whether all that it stands on has ended; where that failed, the task finds it missing and fails too."""
        return task.engine != "snpe" or not self.before.get(task.stage)

    def _idle_worker(self) -> _Worker | None:
        for worker in self.workers:
            if worker.task is None:
                return worker
        if len(self.workers) >= self.count:
            return None
        ours, theirs = self.context.Pipe()
        arguments = (self.campaign.paths.root, theirs, self.stop, os.getpid())
        process = self.context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def _listen(self, waiting: list[Task]) -> None:
        busy = {worker.pipe: worker for worker in self.workers if worker.task}
        for pipe in wait(list(busy), timeout=STOP_CHECK_SECONDS):
            worker = busy[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._bury(worker, waiting)
                continue
            if isinstance(message, Finished):
                worker.task = None
                self._finish(message.task, message)
            else:
                self.observer(message)

    def _bury(self, worker: _Worker, waiting: list[Task]) -> None:
        """A worker died (killed, out of memory, crashed): its task starts again from its saved state."""
        worker.process.join()
        self.workers.remove(worker)
        task = worker.task
        if task is None or self.stop.is_set():
            return
        self.deaths[task] = self.deaths.get(task, 0) + 1
        if self.deaths[task] < MAX_DEATHS:
            waiting.insert(0, task)
            return
        code = worker.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        error = f"its worker process died {self.deaths[task]} times, last by {how}"
        if task.stage in WORK:
            record_failure(target_of(self.campaign, task), Kind.KILLED, error, ChainsweepError.exit_code)
        self._finish(task, Finished(task, None, error, ChainsweepError.exit_code))

    def _finish(self, task: Task, message: Finished) -> None:
        self.outcome.compiled += message.compiled
        if message.result is None:
            self.outcome.failed.append(Failure(task, message.error, message.exit_code))
        elif message.result != Result.STOPPED.name:
            self.outcome.done.append(task)
        if message.result != Result.STOPPED.name:
            for before in self.before.values():
                before.discard(task)
        self.observer(message)
