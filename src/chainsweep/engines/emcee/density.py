"""Log densities of the data sets of a stack, one chunk at a time: one compiled program serves any number of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.arrays import Floats, Ints
from chainsweep.numerics.loops import scan_rows

CHUNK = 64
"""The data sets of one call of a compiled function, which computes them one by one."""

POINTS = 32
"""The points of one data set that are computed together: their arrays fit into a processor's cache."""


@dataclass(frozen=True)
class Chunk:
    """Some ``rows`` of a stack: slice ``part`` of the requested ones; ``places`` are the same, padded to ``CHUNK``."""

    rows: Ints
    part: slice
    places: Ints

    def padded(self, values: Floats) -> Floats:
        """Return ``values`` ``(row, ...)``, padded with zeros to ``CHUNK`` rows."""
        whole = np.zeros((CHUNK, *values.shape[1:]))
        whole[: len(values)] = values
        return whole


def chunks(rows: Ints) -> Iterator[Chunk]:
    """Yield ``rows`` in order, ``CHUNK`` at a time."""
    for first in range(0, len(rows), CHUNK):
        part = slice(first, first + CHUNK)
        some = rows[part]
        places = np.zeros(CHUNK, dtype=np.int64)
        places[: len(some)] = some
        yield Chunk(some, part, places)


def padded_to_chunks(count: int) -> int:
    """The least multiple of ``CHUNK`` that is at least ``count``."""
    return -(-count // CHUNK) * CHUNK


class StackDensity:
    """The log density of the data sets of a stack, those of the batch of ``problem``."""

    def __init__(self, problem: BatchedProblem) -> None:
        self.problem = problem

    def __call__(self, theta: Floats, rows: Ints) -> Floats:
        """Log density at points ``(row, draw, ndim)`` of the data sets ``rows``, -inf where it is not finite."""
        problem = self.problem.problem
        if problem.has_jax_likelihood:
            density = np.empty(theta.shape[:2])
            for some in chunks(rows):
                points = some.padded(theta[some.part])
                found = _log_density(problem, self.problem.observations, points, some.places, len(some.rows))
                density[some.part] = np.asarray(found)[: len(some.rows)]
            return density
        # One shape is compiled for the prior. The likelihood is not called at points that are NaN.
        filled = np.full((len(self.problem.batch), *theta.shape[1:]), np.nan)
        filled[rows] = theta
        density = self.problem.log_density(filled)[rows]
        return np.where(np.isfinite(density), density, -np.inf)


@partial(jax.jit, static_argnums=0)
def _log_density(problem: Problem, observations: Observation, theta: Any, rows: Any, count: int) -> Any:
    """Log density ``(row, draw)`` at ``theta`` ``(row, draw, ndim)`` of the first ``count`` data sets of ``rows``."""
    return scan_rows(partial(log_density_one, problem), rows, count, (theta,), (observations,))


def log_density_one(problem: Problem, theta: Any, obs: Observation) -> Any:
    """Log density of one data set at ``theta`` ``(draw, ndim)``, -inf where it is not finite."""
    density = jax.lax.map(lambda points: problem.log_density(points, obs), theta, batch_size=POINTS)
    return jnp.where(jnp.isfinite(density), density, -jnp.inf)
