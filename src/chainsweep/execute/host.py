"""Calls of a user's likelihood that may kill its process: suspects are noted, and tried again in a guard.

An attempt that finds notes of a dead one (``suspects.py``) evaluates those data sets in a guard process, so that a
second death leaves one failed data set and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from chainsweep.campaign import Campaign
from chainsweep.execute.attempt import Attempt
from chainsweep.execute.guard import Guard, GuardDied
from chainsweep.execute.suspects import Note, Notes
from chainsweep.model.host import HostAnswer, HostCall, answer
from chainsweep.model.problem import Problem


@dataclass(eq=False)
class HostCalls:
    """The ``host_map`` of one process and campaign.

    ``dead`` maps data sets whose function killed a guard to the sentence that says so. From the first such death on
    every call of the shard is guarded, for a second culprit must not cost another attempt. ``elsewhere``, where
    set, answers in place of this process: the pool of the walkers.
    """

    root: Path
    rank: int = 0
    elsewhere: Callable[[HostCalls, Problem, Sequence[HostCall]], Iterable[HostAnswer]] | None = None
    notes: Notes | None = None
    suspects: frozenset[str] = frozenset()
    dead: dict[str, str] = field(default_factory=dict)
    _note: Note | None = None
    _guard: Guard | None = None

    def __call__(self, problem: Problem, calls: Sequence[HostCall]) -> Iterable[HostAnswer]:
        """Answer ``calls`` in order."""
        if self.elsewhere is not None:
            return self.elsewhere(self, problem, calls)
        return (self.answer(problem, call) for call in calls)

    def answer(self, problem: Problem, call: HostCall) -> HostAnswer:
        """Answer one call here, or in the guard where the data set is suspect."""
        name = call.dataset_id
        if name in self.dead:
            return HostAnswer(np.full(len(call.theta), -np.inf), self.dead[name])
        if self.dead or name in self.suspects:
            return self._guarded(call)
        if self._note is not None:
            self._note.set(name)
        return answer(problem, call)

    def _guarded(self, call: HostCall) -> HostAnswer:
        self._guard = self._guard or Guard(self.root)
        try:
            return self._guard.answer(call)
        except GuardDied as death:
            self._guard = None
            self.dead[call.dataset_id] = f"log_likelihood killed its process ({death})"
            print(f"data set {call.dataset_id}: {self.dead[call.dataset_id]}", flush=True)
            return HostAnswer(np.full(len(call.theta), -np.inf), self.dead[call.dataset_id])

    def open(self, notes: Notes, suspects: frozenset[str]) -> None:
        """Answer for the attempt of ``notes`` from now on."""
        self.close()
        self.notes, self.suspects = notes, suspects
        self._note = Note(notes.path(self.rank))

    def close(self) -> None:
        """Forget the attempt and end its guard; what was noted stays."""
        if self._note is not None:
            self._note.close()
        if self._guard is not None:
            self._guard.close()
        self._note, self._guard, self.notes, self.suspects, self.dead = None, None, None, frozenset(), {}


_CALLS: WeakKeyDictionary[Campaign, HostCalls] = WeakKeyDictionary()


def host_calls(campaign: Campaign) -> HostCalls:
    """The one map through which this process calls the campaign's black-box likelihood."""
    if campaign not in _CALLS:
        _CALLS[campaign] = HostCalls(campaign.paths.root)
    return _CALLS[campaign]


@contextmanager
def guarded_calls(campaign: Campaign, attempt: Attempt) -> Iterator[None]:
    """Within it, the likelihood of a black-box model is called for ``attempt``; notes of dead attempts are heeded."""
    if not (campaign.problem.black_box and campaign.problem.has_likelihood):
        yield
        return
    calls = host_calls(campaign)
    if campaign.problem.host_map is not calls:
        campaign.problem = replace(campaign.problem, host_map=calls)
    notes = Notes(attempt.target, attempt.number)
    calls.open(notes, notes.collect())
    try:
        yield
    finally:
        calls.close()
        notes.clear()
