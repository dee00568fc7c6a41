r"""Jumps of walkers: independence Metropolis steps towards what importance sampling found (``engines/guide.py``).

A proposal :math:`\theta'` is drawn from a mixture :math:`q` that follows the posterior :math:`p`, whatever the walker
and its ensemble, and accepted with probability :math:`\min(1, p(\theta') q(\theta) / p(\theta) q(\theta'))`: exact
for any mixture, a poor one is only refused more often. The mixture lives in the unconstrained space, so that
:math:`q(\theta) = q_z(z) / |d\theta / dz|`.

Reference: L. Tierney, Annals of Statistics 22, 1701 (1994), section 2.3.3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from emcee.moves import Move
from numpy.typing import NDArray

from chainsweep.engines.guide import Guide
from chainsweep.engines.mixture import Prepared, prepared
from chainsweep.engines.moves import GroupStreams
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Observation, Problem

Floats = NDArray[np.float64]

FOLD = 1 << 31
"""Steps are folded into keys modulo this."""


class JumpMove(Move):
    """All walkers of a stack propose at once: no proposal depends on another walker.

    Parameters
    ----------
    problem
        The data sets of the stack, and behind them what fills it up.
    guide
        Of those in front that are real; its mixture is used.
    count
        How many these are.
    keys
        Raw keys ``(dataset, ensemble, 2)`` of the real ones; with the step they give a proposal.
    """

    def __init__(
        self, problem: BatchedProblem, guide: Guide, count: int, keys: NDArray[np.uint32], streams: GroupStreams
    ) -> None:
        self.problem, self.count, self.streams = problem, count, streams
        filling = len(problem.batch) - count
        self.keys = np.pad(keys, ((0, filling), (0, 0), (0, 0)))
        every = np.pad(np.arange(count), (0, filling), mode="edge")
        # Neighbours may not change a sum, so each data set has the components of its own kind of search.
        self.kinds = [
            (rows, jax.vmap(prepared)(guide.jumps(every, deep)))
            for deep in (False, True)
            if (rows := np.flatnonzero(guide.deep[:count] == deep)).size
        ]

    def propose(self, model: Any, state: Any) -> tuple[Any, NDArray[np.bool_]]:
        """Advance ``state`` in place by one step; also which walkers moved, ``(group * walkers,)``."""
        coords, log_prob = state.coords, state.log_prob
        points, factors = self._proposals(coords)
        density = model.log_prob_fn(points)
        with np.errstate(invalid="ignore"):
            odds = factors + density - log_prob
        better = odds > self.streams.log_uniform(self.streams.walkers).ravel()
        coords[better], log_prob[better] = points[better], density[better]
        return state, better

    def _proposals(self, coords: Floats) -> tuple[Floats, Floats]:
        """New points ``(walker, ndim)`` and log factors ``(walker,)``, -inf where a density is not a number."""
        slots, ensembles = self.keys.shape[:2]
        walkers, ndim = self.streams.walkers, coords.shape[1]
        theta = np.zeros((slots, ensembles, walkers, ndim))
        theta[: self.count] = coords.reshape(self.count, ensembles, walkers, ndim)
        steps = np.zeros(slots, np.uint32)
        steps[: self.count] = self.streams.steps[::ensembles] % FOLD
        points, factors = np.empty_like(theta), np.empty(theta.shape[:-1])
        for rows, mixture in self.kinds:
            filled = np.pad(rows, (0, slots - len(rows)))
            found = _propose(
                self.problem.problem, mixture, self.problem.observations, self.keys, steps, theta, filled, len(rows)
            )
            points[rows], factors[rows] = (np.asarray(part)[rows] for part in found)
        factors = np.where(np.isfinite(factors), factors, -np.inf)
        return points[: self.count].reshape(-1, ndim), factors[: self.count].ravel()


@partial(jax.jit, static_argnums=0)
def _propose(
    problem: Problem,
    mixture: Prepared,
    observations: Observation,
    keys: Any,
    steps: Any,
    theta: Any,
    rows: Any,
    count: int,
) -> tuple[Any, Any]:
    """Proposals for the first ``count`` of ``rows``, one data set after the other; zeros for the others."""

    def add(i: int, found: tuple[Any, Any]) -> tuple[Any, Any]:
        row = rows[i]
        mine = jax.tree.map(lambda part: part[row], (mixture, observations, keys, theta))
        points, factors = _propose_one(problem, steps[row], *mine)
        return found[0].at[row].set(points), found[1].at[row].set(factors)

    return jax.lax.fori_loop(0, count, add, (jnp.zeros_like(theta), jnp.zeros(theta.shape[:-1])))


def _propose_one(
    problem: Problem, step: Any, mixture: Prepared, obs: Observation, keys: Any, theta: Any
) -> tuple[Any, Any]:
    """For one data set: ``keys`` ``(ensemble, 2)``, ``theta`` ``(ensemble, walker, ndim)``."""
    shape = theta.shape[:2]

    def density(z: Any) -> tuple[Any, Any]:
        points, log_jacobian = jax.vmap(problem.constrain_with_jacobian, in_axes=(0, None))(z, obs)
        return points, mixture.log_density(z) - log_jacobian

    drawn = jax.vmap(lambda key: mixture.draws(jax.random.fold_in(key, step), shape[1]))(keys)
    drawn = drawn.reshape(-1, drawn.shape[-1])
    points, after = density(drawn)
    _, before = density(jax.vmap(problem.unconstrain, in_axes=(0, None))(theta.reshape(-1, theta.shape[-1]), obs))
    return points.reshape(theta.shape), (before - after).reshape(shape)
