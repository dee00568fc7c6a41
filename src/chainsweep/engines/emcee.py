"""Affine-invariant ensembles: the walkers of all data sets of a batch in one vectorised ``emcee`` sampler.

Every data set has at least two independent ensembles. Blocks of steps alternate with looking at the chains:
during burn-in stranded walkers are moved to their own ensemble's good ones; after it a data set is done when
its kept steps exceed ``tau_factor`` autocorrelation times, R-hat between its ensembles is small and its
effective sample size large, or at ``max_steps``. What is done leaves the stack.

A draw depends on the campaign seed, the data set and the step alone (``moves.GroupStreams``), so a resumed run
continues bit for bit.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields

import emcee
import numpy as np
from numpy.typing import NDArray

from chainsweep.config import EmceeSettings as Settings
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Arrays, Chains, Deadline, DrawKind, Outcome, Seeds, Sink, Status
from chainsweep.engines.kept import Assessment, Info, Thinned, assess
from chainsweep.engines.moves import GroupStreams, ScheduledMove
from chainsweep.engines.walkers import islands, low_walkers, rescue, start_walkers
from chainsweep.errors import ModelError
from chainsweep.model.batched import BatchedProblem, Compiled
from chainsweep.model.problem import Problem

__all__ = ["Info", "Settings", "State", "run"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SECONDS_BETWEEN_LOOKS = 1.0
"""Within a block of slow steps, the deadline is asked this often."""

CHECKPOINT_SHARE = 0.05
"""Checkpoints take at most this share of the time: a large state is saved every few blocks."""


@dataclass
class State:
    """What the next step needs, for the data sets still in the stack.

    ``positions`` (dataset,) in the batch; ``coords`` ``(dataset, ensemble, walker, ndim)`` and ``log_prob``;
    ``burn_in`` (dataset,): the step after which no walker was moved by hand; ``settled`` (dataset,): burn-in is
    over; ``accepted`` ``(dataset, ensemble)``; ``moved`` (dataset,): walkers moved by hand.
    """

    step: int
    positions: Ints
    coords: Floats
    log_prob: Floats
    burn_in: Ints
    settled: NDArray[np.bool_]
    accepted: Ints
    moved: Ints
    chain: Thinned

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Let the other data sets leave."""
        for name in ("positions", "coords", "log_prob", "burn_in", "settled", "accepted", "moved"):
            setattr(self, name, getattr(self, name)[rows])
        self.chain.keep(rows)

    def arrays(self) -> Arrays:
        """As flat arrays; ``from_arrays`` is the inverse."""
        names = [field.name for field in fields(self) if field.name != "chain"]
        return {name: np.asarray(getattr(self, name)) for name in names} | self.chain.arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> State:
        """A state that was saved."""
        names = [field.name for field in fields(cls) if field.name not in ("chain", "step")]
        values = {name: np.array(arrays[name]) for name in names}
        return cls(step=int(arrays["step"]), chain=Thinned.from_arrays(arrays), **values)


class Stack:
    """The active data sets' walkers in one ``emcee`` sampler, in step with a ``State``."""

    def __init__(self, problem: BatchedProblem, settings: Settings, seeds: Seeds, walkers: int) -> None:
        ids, groups = problem.batch.ids, range(settings.ensembles)
        self.problem = problem
        self.datasets = len(ids)
        streams = GroupStreams([seeds.entropy(i, "moves", e) for i in ids for e in groups], walkers)
        self.move = ScheduledMove(settings.moves, streams, seeds.entropy("", "schedule"))
        self.sampler = emcee.EnsembleSampler(
            len(streams.keys) * walkers,
            problem.problem.ndim,
            self._flat_log_density,
            moves=self.move,
            vectorize=True,
        )

    def log_density(self, theta: Floats) -> Floats:
        """-inf wherever it is not finite; points ``(dataset, draw, ndim)``."""
        density = self.problem.log_density(theta)
        return np.where(np.isfinite(density), density, -np.inf)

    def _flat_log_density(self, points: Floats) -> Floats:
        ndim = points.shape[-1]
        return self.log_density(points.reshape(self.datasets, -1, ndim)).ravel()
