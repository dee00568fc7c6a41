"""The walkers of many data sets as one vectorised ``emcee`` sampler, and the state that resumes it.

The random numbers of a step depend on the campaign seed, the data set, the ensemble and the number of the step alone
(``GroupStreams``): the other data sets in the stack change no draw, and the walkers, their log densities and the number
of steps are all that a later attempt needs to continue with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import emcee
import numpy as np
from emcee.moves import Move

from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.engines.emcee.chain import Thinned, packed_chains, unpacked_chains
from chainsweep.engines.emcee.density import StackDensity, padded_to_chunks
from chainsweep.engines.emcee.independence_move import IndependenceMove
from chainsweep.engines.emcee.moves import GroupStreams, ScheduledMove
from chainsweep.engines.emcee.settings import EmceeSettings
from chainsweep.errors import ModelError
from chainsweep.importance.global_proposal import MOST_DIMENSIONS, GlobalProposal
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Bools, Floats, Ints
from chainsweep.numerics.seeds import Seeds

SECONDS_BETWEEN_LOOKS = 1.0
"""The time between two looks at the deadline within a block of slow steps."""

INDEPENDENCE = "jump"
PLAIN_MOVES = {"de": 0.6, "snooker": 0.1, "stretch": 0.3}
MOVES_WITH_INDEPENDENCE = {INDEPENDENCE: 0.5} | {name: 0.5 * share for name, share in PLAIN_MOVES.items()}
"""The moves of models with a global proposal: half of them independence steps, the others as without one."""

WAITING = -1
LEAST_PERIOD = 100
"""The least number of steps after which the schedule of moves repeats, so that rare moves have their share."""

PROPOSAL_PREFIX = "guide_"
"""The prefix of the global proposal's arrays in a saved state."""


