"""Calls of a user's functions, which may kill their process or never return; a guard process answers those at risk.

An attempt that finds notes of a dead one (``suspects.py``) evaluates those data sets in a guard process, so that a
second death leaves one failed data set and nothing else. Where ``[model] call_timeout_s`` limits calls, all of them are
answered there: only another process can end a call that does not return.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from chainsweep.black_box.guard import Guard, GuardDied, GuardOverran
from chainsweep.black_box.suspects import Note, Notes
from chainsweep.campaign.campaign import Campaign
from chainsweep.model.failing import Failing
from chainsweep.model.host import BlackBox, HostAnswer, HostCall, answer, unanswered
from chainsweep.tasks.attempt import Attempt

LOST_SIMULATIONS = 8
"""The number of simulations of one design that may kill their process or not end before that design is given up."""


@dataclass(eq=False)
class HostCalls:
    """The ``host_map`` of one process and campaign.

    ``dead`` maps data sets whose function killed a guard, or took longer than ``limit_s``, to the sentence that says
    so. After the first such death every call of the shard is guarded, so that a second such data set does not cost
    another attempt. ``elsewhere``, where set, answers likelihoods in place of this process: the pool of the walkers.
    """

    root: Path
    limit_s: float | None = None
    rank: int = 0
    elsewhere: Callable[[HostCalls, BlackBox, Sequence[HostCall]], Iterable[HostAnswer]] | None = None
    notes: Notes | None = None
    suspects: frozenset[str] = frozenset()
    dead: dict[str, str] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    _note: Note | None = None
    _guard: Guard | None = None

    def __call__(self, problem: BlackBox, calls: Sequence[HostCall]) -> Iterable[HostAnswer]:
        """Answer ``calls`` in order."""
        if self.elsewhere is not None and all(call.simulation is None for call in calls):
            return self.elsewhere(self, problem, calls)
        return (self.answer(problem, call) for call in calls)

    def answer(self, problem: BlackBox, call: HostCall) -> HostAnswer:
        """Answer one call here, or in the guard where calls have a time limit or the data set is a suspect."""
        name = call.dataset_id
        if name in self.dead:
            return unanswered(call, self.dead[name])
        if self._note is not None:
            self._note.set(name)
        if self.limit_s is not None or self.lost or self.dead or name in self.suspects:
            return self._guarded(problem, call)
        return answer(problem, call)

    def _guarded(self, problem: BlackBox, call: HostCall) -> HostAnswer:
        self._guard = self._guard or Guard(self.root)
        try:
            return self._guard.answer(call, self.limit_s)
        except GuardDied as death:
            failure = f"{call.function}{Failing.DIED}({death})"
        except GuardOverran as late:
            point = zip(problem.names, np.asarray(call.theta)[late.row], strict=True)
            failure = (
                f"{call.function}{Failing.OVERRAN}= {self.limit_s:g} s for data set "
                f"{call.dataset_id}, and its process was ended; at {', '.join(f'{n} = {v:.6g}' for n, v in point)}"
            )
        self._guard = None
        self.lost[call.dataset_id] += 1
        if call.simulation is None or self.lost[call.dataset_id] >= LOST_SIMULATIONS:
            self.dead[call.dataset_id] = failure
        print(f"data set {call.dataset_id}: {failure}", flush=True)
        return unanswered(call, failure)

    def open(self, notes: Notes | None, suspects: frozenset[str]) -> None:
        """Answer for the attempt of ``notes`` until ``close``; with None there is no attempt and nothing is noted."""
        self.close()
        self.notes, self.suspects = notes, suspects
        self._note = None if notes is None else Note(notes.path(self.rank))

    def close(self) -> None:
        """Forget the attempt and end its guard; the notes on disk stay."""
        if self._note is not None:
            self._note.close()
        if self._guard is not None:
            self._guard.close()
        self._note, self._guard, self.notes, self.suspects = None, None, None, frozenset()
        self.dead, self.lost = {}, Counter()


_CALLS: WeakKeyDictionary[Campaign, HostCalls] = WeakKeyDictionary()


def host_calls(campaign: Campaign) -> HostCalls:
    """The one map through which this process calls the campaign's black-box functions."""
    if campaign not in _CALLS:
        _CALLS[campaign] = HostCalls(campaign.paths.root, campaign.config.model.call_timeout_s)
    return _CALLS[campaign]


@contextmanager
def guarded_calls(campaign: Campaign, attempt: Attempt | None = None) -> Iterator[None]:
    """Call the functions of a black-box model for ``attempt`` within this context, and heed notes of dead attempts.

    With ``attempt=None`` the work is not attempted again, so no notes are made; the time limit of a call still holds.
    """
    if not campaign.problem.black_box:
        yield
        return
    calls = host_calls(campaign)
    if campaign.problem.host_map is not calls:
        campaign.problem = replace(campaign.problem, host_map=calls)
    notes = None if attempt is None else Notes(attempt.target, attempt.number)
    calls.open(notes, frozenset() if notes is None else notes.collect())
    try:
        yield
    finally:
        calls.close()
        if notes is not None:
            notes.clear()
