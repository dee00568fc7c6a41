"""The pool of ranks that share walkers: rank 0 runs the engine, and all ranks call the user's costly likelihood.

Messages hold parameters only, worth some milliseconds of work, because every rank has read campaign and data itself.
Answers, also failures, come back as values, so schwimmbad's pool never sees an exception.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chainsweep.black_box.host import HostCalls, host_calls
from chainsweep.black_box.suspects import Notes
from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.base import Deadline
from chainsweep.errors import ChainsweepError, UsageError
from chainsweep.model.host import BlackBox, Floats, HostAnswer, HostCall, combined
from chainsweep.run.logged import Finished, Run, output_to, run_logged
from chainsweep.run.mpi.ranks import Link
from chainsweep.stages.graph import Result, Task

MESSAGE_SECONDS = 0.005
"""The least work of a message in seconds; a message itself costs some tenths of a millisecond."""
MESSAGES_PER_RANK = 4
"""The number of messages of one map for each rank, until a call has been timed."""
SWITCH_SECONDS = 0.0005
"""The longest time that the thread which serves the other ranks waits for Python's lock while rank 0 calls the
likelihood."""


@dataclass(frozen=True)
class WalkerRows:
    """The rows of one call. ``fields`` is None if they are the campaign's, which every rank has read."""

    dataset_id: str
    theta: Floats
    fields: Mapping[str, Any] | None


@dataclass(frozen=True)
class WalkerOrder:
    """The content of one message: ``parts`` for the attempt of ``notes``, guarded as ``suspects`` and ``dead`` say.

    Output during its execution goes to ``log``.
    """

    log: Path
    notes: Notes | None
    suspects: frozenset[str]
    dead: dict[str, str]
    parts: tuple[WalkerRows, ...]


@dataclass(frozen=True)
class Reply:
    """The answers to the parts of an order with the new deaths of guards, or the reason why there are none."""

    answers: tuple[HostAnswer, ...] = ()
    dead: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


class Server:
    """The side of one rank in the pool."""

    def __init__(self, campaign: Campaign, rank: int) -> None:
        self.campaign, self.rank = campaign, rank
        self.fields: dict[str, Mapping[str, Any]] = {}
        self.calls: HostCalls | None = None

    def reply(self, order: WalkerOrder) -> Reply:
        """Carry out an order; an exception is returned as a value."""
        with output_to(order.log):
            return self._guarded_reply(order)

    def _guarded_reply(self, order: WalkerOrder) -> Reply:
        try:
            return self._reply(order)
        except BaseException as error:
            traceback.print_exc()
            return Reply(error=f"rank {self.rank}: {type(error).__name__}: {error}")

    def _reply(self, order: WalkerOrder) -> Reply:
        calls = self._calls_of(order)
        began = time.perf_counter()
        answers = tuple(calls.answer(self.campaign.problem, self._call(part)) for part in order.parts)
        seconds = time.perf_counter() - began
        return Reply(answers, {name: why for name, why in calls.dead.items() if name not in order.dead}, seconds)

    def _calls_of(self, order: WalkerOrder) -> HostCalls:
        if self.calls is None:
            self.calls = host_calls(self.campaign)
            self.calls.rank = self.rank
        if order.notes is None:
            self.calls.close()
        elif self.calls.notes != order.notes:
            self.fields.clear()
            self.calls.open(order.notes, order.suspects)
        self.calls.dead |= order.dead
        return self.calls

    def _call(self, part: WalkerRows) -> HostCall:
        if part.fields is not None:
            return HostCall(part.dataset_id, part.theta, part.fields, frozen=False)
        if part.dataset_id not in self.fields:
            fields, constants = self.campaign.dataset(part.dataset_id)
            self.fields[part.dataset_id] = {name: np.array(value) for name, value in fields.items()} | constants
        return HostCall(part.dataset_id, part.theta, self.fields[part.dataset_id])


_SERVER: list[Server] = []


def serve(order: WalkerOrder) -> Reply:
    """Answer an order on a rank; the pool sends the name of this function, and no object of the campaign."""
    return _SERVER[0].reply(order)