@dataclass
class State:
    """The state of the data sets that are not done: all that the next step needs.

    ``now`` counts the steps of the whole stack. ``positions`` ``(dataset,)`` are those in the batch; ``coords``
    ``(dataset, ensemble, walker, ndim)`` are the walkers and ``log_prob`` their log densities; ``entered``
    ``(dataset,)`` is the step of the stack at which a data set came in, ``WAITING`` before; ``burn_in`` ``(dataset,)``
    is its own step at which stuck walkers were last moved, or its proposal fitted again; ``settled`` ``(dataset,)`` is
    True once no walkers will be moved any more; ``accepted`` ``(dataset, ensemble)`` counts moves and ``moved``
    ``(dataset,)`` moved walkers; ``chains`` has one entry for each data set; ``proposal`` is that of all of them, None
    where there are no independence steps.
    """

    now: int
    positions: Ints
    coords: Floats
    log_prob: Floats
    entered: Ints
    burn_in: Ints
    settled: Bools
    accepted: Ints
    moved: Ints
    seconds: Floats
    chains: list[Thinned]
    proposal: GlobalProposal | None

    @classmethod
    def at_start(
        cls, positions: Ints, coords: Floats, log_prob: Floats, seconds: float, proposal: GlobalProposal | None = None
    ) -> State:
        """The state before the first step."""
        n = len(positions)
        zeros = np.zeros(n, dtype=np.int64)
        return cls(
            now=0,
            positions=positions,
            coords=coords,
            log_prob=log_prob,
            entered=np.full(n, WAITING, dtype=np.int64),
            burn_in=zeros,
            settled=np.zeros(n, dtype=bool),
            accepted=np.zeros(coords.shape[:2], dtype=np.int64),
            moved=zeros.copy(),
            seconds=np.full(n, seconds / max(n, 1)),
            chains=[Thinned.empty(coords.shape[1:]) for _ in range(n)],
            proposal=proposal,
        )

    @property
    def active(self) -> Ints:
        """The rows of the data sets in the stack."""
        return np.flatnonzero(self.entered != WAITING)

    def steps(self, rows: Ints) -> Ints:
        """The number of steps that the data sets ``rows``, which are in the stack, have made."""
        return self.now - self.entered[rows]

    def admit(self, most: int, period: int) -> None:
        """Let waiting data sets into the stack, at most ``most`` in all, where the schedule of moves begins again."""
        active, waiting = self.active, np.flatnonzero(self.entered == WAITING)
        if not active.size:
            self.now += -self.now % period
        if self.now % period == 0:
            self.entered[waiting[: max(0, most - active.size)]] = self.now

    def keep(self, kept: Bools) -> None:
        """Remove the data sets for which ``kept`` is False."""
        if kept.all():
            return
        for name in self._columns():
            setattr(self, name, getattr(self, name)[kept])
        self.chains = [chain for chain, remains in zip(self.chains, kept, strict=True) if remains]
        if self.proposal is not None:
            self.proposal = self.proposal.take(np.flatnonzero(kept))

    def arrays(self) -> Arrays:
        """The state as flat arrays by name; ``from_arrays`` is the inverse."""
        columns = {name: getattr(self, name) for name in self._columns()}
        proposal = (
            {}
            if self.proposal is None
            else {f"{PROPOSAL_PREFIX}{name}": array for name, array in self.proposal.arrays().items()}
        )
        return columns | packed_chains(self.chains) | proposal | {"now": np.asarray(self.now)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> State:
        """The state that ``arrays`` saved."""
        columns = {name: np.array(arrays[name]) for name in cls._columns()}
        proposal = {
            name.removeprefix(PROPOSAL_PREFIX): np.array(array)
            for name, array in arrays.items()
            if name.startswith(PROPOSAL_PREFIX)
        }
        return cls(
            now=int(arrays["now"]),
            chains=unpacked_chains(arrays),
            proposal=GlobalProposal(**proposal) if proposal else None,
            **columns,
        )

    @classmethod
    def _columns(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name not in ("now", "chains", "proposal")]


@dataclass(frozen=True)
class Sweep:
    """The arguments of a run that stay the same for all its data sets."""

    problem: Problem
    batch: Batch
    settings: EmceeSettings
    seeds: Seeds
    limits: VerdictSection

    @property
    def walkers(self) -> int:
        """The number of walkers of one ensemble, which is even.

        Raises
        ------
        ModelError
            The settings ask for fewer than twice the number of parameters.
        """
        ndim, asked = self.problem.ndim, self.settings.walkers
        if asked is not None and asked < 2 * ndim:
            raise ModelError(
                f"[engines.emcee] walkers must be at least twice the {ndim} parameters of the model, "
                f"got {asked}: fewer stay on a plane. Leave it out, or set {4 * ndim}"
            )
        walkers = asked if asked is not None else max(32, 4 * ndim)
        return walkers + walkers % 2

    @property
    def moves(self) -> dict[str, float]:
        """The weights of the moves: as set, or those that suit the model.

        By default black boxes get no independence steps: their search calls the likelihood some 10,000 times.
        """
        if self.settings.tuning.moves is not None:
            return {str(name): weight for name, weight in self.settings.tuning.moves.items()}
        has_proposal = self.problem.has_jax_likelihood and self.problem.ndim_unconstrained <= MOST_DIMENSIONS
        return dict(MOVES_WITH_INDEPENDENCE if has_proposal else PLAIN_MOVES)

    @property
    def most(self) -> int:
        """The most data sets that are in the stack at once."""
        return min(len(self.batch), self.settings.tuning.stack)

    @property
    def period(self) -> int:
        """The number of steps after which the schedule of moves repeats: a multiple of a block of steps."""
        block = self.settings.tuning.check_every
        return -(-LEAST_PERIOD // block) * block


class Sampler(emcee.EnsembleSampler):
    """An ``emcee`` sampler whose moves have their own random numbers, so that no step copies a generator's state."""

    @property
    def random_state(self) -> None:
        """Always None: the sampler uses no random state of its own."""
        return None

    @random_state.setter
    def random_state(self, state: Any) -> None:
        pass


class Stack:
    """The walkers of some data sets of the batch as one ``emcee`` sampler.

    Arrays on the device have the size of a full stack.
    """

    def __init__(
        self, sweep: Sweep, positions: Ints, failures: dict[int, str], proposal: GlobalProposal | None = None
    ) -> None:
        self.positions = positions
        # The size is a multiple of a chunk, so that batches of other sizes use the same compiled programs.
        size = padded_to_chunks(sweep.most) if sweep.problem.has_jax_likelihood else sweep.most
        filled = np.pad(positions, (0, size - len(positions)), mode="edge")
        self.problem = BatchedProblem(sweep.problem, sweep.batch.take(filled))
        self.density = StackDensity(self.problem)
        known = {row: failures[p] for row, p in enumerate(positions.tolist()) if p in failures}
        self.problem.failures.update(known)
        seeds, settings = sweep.seeds, sweep.settings
        ids = [sweep.batch.ids[p] for p in positions]
        keys = [seeds.entropy(i, "moves", e) for i in ids for e in range(settings.ensembles)]
        streams = GroupStreams(keys, sweep.walkers)
        more: dict[str, Move] = {}
        if proposal is not None:
            more[INDEPENDENCE] = IndependenceMove(
                self.density, proposal, seeds.jax_keys(tuple(ids), INDEPENDENCE, 1)[:, 0], streams
            )
        self.move = ScheduledMove(sweep.moves, streams, seeds.entropy("", "schedule"), sweep.period, more)
        self.sampler = Sampler(
            len(keys) * sweep.walkers,
            sweep.problem.ndim,
            self._stacked_log_density,
            moves=self.move,
            vectorize=True,
        )

    def _stacked_log_density(self, points: Floats) -> Floats:
        every = np.arange(len(self.positions))
        return self.density(points.reshape(len(every), -1, points.shape[-1]), every).ravel()

    def failures(self) -> dict[int, str]:
        """The reason, by position in the batch, for each data set on which the user's function failed."""
        return {int(self.positions[row]): reason for row, reason in self.problem.failures.items()}

    def advance(self, state: State, target: int, pause: Callable[[], bool]) -> bool:
        """Advance the data sets in the stack to step ``target``; return False if ``pause`` said to stop before.

        ``pause`` is called about once every ``SECONDS_BETWEEN_LOOKS``.
        """
        rows = state.active
        shape, ensembles = state.coords[rows].shape, state.coords.shape[1]
        chains = [state.chains[row] for row in rows]
        self.move.steps, self.move.accepted = np.repeat(state.steps(rows), ensembles), state.accepted[rows].ravel()
        start = emcee.State(state.coords[rows].reshape(-1, shape[-1]), log_prob=state.log_prob[rows].ravel())
        steps = self.sampler.sample(start, iterations=target - state.now, store=False, skip_initial_state_check=True)
        began = looked = time.monotonic()
        for current in steps:
            coords, log_prob = current.coords.reshape(shape), current.log_prob.reshape(shape[:-1])
            state.now += 1
            for chain, step, theta, density in zip(chains, state.steps(rows).tolist(), coords, log_prob, strict=True):
                chain.append(step, theta, density)
            now = time.monotonic()
            if now - looked < SECONDS_BETWEEN_LOOKS and state.now < target:
                continue
            state.coords[rows], state.log_prob[rows] = coords, log_prob
            state.accepted[rows] = self.move.accepted.reshape(shape[:2])
            state.seconds[rows] += (now - began) / shape[0]
            began = looked = now
            if state.now < target and pause():
                return False
        return True
