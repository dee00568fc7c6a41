"""Training pairs for the network: simulated data sets, encoded, with the parameters they were drawn from.

A JAX model gives fresh simulations for every step, which depend on (seed, block number) alone: training can stop at
any step and continue with the very same simulations. A host simulator is slow, so a bank is simulated once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.encoder import Encoder
from chainsweep.engines.snpe.standardisation import Space, working
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Observation, Problem, observation
from chainsweep.numerics.arrays import Bools, Floats, Ints

Pairs = tuple[Any, Any]
"""Packed features ``(row, packed)`` and working-space parameters ``(row, dim)``, in single precision. They are NumPy
arrays or, where they were made on a device and stay there, JAX arrays; NaN rows are possible."""

ROWS_PER_BLOCK = 4096
VALIDATION_BLOCK = 0
"""The number of the block of simulations that is held out; training starts at block 1."""


@dataclass(frozen=True)
class Rows:
    """Simulated data sets: ``index`` of the design ``(row,)``, unconstrained parameters ``z`` ``(row, dim)``, and the
    ``observed`` fields."""

    index: Ints
    z: Floats
    observed: Mapping[str, Floats]


def usable_rows(packed: NDArray[np.float32], w: NDArray[np.float32]) -> Bools:
    """True where all numbers of a pair are finite, shape ``(row,)``."""
    return np.asarray(np.isfinite(packed).all(axis=1) & np.isfinite(w).all(axis=1))


def usable_pairs(*pairs: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The pairs of which all numbers are finite."""
    packed, w = (np.asarray(part) for part in pairs)
    usable = usable_rows(packed, w)
    return packed[usable], w[usable]


class Provider(Protocol):
    """The source of training pairs; its users leave out those of simulations that are not finite."""

    def block(self, number: int, rows: int) -> Pairs:
        """Return ``rows`` pairs; the same number gives the same pairs."""

    def typical(self) -> NDArray[np.float32]:
        """Packed features of simulations like those that the network learns from, finite and in random order."""


class Simulator:
    """Simulations of designs drawn with replacement from one bucket."""

    def __init__(self, problem: Problem, batch: Batch, seed: int) -> None:
        self.problem = problem
        self.batch = batch
        self.seed = seed
        self.stacked = observation(batch.fields, batch.constants, batch.mask)
        self.compiled = jax.jit(partial(_jax_rows, problem), static_argnums=2)

    def key(self, number: int) -> Any:
        """The key of the random numbers of a block."""
        return jax.random.fold_in(jax.random.key(self.seed), number)

    def rows(self, number: int, count: int) -> Rows:
        """Make ``count`` simulations; the same number gives the same ones."""
        key = self.key(number)
        if self.problem.black_box:
            return _host_rows(self.problem, self.batch, key, count)
        index, z, observed = self.compiled(key, self.stacked, count)
        return Rows(np.asarray(index), np.asarray(z), {name: np.asarray(v) for name, v in observed.items()})


def simulators_of(problem: Problem, batches: Sequence[Batch], seed: int) -> list[Simulator]:
    """The simulators of all buckets, each with a seed of its own."""
    return [Simulator(problem, batch, seed + number) for number, batch in enumerate(batches)]


def _jax_rows(problem: Problem, key: Any, stacked: Observation, rows: int) -> tuple[Any, Any, dict[str, Any]]:
    """The designs, unconstrained parameters and simulated fields of fresh simulations. Pure JAX."""
    index, z, obs = _simulated(problem, key, stacked, rows)
    return index, z, {name: obs.fields[name] for name in problem.observed}


def _jax_pairs(
    problem: Problem, transform: Any, key: Any, stacked: Observation, rows: int, centre: Any, halfwidth: Any
) -> Pairs:
    """The training pairs of fresh simulations. Pure JAX."""
    index, z, obs = _simulated(problem, key, stacked, rows)
    own = centre[index], halfwidth[index]
    return transform(obs, *own), working(z, *own).astype(jnp.float32)


def _simulated(problem: Problem, key: Any, stacked: Observation, rows: int) -> tuple[Any, Any, Observation]:
    """The indices of random designs, unconstrained parameters, and the simulated data sets. Pure JAX."""
    pick, draw, noise = jax.random.split(key, 3)
    index = jax.random.randint(pick, (rows,), 0, stacked.mask.shape[0])
    design = jax.tree.map(lambda values: values[index], stacked)
    theta = jax.vmap(problem.sample_prior)(jax.random.split(draw, rows), design)
    simulated = jax.vmap(problem.simulate)(jax.random.split(noise, rows), theta, design)
    observed = {name: value.astype(float) for name, value in simulated.items()}
    obs = Observation(design.fields | observed, design.constants, design.mask)
    return index, jax.vmap(problem.unconstrain)(theta, obs), obs