class PoolMap:
    """The side of rank 0: cuts calls into messages, maps them over the pool, and joins the answers."""

    def __init__(self, pool: Any, log: Path) -> None:
        self.pool, self.log = pool, log
        self.ranks: int = pool.size + 1
        self.seconds_per_row: float | None = None

    def __call__(self, host: HostCalls, problem: BlackBox, calls: Sequence[HostCall]) -> list[HostAnswer]:
        """Answer ``calls`` in order, for the attempt that ``host`` is open for.

        Raises
        ------
        ChainsweepError
            A rank cannot answer any call.
        """
        if not calls:
            return []
        total = sum(len(call.theta) for call in calls)
        owners, messages = cut(calls, self._rows(total))
        mine = len(messages) // self.ranks
        orders = [WalkerOrder(self.log, host.notes, host.suspects, dict(host.dead), parts) for parts in messages[mine:]]
        with quick_switches(), ThreadPoolExecutor(1) as beside:
            theirs = beside.submit(self.pool.map, serve, orders)
            replies = [own_reply(host, problem, calls, owners, messages[:mine]), *theirs.result()]
        for reply in replies:
            if reply.error:
                raise ChainsweepError(f"a rank could not evaluate the likelihood: {reply.error}")
            host.dead.update(reply.dead)
        self._learn(sum(reply.seconds for reply in replies) / total)
        gathered: list[list[HostAnswer]] = [[] for _ in calls]
        answers = [answer for reply in replies for answer in reply.answers]
        for owner, answer in zip(owners, answers, strict=True):
            gathered[owner].append(answer)
        return [combined(parts) for parts in gathered]

    def _rows(self, total: int) -> int:
        """Return the rows of one message: as few as are worth one, so that a slow point delays few others."""
        if self.seconds_per_row is None:
            return -(-total // (self.ranks * MESSAGES_PER_RANK))
        worthwhile = int(np.ceil(MESSAGE_SECONDS / max(self.seconds_per_row, 1e-9)))
        return min(worthwhile, -(-total // self.ranks))

    def _learn(self, seconds_per_row: float) -> None:
        before = self.seconds_per_row
        self.seconds_per_row = seconds_per_row if before is None else 0.8 * before + 0.2 * seconds_per_row


@contextmanager
def quick_switches() -> Iterator[None]:
    """Let Python's threads take turns every ``SWITCH_SECONDS`` within this context."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def own_reply(
    host: HostCalls, problem: BlackBox, calls: Sequence[HostCall], owners: Sequence[int], messages: Sequence[tuple]
) -> Reply:
    """Answer the first messages on this rank; ``owners`` says which call each of their parts belongs to."""
    began = time.perf_counter()
    parts = [part for message in messages for part in message]
    asked = [replace(calls[owner], theta=part.theta) for owner, part in zip(owners, parts, strict=False)]
    return Reply(tuple(host.answer(problem, call) for call in asked), seconds=time.perf_counter() - began)


def cut(calls: Sequence[HostCall], rows: int) -> tuple[list[int], list[tuple[WalkerRows, ...]]]:
    """Cut calls into messages of ``rows`` rows; return the call of each part, and the parts of each message."""
    owners: list[int] = []
    messages: list[tuple[WalkerRows, ...]] = []
    parts: list[WalkerRows] = []
    room = rows
    for owner, call in enumerate(calls):
        start = 0
        while start < len(call.theta):
            taken = min(room, len(call.theta) - start)
            parts.append(
                WalkerRows(call.dataset_id, call.theta[start : start + taken], None if call.frozen else call.fields)
            )
            owners.append(owner)
            start, room = start + taken, room - taken
            if room == 0:
                messages.append(tuple(parts))
                parts, room = [], rows
    return owners, [*messages, tuple(parts)] if parts else messages


def run_over_walkers(
    campaign: Campaign,
    tasks: Sequence[Task],
    run: Run,
    deadline: Deadline,
    link: Link,
    speaker: str,
) -> dict[Task, Finished]:
    """Run ``tasks`` one after the other; rank 0 returns their ends, the others serve it meanwhile and return none."""
    from schwimmbad import MPIPool

    _SERVER[:] = [Server(campaign, link.rank)]
    try:
        pool = MPIPool(comm=link)
    except SystemExit:
        # a serving rank returns here when the pool has closed
        return {}
    ended: dict[Task, Finished] = {}
    calls = host_calls(campaign)

    def run_pooled(task: Task) -> Result:
        if not campaign.problem.black_box:
            raise UsageError(
                "--form walkers spreads calls of a black-box log_likelihood over ranks; this model's likelihood is "
                f"compiled and takes all walkers in one call: use --form datasets, or [engines.{task.engine}] spread"
            )
        calls.elsewhere = PoolMap(pool, campaign.paths.log(task.stage, task.index))
        return run(task)

    for task in tasks:
        if deadline():
            break
        ended[task] = run_logged(campaign, task, partial(run_pooled, task), speaker)
    calls.elsewhere = None
    pool.close()
    # the pool closes itself again when Python exits, which is after MPI has ended
    pool.workers = set()
    return ended
