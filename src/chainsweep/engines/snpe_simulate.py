"""Training pairs for the network: simulated data sets, encoded, with the parameters they were drawn from.

A JAX model gives fresh simulations for every step, named by (seed, block number) alone: training can stop at
any step and continue with the very same simulations. A host simulator is slow, so a bank is simulated once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe_features import Encoder
from chainsweep.engines.snpe_space import Space, to_working
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Observation, Problem, observation

Floats = NDArray[np.float64]
Pairs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Packed features ``(row, packed)`` and working-space parameters ``(row, dim)``; NaN rows are possible."""

ROWS_PER_BLOCK = 4096
VALIDATION_BLOCK = 0
"""Simulations with this block number are held out; training starts at 1."""


@dataclass(frozen=True)
class Rows:
    """Simulated data sets: which design, which unconstrained parameters ``(row, dim)``, what was observed."""

    index: NDArray[np.int64]
    z: Floats
    observed: Mapping[str, Floats]


class Provider(Protocol):
    """Where training pairs come from."""

    def block(self, number: int, rows: int) -> Pairs:
        """``rows`` pairs; the same number gives the same pairs."""


def simulate_rows(problem: Problem, batch: Batch, seed: int, number: int, rows: int) -> Rows:
    """``rows`` simulations of designs drawn with replacement from ``batch``."""
    key = block_key(seed, number)
    if problem.black_box:
        return _host_rows(problem, batch, key, rows)
    stacked = observation(batch.fields, batch.constants, batch.mask)
    index, z, obs = _jax_rows(problem, key, stacked, rows)
    return Rows(np.asarray(index), np.asarray(z), {name: np.asarray(obs.fields[name]) for name in problem.observed})


def block_key(seed: int, number: int) -> Any:
    """The JAX key of one block of simulations."""
    return jax.random.fold_in(jax.random.key(seed), number)


def _jax_rows(problem: Problem, key: Any, stacked: Observation, rows: int) -> tuple[Any, Any, Observation]:
    """Pure JAX: designs, unconstrained parameters and the simulated observations."""
    pick, draw, noise = jax.random.split(key, 3)
    index = jax.random.randint(pick, (rows,), 0, stacked.mask.shape[0])
    design = jax.tree.map(lambda values: values[index], stacked)
    theta = jax.vmap(problem.sample_prior)(jax.random.split(draw, rows), design)
    simulated = jax.vmap(problem.simulate)(jax.random.split(noise, rows), theta, design)
    fields = design.fields | {name: value.astype(float) for name, value in simulated.items()}
    obs = Observation(fields, design.constants, design.mask)
    return index, jax.vmap(problem.unconstrain)(theta, obs), obs


def _host_rows(problem: Problem, batch: Batch, key: Any, rows: int) -> Rows:
    pick, draw, noise = jax.random.split(key, 3)
    index = np.asarray(jax.random.randint(pick, (rows,), 0, len(batch)))
    rowwise = BatchedProblem(problem, batch.take(index))
    theta = rowwise.sample_prior(np.asarray(jax.random.key_data(jax.random.split(draw, rows))), 1)
    simulated = rowwise.simulate(np.asarray(jax.random.key_data(jax.random.split(noise, rows))), theta)
    z = rowwise.unconstrain(theta)[:, 0]
    return Rows(index, z, {name: value[:, 0] for name, value in simulated.items()})


def encode_rows(encoder: Encoder, batch: Batch, space: Space, rows: Rows) -> Pairs:
    """Pairs of simulations that exist already."""
    part = batch.take(rows.index)
    centre, halfwidth = space.centre[rows.index], space.halfwidth[rows.index]
    stacked = observation({**part.fields, **rows.observed}, part.constants, part.mask)
    packed = encode_all(encoder, stacked, centre, halfwidth)
    w, _ = to_working(rows.z, centre, halfwidth, space.logistic)
    return packed, np.asarray(w, np.float32)


def encode_all(encoder: Encoder, stacked: Observation, centre: Floats, halfwidth: Floats) -> NDArray[np.float32]:
    """Packed features ``(dataset, packed)`` of stacked data sets; NaN where a data set holds NaN."""
    return np.asarray(jax.jit(jax.vmap(encoder.encode))(stacked, centre, halfwidth))


class FreshSimulations:
    """New simulations in every block, from one compiled function per shape bucket."""

    def __init__(
        self, problem: Problem, batches: Sequence[Batch], spaces: Sequence[Space], encoder: Encoder, seed: int
    ) -> None:
        self.seed = seed
        self.sizes = np.array([len(batch) for batch in batches])
        self.functions = [
            _compiled_pairs(problem, batch, space, encoder) for batch, space in zip(batches, spaces, strict=True)
        ]

    def block(self, number: int, rows: int) -> Pairs:
        """Pairs of all buckets, in proportion to their data sets, in random order."""
        split = shares(self.sizes, rows)
        key = block_key(self.seed, number)
        parts = [
            function(jax.random.fold_in(key, bucket), share)
            for bucket, (function, share) in enumerate(zip(self.functions, split, strict=True))
            if share
        ]
        if len(parts) == 1:
            return np.asarray(parts[0][0]), np.asarray(parts[0][1])
        order = np.random.Generator(np.random.Philox(key=[self.seed, number])).permutation(rows)
        packed, w = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
        return packed[order], w[order]


def _compiled_pairs(problem: Problem, batch: Batch, space: Space, encoder: Encoder) -> Any:
    stacked = observation(batch.fields, batch.constants, batch.mask)
    centre, halfwidth = jnp.asarray(space.centre), jnp.asarray(space.halfwidth)

    def pairs(key: Any, rows: int, stacked: Observation, centre: Any, halfwidth: Any) -> tuple[Any, Any]:
        index, z, obs = _jax_rows(problem, key, stacked, rows)
        packed = jax.vmap(encoder.encode)(obs, centre[index], halfwidth[index])
        w, _ = to_working(z, centre[index], halfwidth[index], space.logistic)
        return packed, w.astype(jnp.float32)

    compiled = jax.jit(pairs, static_argnums=1)
    return lambda key, rows: compiled(key, rows, stacked, centre, halfwidth)


def shares(sizes: NDArray[np.int64], rows: int) -> list[int]:
    """``rows`` split in proportion to ``sizes``, by cumulative rounding."""
    edges = np.round(np.cumsum(sizes) / sizes.sum() * rows).astype(int)
    return np.diff(edges, prepend=0).tolist()


class Bank:
    """A fixed set of pairs, reshuffled with replacement-free passes; the first rows are held out."""

    def __init__(self, pairs: Pairs, seed: int, validation_share: float = 0.1) -> None:
        self.pairs = pairs
        self.seed = seed
        self.held_out = max(1, int(len(pairs[0]) * validation_share))

    def block(self, number: int, rows: int) -> Pairs:
        """Held-out rows for `VALIDATION_BLOCK`, else ``rows`` of the others."""
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

    def _shuffled(self, number: int, size: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, number])).permutation(size)
