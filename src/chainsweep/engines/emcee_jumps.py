r"""Jumps of walkers: independence Metropolis steps towards what importance sampling found (``engines/guide.py``).

A proposal :math:`\theta'` is drawn from a mixture :math:`q` that follows the posterior :math:`p`, whatever the walker
and its ensemble, and accepted with probability :math:`\min(1, p(\theta') q(\theta) / p(\theta) q(\theta'))`: exact
for any mixture, a poor one is only refused more often. The mixture lives in the unconstrained space, so that
:math:`q(\theta) = q_z(z) / |d\theta / dz|`.

Reference: L. Tierney, Annals of Statistics 22, 1701 (1994), section 2.3.3.
"""

from __future__ import annotations

from collections.abc import Callable
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

Ints = NDArray[np.int64]

JUMPS = {False: 3, True: 8}
"""Proposals to each walker in one step, where the quick search sufficed and where it took a deep one."""
FOLD = 1 << 31
"""Steps are folded into keys modulo this."""


class JumpMove(Move):
    """All walkers of a stack jump, a few times a step: no proposal depends on another walker.

    Parameters
    ----------
    problem
        The data sets of the stack, and behind them what fills it up.
    guide
        Of those in front that are real; its mixture is used.
    keys
        Raw keys ``(dataset, ensemble, 2)`` of the real ones; with the step they give all random numbers.
    log_density
        Of points ``(row, draw, ndim)`` of the data sets ``rows``, -inf where it is not finite.
    """

    def __init__(
        self,
        problem: BatchedProblem,
        guide: Guide,
        keys: NDArray[np.uint32],
        streams: GroupStreams,
        log_density: Callable[[Floats, Ints], Floats],
    ) -> None:
        self.problem, self.streams, self.log_density = problem, streams, log_density
        self.count, self.ensembles = keys.shape[:2]
        filling = len(problem.batch) - self.count
        self.keys = np.pad(keys, ((0, filling), (0, 0), (0, 0)))
        self.theta = np.zeros((len(self.keys), self.ensembles * streams.walkers, problem.problem.ndim))
        self.steps = np.zeros(len(self.keys), np.uint32)
        every = np.pad(np.arange(self.count), (0, filling), mode="edge")
        # Neighbours may not change a sum, so each data set has the components of its own kind of search.
        self.kinds = [
            (rows, JUMPS[deep], jax.vmap(prepared)(guide.jumps(every, deep)))
            for deep in (False, True)
            if (rows := np.flatnonzero(guide.deep == deep)).size
        ]

    def propose(self, model: Any, state: Any) -> tuple[Any, NDArray[np.bool_]]:
        """Advance ``state`` in place by one step; also which walkers moved, ``(group * walkers,)``."""
        self.theta[: self.count] = state.coords.reshape(self.count, *self.theta.shape[1:])
        self.steps[: self.count] = self.streams.steps[:: self.ensembles] % FOLD
        log_prob = state.log_prob.reshape(self.count, -1)
        moved = np.zeros(log_prob.shape, bool)
        for rows, jumps, mixture in self.kinds:
            filled = np.pad(rows, (0, len(self.keys) - len(rows)))
            proposed = _propose(
                self.problem.problem,
                jumps,
                mixture,
                self.problem.observations,
                self.keys,
                self.steps,
                self.theta,
                filled,
                len(rows),
            )
            points, after, log_q, log_uniform = (np.asarray(part)[: len(rows)] for part in proposed)
            log_q = log_q.copy()
            density = self.log_density(points.reshape(len(rows), -1, points.shape[-1]), rows).reshape(after.shape)
            theta, here = self.theta[rows], log_prob[rows]
            for jump in range(jumps):
                with np.errstate(invalid="ignore"):
                    odds = density[:, jump] - here - after[:, jump] + log_q
                better = odds > log_uniform[:, jump]
                theta[better], here[better] = points[:, jump][better], density[:, jump][better]
                log_q[better] = after[:, jump][better]
                moved[rows] |= better
            self.theta[rows], log_prob[rows] = theta, here
        state.coords[:] = self.theta[: self.count].reshape(state.coords.shape)
        state.log_prob[:] = log_prob.ravel()
        return state, moved.ravel()


@partial(jax.jit, static_argnums=(0, 1))
def _propose(
    problem: Problem,
    jumps: int,
    mixture: Prepared,
    observations: Observation,
    keys: Any,
    steps: Any,
    theta: Any,
    rows: Any,
    count: int,
) -> tuple[Any, ...]:
    """Proposals for the first ``count`` of ``rows``, one data set after the other; zeros behind them.

    Points ``(row, jump, walker, ndim)`` with their log proposal densities, those of the walkers themselves
    ``(row, walker)``, and logs of uniforms for all jumps.
    """

    def of(row: Any) -> tuple[Any, ...]:
        mine = jax.tree.map(lambda part: part[row], (mixture, observations, keys, theta))
        return _propose_one(problem, jumps, steps[row], *mine)

    def add(i: int, found: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(whole.at[i].set(part) for whole, part in zip(found, of(rows[i]), strict=True))

    empty = tuple(jnp.zeros((len(theta), *part.shape)) for part in jax.eval_shape(of, 0))
    return jax.lax.fori_loop(0, count, add, empty)


def _propose_one(
    problem: Problem, jumps: int, step: Any, mixture: Prepared, obs: Observation, keys: Any, theta: Any
) -> tuple[Any, ...]:
    """For one data set: ``keys`` ``(ensemble, 2)``, ``theta`` ``(walker, ndim)`` of one ensemble after the other."""
    ensembles = keys.shape[0]
    walkers, ndim = theta.shape[0] // ensembles, theta.shape[1]

    def numbers(key: Any) -> tuple[Any, Any]:
        for_draws, for_uniforms = jax.random.split(jax.random.fold_in(key, step))
        drawn = mixture.draws(for_draws, jumps * walkers)
        return drawn.reshape(jumps, walkers, -1), jnp.log1p(-jax.random.uniform(for_uniforms, (jumps, walkers)))

    def log_proposal(z: Any) -> tuple[Any, Any]:
        points, log_jacobian = jax.vmap(problem.constrain_with_jacobian, in_axes=(0, None))(z, obs)
        return points, mixture.log_density(z) - log_jacobian

    z, log_uniform = jax.vmap(numbers, out_axes=1)(keys)
    points, after = log_proposal(z.reshape(-1, z.shape[-1]))
    _, before = log_proposal(jax.vmap(problem.unconstrain, in_axes=(0, None))(theta, obs))
    shape = jumps, ensembles * walkers
    return points.reshape(*shape, ndim), after.reshape(shape), before, log_uniform.reshape(shape)
