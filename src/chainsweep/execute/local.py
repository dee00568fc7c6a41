"""``chainsweep run``: every task of a campaign on this machine, in worker processes, in dependency order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from chainsweep.campaign import Campaign
from chainsweep.errors import ChainsweepError
from chainsweep.execute.compiling import NOTHING, Compiled
from chainsweep.execute.devices import Gpus
from chainsweep.execute.failures import Kind, record_failure
from chainsweep.execute.logged import Finished
from chainsweep.execute.tasks import WORK, Result, Task, is_done, target_of, tasks_of
from chainsweep.execute.worker import Device, Progress, work

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
    device: Device | None
    task: Task | None = None


class LocalRun:
    """Runs the tasks of a campaign for ``engines`` with ``workers`` processes; call ``run`` once.

    Each of ``gpus`` has one process more, which takes the tasks of their engines; the others keep to the processor.
    """

    def __init__(
        self, campaign: Campaign, engines: Sequence[str], workers: int, observer: Observer, gpus: Gpus | None = None
    ) -> None:
        self.campaign = campaign
        self.observer = observer
        self.gpus = gpus or Gpus()
        processors = [Device(None) if self.gpus.names else None] * workers
        self.places = Counter([*processors, *map(Device, self.gpus.names)])
        """How many processes there may be of each device."""
        self.waiting: dict[bool, list[Task]] = {True: [], False: []}
        """Tasks that nobody has yet: those for a GPU, and the others."""
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
        for task in tasks:
            if is_done(self.campaign, task):
                self._finish(task, Finished(task, Result.ALREADY_DONE.name))
            else:
                self.waiting[self._takes_gpu(task)].append(task)
        while any(self.waiting.values()) or any(worker.task for worker in self.workers):
            if not self.stop.is_set():
                for on_gpu in self.waiting:
                    self._hand_out(on_gpu)
            elif not any(worker.task for worker in self.workers):
                return
            self._listen()

    def _hand_out(self, on_gpu: bool) -> None:
        """Give tasks to the idle workers of GPUs, or of the processor."""
        waiting = self.waiting[on_gpu]
        while (task := next(filter(self._can_start, waiting), None)) is not None:
            worker = self._idle_worker(on_gpu)
            if worker is None:
                return
            waiting.remove(task)
            worker.task = task
            try:
                worker.pipe.send((task.stage, task.index))
            except OSError:
                self._bury(worker)

    def _can_start(self, task: Task) -> bool:
        """Whether all that it stands on has ended; where that failed, the task finds it missing and fails too."""
        return task.engine != "snpe" or not self.before.get(task.stage)

    def _takes_gpu(self, task: Task) -> bool:
        return task.stage in ("train", "infer") and task.engine in self.gpus.engines

    def _idle_worker(self, on_gpu: bool) -> _Worker | None:
        """A worker without a task, a new one where there is place; of a GPU, or of a processor."""
        for worker in self.workers:
            if worker.task is None and _on_gpu(worker.device) is on_gpu:
                return worker
        begun = Counter(worker.device for worker in self.workers)
        free = [device for device in self.places if _on_gpu(device) is on_gpu and begun[device] < self.places[device]]
        return self._new_worker(free[0]) if free else None

    def _new_worker(self, device: Device | None) -> _Worker:
        ours, theirs = self.context.Pipe()
        arguments = (self.campaign.paths.root, theirs, self.stop, os.getpid(), device)
        process = self.context.Process(target=work, args=arguments)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours, device))
        return self.workers[-1]

    def _listen(self) -> None:
        busy = {worker.pipe: worker for worker in self.workers if worker.task}
        for pipe in wait(list(busy), timeout=STOP_CHECK_SECONDS):
            worker = busy[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._bury(worker)
                continue
            if isinstance(message, Finished):
                worker.task = None
                self._finish(message.task, message)
            else:
                self.observer(message)

    def _bury(self, worker: _Worker) -> None:
        """A worker died (killed, out of memory, crashed): its task starts again from its saved state."""
        worker.process.join()
        self.workers.remove(worker)
        task = worker.task
        if task is None or self.stop.is_set():
            return
        self.deaths[task] = self.deaths.get(task, 0) + 1
        if self.deaths[task] < MAX_DEATHS:
            self.waiting[self._takes_gpu(task)].insert(0, task)
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


def _on_gpu(device: Device | None) -> bool:
    return device is not None and device.gpu is not None
