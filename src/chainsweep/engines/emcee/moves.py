r"""Ensemble moves for many independent groups of walkers stacked in one ``emcee`` sampler.

The walkers of group ``g`` are rows ``g * walkers ... (g + 1) * walkers - 1`` of the stack. A step splits each
group into halves at random and moves one half after the other, with proposals made from the other half of the
same group: groups never see each other, and a half step is one call of the log density. With :math:`s` the
walker that moves and :math:`c` walkers of the other half, in :math:`d` dimensions::

    stretch   q = c - (c - s) z,  z ~ g(z) on [1/a, a]             log factor (d - 1) log z
    de        q = s + gamma0 (1 + sigma n) (c2 - c1),  n ~ N(0, 1)        log factor 0
    snooker   q = s + g u u.(c1 - c2),  u = (s - c) / |s - c|      log factor (d - 1) log(|q - c| / |s - c|)

Reference: J. Goodman, J. Weare, CAMCoS 5, 65 (2010); D. Foreman-Mackey et al., PASP 125, 306 (2013);
C. ter Braak, Statistics and Computing 16, 239 (2006); C. ter Braak, J. Vrugt, ibid. 18, 435 (2008), for the
snooker and its factor (emcee 3.1.6 has another, which leaves standard deviations 15 % too small).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from emcee.moves import Move
from scipy.special import ndtri

from chainsweep.numerics.arrays import Bools, Floats, Ints

STEPS_PER_COUNTER = 50
"""Steps whose uniforms come from one value of a stream's counter."""

UNIFORMS_PER_WALKER = 4
"""Uniforms of a walker in one step: one for the split, at most two for the proposal, one for the acceptance."""

GAMMA0 = 2.38
"""The scale of a differential evolution step, in units of ``1 / sqrt(2 d)``, that is best for a normal posterior."""

SNOOKER_RANGE = (1.2, 2.2)


class Randomness(Protocol):
    """The random numbers of the current step, one row for each group.

    A move calls ``order`` once, then, for each half, the methods that its proposal needs and last
    ``log_uniform``: the order in which ``emcee``'s own moves use their RandomState.
    """

    def order(self, walkers: int) -> Ints:
        """A permutation of each group's walkers, ``(group, walkers)``: the half in front moves first."""

    def uniform(self, n: int) -> Floats:
        """Uniform numbers in [0, 1), shape ``(group, n)``."""

    def index(self, high: int, n: int) -> Ints:
        """Uniform integers in 0 ... ``high - 1``, shape ``(group, n)``."""

    def normal(self, n: int) -> Floats:
        """Standard normal numbers, shape ``(group, n)``."""

    def log_uniform(self, n: int) -> Floats:
        """Logarithms of uniforms in (0, 1], shape ``(group, n)``; ends the half step."""


def counter_uniforms(key: int, counter: int, out: Floats) -> Floats:
    """Fill ``out`` with the uniforms of the Philox stream ``key`` at ``counter``."""
    # the lowest word of Philox's own counter runs within one block of uniforms
    bits = np.random.Philox(key=key, counter=counter << 64)
    return np.random.Generator(bits).random(out=out)


