"""The execution of tasks on the ranks of one job: data sets over ranks, or walkers over ranks.

*Data sets over ranks* (cheap likelihoods): each rank takes the next task from rank 0 whenever it is done with one. A
task is a shard of the campaign, so the number of ranks changes no draw. *Walkers over ranks* (costly ones):
``run/mpi/walker_pool.py``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.base import Deadline
from chainsweep.errors import StoppedEarly
from chainsweep.run.logged import Finished, Run, run_logged
from chainsweep.run.mpi.ranks import Link, Ranks
from chainsweep.stages.graph import Result, Task

Form = Literal["datasets", "walkers"]

REQUEST, REPLY, OUTCOMES = 1, 2, 3
POLL_SECONDS = 0.02
"""The seconds between two looks of rank 0 for requests while it computes too."""


def run_tasks(
    campaign: Campaign,
    tasks: Sequence[Task],
    run: Run,
    deadline: Deadline,
    ranks: Ranks,
    form: Form,
) -> list[Finished]:
    """Run ``tasks`` on all ranks of the job; every rank calls it and gets the ends of all tasks, in their order.

    ``run`` carries out one task in this process; it stops early when ``deadline`` says so.

    A task that fails does not affect the others. No rank returns before every rank has ended its tasks, so that no exit
    cuts off a rank that still saves its state. Tasks that were not begun when ``deadline`` came count as stopped.
    """
    if ranks.link is None:
        ended = {}
        for task in tasks:
            if deadline():
                break
            ended[task] = run_logged(campaign, task, partial(run, task), _speaker(ranks))
    elif form == "walkers":
        # Imported here because it imports JAX, which reads its settings when it is imported.
        from chainsweep.run.mpi.walker_pool import run_over_walkers

        ended = run_over_walkers(campaign, tasks, run, deadline, ranks.link, _speaker(ranks))
        ended = _shared(ranks.link, ended)
    else:
        ended = _over_datasets(campaign, tasks, run, deadline, ranks)
    return [ended.get(task, Finished(task, Result.STOPPED.name)) for task in tasks]


def exit_code(ended: Sequence[Finished]) -> int:
    """Return 0 if all is done, 75 if a task was stopped or merged only a part, else the code of the first failure."""
    partly = (Result.STOPPED.name, Result.INCOMPLETE.name)
    if any(one.result in partly or one.exit_code == StoppedEarly.exit_code for one in ended):
        return StoppedEarly.exit_code
    return next((one.exit_code for one in ended if one.exit_code), 0)


def _speaker(ranks: Ranks) -> str:
    process = f"process {os.getpid()}"
    return process if ranks.size == 1 else f"rank {ranks.rank} of {ranks.size}, {process}"


class _Dealer:
    """The list of tasks on rank 0, handed out in order; a thread answers the other ranks while rank 0 computes."""

    def __init__(self, ranks: Ranks, link: Link, tasks: Sequence[Task], deadline: Deadline) -> None:
        self.ranks, self.link, self.tasks, self.deadline = ranks, link, list(tasks), deadline
        self.lock = threading.Lock()
        self.ended: dict[Task, Finished] = {}
        self.thread = threading.Thread(target=self._answer_requests, name="dealer", daemon=True)
        self.thread.start()

    def next_task(self, finished: Finished | None) -> Task | None:
        """Record a task's end, and return the next task, or None if there is none or the time is over."""
        with self.lock:
            if finished is not None:
                self.ended[finished.task] = finished
            return self.tasks.pop(0) if self.tasks and not self.deadline() else None

    def _answer_requests(self) -> None:
        working = self.link.size - 1
        # without answers the other ranks would wait for ever
        with self.ranks.together():
            while working:
                if not self.link.waiting(REQUEST):
                    time.sleep(POLL_SECONDS)
                    continue
                rank, finished = self.link.recv(tag=REQUEST)
                task = self.next_task(finished)
                working -= task is None
                self.link.send(task, rank, REPLY)

    def wait(self) -> dict[Task, Finished]:
        """Wait until no rank has a task left, and return the ends of all tasks."""
        self.thread.join()
        return self.ended


def _over_datasets(
    campaign: Campaign, tasks: Sequence[Task], run: Run, deadline: Deadline, ranks: Ranks
) -> dict[Task, Finished]:
    link = ranks.link
    assert link is not None
    dealer = _Dealer(ranks, link, tasks, deadline) if link.rank == 0 else None
    finished: Finished | None = None
    while True:
        if dealer is not None:
            task = dealer.next_task(finished)
        else:
            link.send((link.rank, finished), 0, REQUEST)
            task = link.recv(source=0, tag=REPLY)
        if task is None:
            return _shared(link, dealer.wait() if dealer is not None else {})
        finished = run_logged(campaign, task, partial(run, task), _speaker(ranks))


def _shared(link: Link, ended: dict[Task, Finished]) -> dict[Task, Finished]:
    """Send the ends that rank 0 knows to every rank, and return them."""
    if link.rank != 0:
        known: dict[Task, Finished] = link.recv(source=0, tag=OUTCOMES)
        return known
    for rank in range(1, link.size):
        link.send(ended, rank, OUTCOMES)
    return ended