def _host_rows(problem: Problem, batch: Batch, key: Any, rows: int) -> Rows:
    pick, draw, noise = jax.random.split(key, 3)
    index = np.asarray(jax.random.randint(pick, (rows,), 0, len(batch)))
    rowwise = BatchedProblem(problem, batch.take(index))
    theta = rowwise.sample_prior(np.asarray(jax.random.key_data(jax.random.split(draw, rows))), 1)
    simulated = rowwise.simulate(np.asarray(jax.random.key_data(jax.random.split(noise, rows))), theta)
    z = rowwise.unconstrain(theta)[:, 0]
    return Rows(index, z, {name: value[:, 0] for name, value in simulated.items()})


def stacked_rows(batch: Batch, rows: Rows) -> Observation:
    """The simulated data sets of ``rows``, stacked."""
    design = {name: values[rows.index] for name, values in batch.fields.items() if name not in rows.observed}
    constants = {name: values[rows.index] for name, values in batch.constants.items()}
    return observation({**design, **rows.observed}, constants, batch.mask[rows.index])


def encode_rows(encoder: Encoder, batch: Batch, space: Space, rows: Rows) -> Pairs:
    """The training pairs of the simulations ``rows``."""
    own = space.take(rows.index)
    packed = encoder.encode(stacked_rows(batch, rows), own.centre, own.halfwidth)
    w = own.to_working(rows.z[:, None])[0][:, 0]
    return packed, np.asarray(w, np.float32)


class FreshSimulations:
    """New simulations in every block, from all shape buckets in proportion to their data sets.

    Those of a JAX model are drawn, simulated and encoded in one compiled function, and stay on its device.
    """

    def __init__(self, simulators: Sequence[Simulator], spaces: Sequence[Space], encoder: Encoder) -> None:
        self.simulators = simulators
        self.spaces = spaces
        self.encoder = encoder
        self.sizes = np.array([len(simulator.batch) for simulator in simulators])
        self.compiled = jax.jit(partial(_jax_pairs, simulators[0].problem, encoder.transform), static_argnums=2)

    def block(self, number: int, rows: int) -> Pairs:
        """Return ``rows`` pairs of block ``number``; those of different buckets are in random order."""
        split = shares(self.sizes, rows)
        parts = [
            self._pairs(simulator, space, number, share)
            for simulator, space, share in zip(self.simulators, self.spaces, split, strict=True)
            if share
        ]
        if len(parts) == 1:
            return parts[0]
        packed, w = (jnp.concatenate([part[i] for part in parts]) for i in (0, 1))
        seed = self.simulators[0].seed
        order = np.random.Generator(np.random.Philox(key=[seed, number])).permutation(rows)
        return packed[order], w[order]

    def _pairs(self, simulator: Simulator, space: Space, number: int, rows: int) -> Pairs:
        if simulator.problem.black_box:
            return encode_rows(self.encoder, simulator.batch, space, simulator.rows(number, rows))
        key = simulator.key(number)
        return self.compiled(key, simulator.stacked, rows, space.centre, space.halfwidth)

    def probe(self, number: int, split: Sequence[tuple[int, int]]) -> tuple[list[Rows], list[Pairs]]:
        """Make simulations and their pairs, unusable ones included; ``split`` lists buckets and numbers of rows."""
        rows = [self.simulators[bucket].rows(number, count) for bucket, count in split]
        pairs = [self._pairs(self.simulators[bucket], self.spaces[bucket], number, count) for bucket, count in split]
        return rows, pairs

    def typical(self) -> NDArray[np.float32]:
        """Packed features of held-out simulations."""
        return usable_pairs(*self.block(VALIDATION_BLOCK, ROWS_PER_BLOCK))[0]


def shares(sizes: Ints, rows: int) -> list[int]:
    """Split ``rows`` in proportion to ``sizes``, by cumulative rounding."""
    edges = np.round(np.cumsum(sizes) / sizes.sum() * rows).astype(int)
    return np.diff(edges, prepend=0).tolist()


class Bank:
    """A fixed set of pairs, used in passes that take each pair once in a new order; the first rows are held out."""

    def __init__(self, pairs: Pairs, seed: int, validation_share: float = 0.1) -> None:
        self.pairs = pairs
        self.seed = seed
        self.held_out = max(1, int(len(pairs[0]) * validation_share))

    def block(self, number: int, rows: int) -> Pairs:
        """Return the held-out rows for `VALIDATION_BLOCK`, and ``rows`` of the others for any other number."""
        packed, w = self.pairs
        if number == VALIDATION_BLOCK:
            return packed[: self.held_out], w[: self.held_out]
        available = len(packed) - self.held_out
        first = (number - 1) * rows
        passes = range(first // available, (first + rows - 1) // available + 1)
        order = np.concatenate([self._shuffled(number_of_pass, available) for number_of_pass in passes])
        start = first - passes[0] * available
        chosen = self.held_out + order[start : start + rows]
        return packed[chosen], w[chosen]

    def typical(self) -> NDArray[np.float32]:
        """Packed features of the whole bank, because the held-out rows are few."""
        return self.pairs[0]

    def _shuffled(self, number: int, size: int) -> Ints:
        return np.random.Generator(np.random.Philox(key=[self.seed, number])).permutation(size)