class GroupStreams:
    """An implementation of ``Randomness`` with a counter-based stream of its own for each group.

    The numbers of a step depend on the group's key and on the step alone: neither on the other groups nor on
    where a run was interrupted.
    """

    def __init__(self, keys: Sequence[int], walkers: int) -> None:
        self.keys = tuple(keys)
        self.walkers = walkers
        self.steps: Ints = np.zeros(len(self.keys), dtype=np.int64)
        self._groups = np.arange(len(self.keys))
        self._counters: Ints = np.full(len(self.keys), -1)
        shape = (len(self.keys), STEPS_PER_COUNTER, walkers, UNIFORMS_PER_WALKER)
        self._block: Floats = np.empty(shape)
        self._step: Floats = self._block[:, 0]
        self._first, self._column = 0, 1

    def seek(self, steps: Ints | int) -> None:
        """Make ``steps``, counted from 0, the current ones: one number for all groups, or ``(group,)``."""
        self.steps = np.broadcast_to(steps, len(self.keys))
        counters, offsets = np.divmod(self.steps, STEPS_PER_COUNTER)
        for group in np.flatnonzero(counters != self._counters).tolist():
            counter_uniforms(self.keys[group], int(counters[group]), self._block[group])
        self._counters = counters
        self._step = self._block[self._groups, offsets]
        self._first, self._column = 0, 1

    def order(self, walkers: int) -> Ints:
        """A permutation of each group's walkers."""
        return np.argsort(self._step[:, :walkers, 0], axis=1)

    def uniform(self, n: int) -> Floats:
        """The next column of the ``n`` walkers of this half."""
        values = self._step[:, self._first : self._first + n, self._column]
        self._column += 1
        return values

    def index(self, high: int, n: int) -> Ints:
        """Uniform indices below ``high``."""
        # The product with the largest uniform below 1 may round up to high.
        return np.minimum((self.uniform(n) * high).astype(np.int64), high - 1)

    def normal(self, n: int) -> Floats:
        """Normal numbers by inversion; a uniform of 0 gives a finite number too."""
        return ndtri(np.maximum(self.uniform(n), 2.0**-54))

    def log_uniform(self, n: int) -> Floats:
        """Logarithms of ``1 - u``, which is never 0."""
        values = np.log1p(-self.uniform(n))
        self._first, self._column = self._first + n, 1
        return values


class GroupMove(Move):
    """A red-blue move inside each group of ``walkers`` (even) walkers; a subclass says how to propose."""

    def __init__(self, randomness: Randomness, walkers: int) -> None:
        self.randomness = randomness
        self.walkers = walkers

    def get_proposal(self, sample: Floats, complement: Floats) -> tuple[Floats, Floats | float]:
        """New points and log factors for ``sample`` ``(group, half, ndim)``, proposed from ``complement``."""
        raise NotImplementedError(f"{type(self).__name__} defines no get_proposal(sample, complement)")

    def propose(self, model: Any, state: Any) -> tuple[Any, Bools]:
        """Advance ``state`` in place by one step; return it, and which walkers moved, ``(group * walkers,)``."""
        coords, log_prob = state.coords, state.log_prob
        half = self.walkers // 2
        order = self.randomness.order(self.walkers)
        order = order + np.arange(0, len(coords), self.walkers)[:, None]
        red, blue = order[:, :half], order[:, half:]
        accepted = np.zeros(len(coords), dtype=bool)
        for moving, resting in ((red, blue), (blue, red)):
            points, factors = self.get_proposal(coords[moving], coords[resting])
            # model.compute_log_prob_fn is not used: it loops over walkers in Python.
            density = model.log_prob_fn(points.reshape(-1, points.shape[-1])).reshape(moving.shape)
            better = factors + density - log_prob[moving] > self.randomness.log_uniform(half)
            chosen = moving[better]
            coords[chosen], log_prob[chosen] = points[better], density[better]
            accepted[chosen] = True
        return state, accepted


class StretchMove(GroupMove):
    """Goodman and Weare's stretch move with scale ``a = 2``."""

    a = 2.0

    def get_proposal(self, sample: Floats, complement: Floats) -> tuple[Floats, Floats | float]:
        """Stretch the line from a walker of the other half."""
        half, ndim = sample.shape[1:]
        z = ((self.a - 1.0) * self.randomness.uniform(half) + 1.0) ** 2.0 / self.a
        partner = _pick(complement, self.randomness.index(complement.shape[1], half))
        return partner - (partner - sample) * z[..., None], (ndim - 1.0) * np.log(z)


class DEMove(GroupMove):
    """Differential evolution: a step along the difference of two walkers of the other half."""

    sigma = 1.0e-5

    def get_proposal(self, sample: Floats, complement: Floats) -> tuple[Floats, Floats | float]:
        """Add a multiple of the difference of two distinct walkers."""
        half, ndim = sample.shape[1:]
        others = complement.shape[1]
        pairs = ordered_pairs(others)[self.randomness.index(others * (others - 1), half)]
        difference = _pick(complement, pairs[..., 1]) - _pick(complement, pairs[..., 0])
        gamma = GAMMA0 / np.sqrt(2 * ndim) * (1.0 + self.sigma * self.randomness.normal(half))
        return sample + gamma[..., None] * difference, 0.0


