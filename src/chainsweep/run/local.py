"""``chainsweep run``: every task of a campaign on this machine, in worker processes, in dependency order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from chainsweep.black_box.suspects import in_call
from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import ChainsweepError
from chainsweep.machine.compiling import NOTHING, Compiled
from chainsweep.machine.devices import Gpus
from chainsweep.machine.ending import GRACE_SECONDS, KEPT, SECOND_SIGNAL_SECONDS, end_tree
from chainsweep.publish import open_below
from chainsweep.run.logged import Finished
from chainsweep.run.worker import Device, Flag, TaskProgress, work
from chainsweep.stages.graph import WORK, Result, Task, is_done, target_of, tasks_of
from chainsweep.tasks.failures import Kind, record_failure

MAX_DEATHS = 2
"""The number of deaths of its worker after which a task is given up; the other tasks go on."""
STOP_CHECK_SECONDS = 0.25
END_SECONDS = 5.0
"""The seconds that ``run`` waits for the end of a worker that has no task any more or was killed."""


@dataclass(frozen=True)
class FailedTask:
    """The failure of a task: the text of its error and the exit code that belongs to it."""

    task: Task
    error: str
    exit_code: int


@dataclass
class RunOutcome:
    """The outcome of a run: tasks that ran or were done before, tasks that failed, and whether the run was stopped.

    ``killed`` has a sentence on each task that did not stop; ``compiled`` counts the compilations of all processes.
    """

    done: list[Task] = field(default_factory=list)
    failed: list[FailedTask] = field(default_factory=list)
    stopped: bool = False
    killed: list[str] = field(default_factory=list)
    compiled: Compiled = NOTHING


Observer = Callable[[TaskProgress | Finished], None]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: Device | None
    task: Task | None = None


class LocalRun:
    """A run of the tasks of a campaign for ``engines`` with ``workers`` processes; call ``run`` once.

    Each of ``gpus`` has one additional process, which takes the tasks of the GPUs' engines; the others use the CPU.
    """

    def __init__(
        self, campaign: Campaign, engines: Sequence[str], workers: int, observer: Observer, gpus: Gpus | None = None
    ) -> None:
        self.campaign = campaign
        self.observer = observer
        self.gpus = gpus or Gpus()
        processors = [Device(None) if self.gpus.names else None] * workers
        self.places = Counter([*processors, *map(Device, self.gpus.names)])
        """The largest number of processes on each device."""
        self.waiting: dict[bool, list[Task]] = {True: [], False: []}
        """The tasks that no worker has yet: under True those for a GPU, under False the others."""
        self.outcome = RunOutcome()
        self.context = multiprocessing.get_context("spawn")
        self.stop: Flag = self.context.RawValue("b", 0)
        self.stopped_at: float | None = None
        """The time at which the first signal came or was noticed; None before."""
        self.told_twice = False
        self.workers: list[_Worker] = []
        self.deaths: dict[Task, int] = {}
        tasks = tasks_of(campaign)
        simulate, train, infer = ([task for task in tasks[stage] if task.engine in engines] for stage in WORK)
        self.work = [*simulate, *train, *infer]
        self.before = {"train": set(simulate), "infer": set(train)}
        """The tasks of the same engine that a stage waits for: training for simulations, inference for training."""
        self.final = [*tasks["merge"], *tasks["report"]]

    def run(self) -> RunOutcome:
        """Run every task that is not done yet. Ctrl-C and SIGTERM save state and end with ``stopped``.

        A task that has not stopped ``GRACE_SECONDS`` after the first signal is killed; at a second signal all are.
        """
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._run_stage(self.work)
            for task in self.final:
                if not self.stop.value:
                    self._run_stage([task])
        finally:
            for worker in self.workers:
                worker.pipe.close()
            ends = time.monotonic() + END_SECONDS
            for worker in self.workers:
                worker.process.join(max(0.0, ends - time.monotonic()))
                if worker.process.is_alive():
                    end_tree(_pid(worker))
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.outcome.stopped = bool(self.stop.value)
        return self.outcome

    def _on_signal(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.stopped_at is None:
            self.stopped_at = now
        self.told_twice |= now - self.stopped_at > SECOND_SIGNAL_SECONDS
        self.stop.value = 1

    def _end_late(self) -> None:
        """Kill the tasks that have not stopped within the grace time, or before a second signal."""
        if not self.stop.value:
            return
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
        if self.told_twice:
            how = "was told to stop twice"
        elif time.monotonic() - self.stopped_at > GRACE_SECONDS:
            how = f"had not stopped {GRACE_SECONDS:g} s after the signal"
        else:
            return
        for worker in [worker for worker in self.workers if worker.task]:
            self._kill(worker, how)

    def _kill(self, worker: _Worker, how: str) -> None:
        task = worker.task
        assert task is not None
        end_tree(_pid(worker))
        called = in_call(target_of(self.campaign, task)) if task.stage in WORK else []
        where = f" in a call for data set {', '.join(called)} ([model] call_timeout_s limits calls)" if called else ""
        line = f"{task.label} {how}{where} and was killed; {KEPT}"
        self.outcome.killed.append(line)
        log = self.campaign.paths.log(task.stage, task.index)
        if log.exists():
            opened = open_below(self.campaign.paths.root, log, os.O_WRONLY | os.O_APPEND)
            with os.fdopen(opened, "a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        self._bury(worker)

    def _run_stage(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if is_done(self.campaign, task):
                self._finish(task, Finished(task, Result.ALREADY_DONE.name))
            else:
                self.waiting[self._takes_gpu(task)].append(task)
        while any(self.waiting.values()) or any(worker.task for worker in self.workers):
            if not self.stop.value:
                for on_gpu in self.waiting:
                    self._hand_out(on_gpu)
            elif not any(worker.task for worker in self.workers):
                return
            self._listen()
            self._end_late()

    def _hand_out(self, on_gpu: bool) -> None:
        """Give tasks to the idle workers of GPUs, or of the CPU."""
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
        """Return True if all tasks that this one depends on have ended; where one failed, this one will fail too."""
        return all(earlier.engine != task.engine for earlier in self.before.get(task.stage, ()))

    def _takes_gpu(self, task: Task) -> bool:
        return task.stage in ("train", "infer") and task.engine in self.gpus.engines

    def _idle_worker(self, on_gpu: bool) -> _Worker | None:
        """Return a worker without a task, a new one if there is place, of a GPU or of the CPU; None if all are busy."""
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
        """Handle the death of a worker (killed, out of memory, crashed): its task restarts from its saved state."""
        worker.process.join(END_SECONDS)
        self.workers.remove(worker)
        task = worker.task
        if task is None or self.stop.value:
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
            self.outcome.failed.append(FailedTask(task, message.error, message.exit_code))
        elif message.result != Result.STOPPED.name:
            self.outcome.done.append(task)
        if message.result != Result.STOPPED.name:
            for before in self.before.values():
                before.discard(task)
        self.observer(message)


def _on_gpu(device: Device | None) -> bool:
    return device is not None and device.gpu is not None


def _pid(worker: _Worker) -> int:
    assert worker.process.pid is not None
    return worker.process.pid
