r"""One attempt at many data sets: waiting ones take the lanes of those that are done.

Between two blocks of iterations a data set whose draws suffice, or whose budget is spent, leaves its lane, and the next
one enters with its own start, metric and warm-up. A data set without a metric begins with a *metric warm-up*, in which
its chains adapt the step size and find a metric: after ``Program.metric_warmup`` iterations the covariance of their
later draws, all chains together, becomes its metric, and the chains go on from their last places. The assignment of
data sets to lanes depends on draws alone, never on time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from chainsweep.engines.nuts.kernels import Kernels, Lanes, Program, with_pooled_steps
from chainsweep.importance.global_proposal import whitened
from chainsweep.importance.mixture_density import Mixture
from chainsweep.model.problem import Observation
from chainsweep.numerics.arrays import Arrays, Bools, Floats, Ints
from chainsweep.numerics.factors import cholesky_factors
from chainsweep.numerics.loops import lanes_computed

Counts = Ints

STATS = ("potential", "diverging", "accept_prob", "num_steps")
TRACE_ROWS = 150
"""The number of rows of the trace of the first chain, about, warm-up included."""
FIRST_LOOK = 200
"""The draws of each chain after which a data set is first judged, and leaves if it needs far more than there can be."""
LEAST_DRAWS = 1000
"""The draws of each chain before a data set may pass: shorter chains may all have missed the same tail so far."""
CANNOT_FINISH = 3.0
"""A data set that needs more than this factor times the most draws leaves at once: another attempt is cheaper."""
EMPTY = -1


@dataclass(frozen=True)
class Starts:
    """The data sets of an attempt: the function ``observations``, and arrays whose first axis is the data set.

    ``center`` ``(n,)`` and ``factor`` ``(n, n)`` whiten; ``z`` ``(chain, n)`` are the unconstrained starts; ``keys``
    are ``(phase, chain, 2)``; ``proposal`` is the mixture of the independence steps, unconstrained. A data set with
    ``has_metric`` has its metric, and needs no metric warm-up. ``step_share`` is the factor on the adapted step size.
    """

    observations: Callable[[Counts], Observation]
    center: Floats
    factor: Floats
    z: Floats
    keys: NDArray[np.uint32]
    proposal: Mixture
    has_metric: Bools
    step_share: Floats


@dataclass(frozen=True)
class Sampled:
    """The draws of one data set.

    ``z`` ``(chain, draw, n)`` are unconstrained, ``stats`` ``(chain, draw)``. ``trace`` ``(step, n)`` is every
    ``trace_thin``-th iteration of the first chain, its first ``trace_burn_in`` rows are warm-up. The other arrays are
    ``(chain,)``; ``gradients`` includes those of warm-up. ``attempts`` counts the attempts so far; ``step_share`` is
    the factor on the adapted step size; ``good`` is True where the diagnostics passed.
    """

    z: Floats
    stats: Arrays
    trace: Floats
    trace_burn_in: int
    trace_thin: int
    step_size: Floats
    acceptance: Floats
    tree_depth_hits: Counts
    gradients: Counts
    attempts: int
    step_share: float
    good: bool


class Batching:
    """The lanes of one attempt and the data sets in them.

    ``judge(z, diverging)`` takes the draws ``(dataset, chain, draw, n)`` and divergences of a few data sets and returns
    for each the factor by which its chains should be longer (at most 1: no longer), and whether they are good.
    """

    def __init__(
        self,
        program: Program,
        starts: Starts,
        width: int,
        judge: Callable[[Floats, Floats], tuple[Floats, Bools]],
        attempt: int,
    ) -> None:
        self.program, self.starts, self.judge, self.attempt = program, starts, judge, attempt
        self.sampled: dict[int, Sampled] = {}
        """The draws of the data sets that left their lanes, by position in ``starts``."""
        self.blocks = self.busy = self.computed = self.spent = 0
        chains, n = starts.z.shape[1:]
        self.thin = max(1, program.iterations // TRACE_ROWS)
        # The first axis of these arrays is the lane; the data set in it is ``member`` of ``starts``, or ``EMPTY``.
        self.member: Counts = np.full(width, EMPTY, np.int64)
        self.done = np.zeros(width, np.int64)
        self.look = np.zeros(width, np.int64)
        self.gradients = np.zeros((width, chains), np.int64)
        self.center, self.factor = np.zeros((width, n)), np.tile(np.eye(n), (width, 1, 1))
        self.z = np.zeros((width, chains, program.draws, n))
        self.stats = {name: np.zeros((width, chains, program.draws)) for name in STATS}
        self.trace = np.zeros((width, program.iterations // self.thin, n))
        self.next = 0
        self.kernel: Any = None
        self._lanes: Lanes | None = None

    @property
    def finished(self) -> bool:
        """True where every data set has left its lane."""
        return len(self.sampled) == len(self.starts.z)

    def advance(self) -> None:
        """Fill the free lanes, advance all by a block, and free the lanes of data sets that are done."""
        self._fill()
        running = np.flatnonzero(self.member != EMPTY)
        self.blocks, self.busy = self.blocks + 1, self.busy + running.size
        self.computed += lanes_computed(running.size, len(self.member))
        self.kernel, outputs = self.program.kernels.advance(self.kernel, self._lanes, *self._rows(running))
        w, *stats = (np.asarray(output, np.float64) for output in jax.device_get(outputs))
        z = self.center[:, None, None] + np.einsum("lij,lctj->lcti", self.factor, w)
        for lane in running:
            self._keep(int(lane), z[lane], [values[lane] for values in stats])
        adapted = (self.done == self.program.adapt) | (self.done == self.program.metric_warmup + self.program.adapt)
        adapted &= self.member != EMPTY
        if adapted.any():
            self.kernel = with_pooled_steps(self.kernel, adapted, self.starts.step_share[self.member])
        self._end_metric_warmup(running)
        self._evict(running)

    def _fill(self) -> None:
        free = np.flatnonzero(self.member == EMPTY)
        entering = np.arange(self.next, min(self.next + free.size, len(self.starts.z)))
        lanes = free[: entering.size]
        self.next += entering.size
        self.member[lanes], self.done[lanes], self.look[lanes] = entering, 0, min(FIRST_LOOK, self.program.draws)
        self.done[lanes[self.starts.has_metric[entering]]] = self.program.metric_warmup
        self.gradients[lanes], self.trace[lanes] = 0, np.nan
        self.center[lanes], self.factor[lanes] = self.starts.center[entering], self.starts.factor[entering]
        if lanes.size:
            self._enter(lanes, self.starts.z[entering], phase=0)

    def _enter(self, lanes: Counts, z: Floats, phase: int) -> None:
        """Start the kernels of ``lanes`` at ``z`` ``(lane, chain, n)``, whitened by their ``center`` and ``factor``."""
        members = self._bind()
        w, keys = np.zeros((*self.z.shape[:2], z.shape[-1])), self.starts.keys[members, phase]
        w[lanes] = np.linalg.solve(self.factor[lanes][:, None], (z - self.center[lanes][:, None])[..., None])[..., 0]
        kernels, rows = self.program.kernels, self._rows(lanes)
        assert self._lanes is not None
        if self.kernel is None:
            self.kernel = kernels.blank(w, keys, self._lanes)
        self.kernel = kernels.initialise(self.kernel, w, keys, self._lanes, *rows)

    def _rows(self, lanes: Counts) -> tuple[Counts, Counts]:
        """The ``lanes`` padded to the number of all lanes, and how many of these numbers count.

        Compiled functions take them in this form, which has one shape.
        """
        return np.pad(lanes, (0, len(self.member) - lanes.size)), np.asarray(lanes.size)

    def _bind(self) -> Counts:
        """Set the observations, metrics and proposals of the lanes for the program; return the data set of each lane.

        Idle lanes repeat a data set: every call has one shape, and their results are dropped.
        """
        members = np.where(self.member == EMPTY, self.member.max(), self.member).clip(0)
        proposal = Mixture(*(part[members] for part in self.starts.proposal))
        proposal = whitened(proposal, self.center, np.linalg.inv(self.factor))
        center, factor = jax.device_put((self.center.copy(), self.factor.copy()))
        self._lanes = Lanes(self.starts.observations(members), center, factor, proposal)
        return members

    def _keep(self, lane: int, z: Floats, stats: list[Floats]) -> None:
        """Store a block of one lane: ``z`` ``(chain, iteration, n)``, ``stats`` ``(chain, iteration)``."""
        block = self.program.block
        iteration = np.arange(self.done[lane], self.done[lane] + block) + 1
        due = iteration % self.thin == 0
        rows = iteration[due] // self.thin - 1
        self.trace[lane, rows[rows < self.trace.shape[1]]] = z[0, due][rows < self.trace.shape[1]]
        steps = stats[STATS.index("num_steps")].sum(axis=1).astype(np.int64)
        self.gradients[lane] += steps + (block if self.program.kernels.independence_steps else 0)
        self.spent += int(steps.sum())
        start = self.done[lane] - self.program.metric_warmup - self.program.adapt
        self.done[lane] += block
        if start < 0:
            # Before the first draw the rows hold the iterations of the metric warm-up after the step size was adapted.
            start = max(0, start + self.program.metric_warmup)
        if start + block <= self.program.draws:
            self.z[lane, :, start : start + block] = z
            for name, values in zip(STATS, stats, strict=True):
                self.stats[name][lane, :, start : start + block] = values

    def _end_metric_warmup(self, running: Counts) -> None:
        """Make the covariance of a finished metric warm-up the metric of its lane; start again at the last places."""
        back = (self.done[running] == self.program.metric_warmup) & ~self.starts.has_metric[self.member[running]]
        lanes = running[back]
        if not lanes.size:
            return
        found = self.z[lanes, :, : self.program.metric_warmup - self.program.adapt]
        cloud = found.reshape(lanes.size, -1, found.shape[-1])
        for lane, points in zip(lanes, cloud, strict=True):
            self.center[lane], self.factor[lane] = whitening(points, self.factor[lane])
        self._enter(lanes, found[:, :, -1], phase=1)

    def _evict(self, running: Counts) -> None:
        kept = self.done - self.program.metric_warmup - self.program.adapt
        for length in np.unique(kept[running]):
            lanes = running[
                (kept[running] == length) & ((length >= self.look[running]) | (length >= self.program.draws))
            ]
            if length <= 0 or not lanes.size:
                continue
            factor, good = self.judge(self.z[lanes, :, :length], self.stats["diverging"][lanes, :, :length])
            least = min(LEAST_DRAWS, self.program.draws)
            for lane, longer, passed in zip(lanes, np.where(good, least / length, factor), good, strict=True):
                if (
                    longer <= 1.0
                    or length >= self.program.draws
                    or longer * length > CANNOT_FINISH * self.program.draws
                ):
                    self.sampled[int(self.member[lane])] = self._taken(int(lane), int(length), bool(passed))
                    self.member[lane] = EMPTY
                else:
                    further = least if passed else int(length * min(longer, 2.0))
                    self.look[lane] = min(self.program.draws, max(length + 1, further))

    def _taken(self, lane: int, length: int, good: bool) -> Sampled:
        stats = {name: values[lane, :, :length].copy() for name, values in self.stats.items()}
        warmup = self.program.metric_warmup + self.program.adapt
        first = self.program.metric_warmup // self.thin if self.starts.has_metric[self.member[lane]] else 0
        steps = self.done[lane] // self.thin
        limit = 2**self.program.kernels.depth - 1
        hits = (
            np.zeros(len(self.gradients[lane]))
            if self.program.kernels.fixed
            else (stats["num_steps"] >= limit).sum(axis=1)
        )
        return Sampled(
            z=self.z[lane, :, :length].copy(),
            stats=stats,
            trace=self.trace[lane, first:steps].copy(),
            trace_burn_in=warmup // self.thin - first,
            trace_thin=self.thin,
            step_size=np.array(self.kernel.adapt_state.step_size)[lane],
            acceptance=stats["accept_prob"].mean(axis=1),
            tree_depth_hits=hits.astype(np.int64),
            gradients=self.gradients[lane].copy(),
            attempts=self.attempt + 1,
            step_share=float(self.starts.step_share[self.member[lane]]),
            good=good,
        )

    def saved(self) -> Arrays:
        """The state as flat arrays by name, from which the next attempt of the task goes on; ``restore`` reads it."""
        names = ("member", "done", "look", "gradients", "center", "factor", "z", "trace")
        state = {name: np.array(getattr(self, name)) for name in names}
        state |= {f"stats/{name}": np.array(values) for name, values in self.stats.items()}
        state |= {f"kernel/{k}": np.array(leaf) for k, leaf in enumerate(jax.tree.leaves(self.kernel))}
        state["counters"] = np.array([self.next, self.blocks, self.busy, self.computed, self.spent])
        return state | {f"left/{name}": values for name, values in packed(self.sampled).items()}

    def restore(self, state: Arrays) -> None:
        """Set the state from the arrays that ``saved`` gave."""
        self._fill()
        for name in ("member", "done", "look", "gradients", "center", "factor", "z", "trace"):
            getattr(self, name)[...] = state[name]
        for name, values in self.stats.items():
            values[...] = state[f"stats/{name}"]
        leaves, structure = jax.tree.flatten(self.kernel)
        kernel = [np.array(state[f"kernel/{k}"]) for k in range(len(leaves))]
        self.kernel = jax.tree.unflatten(structure, kernel)
        self._bind()
        self.next, self.blocks, self.busy, self.computed, self.spent = (int(value) for value in state["counters"])
        self.sampled = unpacked({k.removeprefix("left/"): v for k, v in state.items() if k.startswith("left/")})


def lowered(kernels: Kernels, observations: Observation, shape: tuple[int, int, int], components: int) -> list[Any]:
    """The programs for lanes of this ``shape`` ``(lane, chain, n)``, lowered and not yet compiled.

    Once they are compiled, JAX finds them when the kernels are called.
    """
    width, _, n = shape
    center, factor = np.zeros((width, n)), np.zeros((width, n, n))
    mixture = Mixture(
        np.zeros((width, components)), np.zeros((width, components, n)), np.zeros((width, components, n, n))
    )
    shapes = jax.eval_shape(whitened, mixture, center, factor)
    proposal = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    lanes = Lanes(observations, center, factor, proposal)
    w, keys, rows = np.zeros(shape), np.zeros((*shape[:2], 2), np.uint32), (np.zeros(width, np.int64), np.asarray(0))
    state = kernels.blank(w, keys, lanes)
    return [kernels.initialise.lower(state, w, keys, lanes, *rows), kernels.advance.lower(state, lanes, *rows)]


def whitening(points: Floats, fallback: Floats) -> tuple[Floats, Floats]:
    """Mean and Cholesky factor of the covariance of ``points`` ``(draw, n)``, shrunk a little towards ``fallback``."""
    covariance = 0.95 * np.atleast_2d(np.cov(points.T)) + 0.05 * fallback @ fallback.T
    center = points.mean(axis=0)
    if not (np.isfinite(covariance).all() and np.isfinite(center).all()):
        return np.asarray(points[-1]), fallback
    return center, cholesky_factors(covariance)


RAGGED = ("z", "trace")
"""The fields of Sampled, besides ``stats``, whose length differs between data sets; they are joined along that axis."""


def packed(sampled: dict[int, Sampled]) -> Arrays:
    """The draws of many data sets as a few arrays by name; ``unpacked`` is the inverse."""
    members = sorted(sampled)
    if not members:
        return {"members": np.zeros(0, np.int64)}
    rows = [sampled[k] for k in members]
    arrays: Arrays = {"members": np.array(members), "lengths": np.array([row.z.shape[1] for row in rows])}
    arrays["trace_lengths"] = np.array([len(row.trace) for row in rows])
    arrays["z"] = np.concatenate([row.z for row in rows], axis=1)
    arrays["trace"] = np.concatenate([row.trace for row in rows])
    arrays |= {f"stats/{name}": np.concatenate([row.stats[name] for row in rows], axis=1) for name in STATS}
    plain = [f.name for f in fields(Sampled) if f.name not in (*RAGGED, "stats")]
    return arrays | {name: np.stack([np.asarray(getattr(row, name)) for row in rows]) for name in plain}


def unpacked(arrays: Arrays) -> dict[int, Sampled]:
    """The inverse of ``packed``."""
    members = arrays["members"]
    if not members.size:
        return {}
    cuts, trace_cuts = np.cumsum(arrays["lengths"])[:-1], np.cumsum(arrays["trace_lengths"])[:-1]
    z, trace = np.split(arrays["z"], cuts, axis=1), np.split(arrays["trace"], trace_cuts)
    stats = {name: np.split(arrays[f"stats/{name}"], cuts, axis=1) for name in STATS}
    plain = [f.name for f in fields(Sampled) if f.name not in (*RAGGED, "stats")]
    result = {}
    for row, member in enumerate(members):
        values: dict[str, Any] = {name: arrays[name][row] for name in plain}
        values |= {name: int(values[name]) for name in ("trace_burn_in", "trace_thin", "attempts")}
        values |= {"good": bool(values["good"]), "step_share": float(values["step_share"])}
        result[int(member)] = Sampled(
            z=z[row], trace=trace[row], stats={name: parts[row] for name, parts in stats.items()}, **values
        )
    return result