class SnookerMove(GroupMove):
    """The snooker move: a step along the line to one walker, by the projected difference of two others."""

    def get_proposal(self, sample: Floats, complement: Floats) -> tuple[Floats, Floats | float]:
        """Move on the line through a third walker."""
        half, ndim = sample.shape[1:]
        others = complement.shape[1]
        triples = self.randomness.index(others * (others - 1) * (others - 2), half)
        centre, first, second = (_pick(complement, i) for i in distinct_triples(triples, others))
        low, high = SNOOKER_RANGE
        gamma = low + (high - low) * self.randomness.uniform(half)
        line = sample - centre
        squared = np.einsum("ghd,ghd->gh", line, line)
        # Two walkers at one point define no line: such a proposal is the walker itself, and is rejected.
        safe = np.where(squared > 0.0, squared, 1.0)
        shift = gamma * np.einsum("ghd,ghd->gh", line, first - second) / safe
        # on the line, |q - c| / |s - c| is the factor by which it grew
        growth = np.abs(1.0 + shift)
        defined = (squared > 0.0) & (growth > 0.0)
        factors = np.where(defined, (ndim - 1.0) * np.log(np.where(defined, growth, 1.0)), -np.inf)
        return sample + shift[..., None] * line, factors


MOVES: dict[str, type[GroupMove]] = {"stretch": StretchMove, "de": DEMove, "snooker": SnookerMove}


class ScheduledMove(Move):
    """A mixture of moves in a fixed order that repeats, the same for all groups.

    The move of a group depends on its own step alone, so a group may begin any multiple of ``period`` steps after the
    others, and the other groups of the stack change nothing. In a period each move has its share of the steps, and at
    least one. ``steps`` ``(group,)`` are the steps made; ``accepted`` counts accepted moves by group. ``more`` maps
    names to moves that are not in ``MOVES``.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        streams: GroupStreams,
        schedule_key: int,
        period: int,
        more: Mapping[str, Move] | None = None,
    ) -> None:
        # The names are sorted, so that the order of keys in a file changes no draw.
        names = sorted(weights)
        known = more or {}
        self.moves = [known[name] if name in known else MOVES[name](streams, streams.walkers) for name in names]
        shares = np.array([weights[name] for name in names]) / sum(weights.values())
        counts = np.maximum(1, np.round(shares * period).astype(np.int64))
        counts[np.argmax(shares)] += period - counts.sum()
        order = np.argsort(counter_uniforms(schedule_key, 0, np.empty(period)))
        self.schedule: Ints = np.repeat(np.arange(len(names)), counts)[order]
        self.streams = streams
        self.steps: Ints = np.zeros(len(streams.keys), dtype=np.int64)
        self.accepted: Ints = np.zeros(len(streams.keys), dtype=np.int64)

    def choose(self, step: int) -> Move:
        """The move of ``step``."""
        return self.moves[self.schedule[step % len(self.schedule)]]

    def propose(self, model: Any, state: Any) -> tuple[Any, Bools]:
        """Make one step of the scheduled move, for all groups."""
        self.streams.seek(self.steps)
        state, accepted = self.choose(int(self.steps[0])).propose(model, state)
        self.steps = self.steps + 1
        self.accepted += accepted.reshape(-1, self.streams.walkers).sum(axis=1)
        return state, accepted


@lru_cache(maxsize=8)
def ordered_pairs(n: int) -> Ints:
    """All ordered pairs of distinct numbers below ``n``, ``(n (n - 1), 2)``, in ``emcee``'s order."""
    rows, columns = np.tril_indices(n, -1)
    return np.column_stack([np.concatenate([rows, columns]), np.concatenate([columns, rows])])


def distinct_triples(number: Ints, n: int) -> tuple[Ints, Ints, Ints]:
    """Three distinct numbers below ``n`` from a number below ``n (n - 1) (n - 2)``; each triple has one number."""
    rest, third = np.divmod(number, n - 2)
    first, second = np.divmod(rest, n - 1)
    second = second + (second >= first)
    third = third + (third >= np.minimum(first, second))
    third = third + (third >= np.maximum(first, second))
    return first, second, third


def _pick(points: Floats, index: Ints) -> Floats:
    """Return ``points[g, index[g, h]]`` for each group, ``(group, half, ndim)``."""
    groups, others, ndim = points.shape
    flat = index + np.arange(0, groups * others, others)[:, None]
    return points.reshape(-1, ndim).take(flat, axis=0)
