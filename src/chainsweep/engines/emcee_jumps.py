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

from chainsweep.engines.emcee_density import Chunk, StackDensity, chunks
from chainsweep.engines.guide import Guide
from chainsweep.engines.mixture import Prepared, prepared
from chainsweep.engines.moves import GroupStreams
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
    density
        Of the data sets of the stack, and of what fills it up behind them.
    guide
        Of those in front that are real; its mixture is used.
    keys
        Raw keys ``(dataset, ensemble, 2)`` of the real ones; with the step they give all random numbers.
    """

    def __init__(self, density: StackDensity, guide: Guide, keys: NDArray[np.uint32], streams: GroupStreams) -> None:
        self.density, self.problem, self.streams = density, density.problem, streams
        self.count, self.ensembles = keys.shape[:2]
        filling = len(self.problem.batch) - self.count
        self.keys = jnp.asarray(np.pad(keys, ((0, filling), (0, 0), (0, 0))))
        every = np.pad(np.arange(self.count), (0, filling), mode="edge")
        # Neighbours may not change a sum, so each data set has the components of its own kind of search.
        self.kinds = [
            (rows, JUMPS[deep], jax.vmap(prepared)(guide.jumps(every, deep)))
            for deep in (False, True)
            if (rows := np.flatnonzero(guide.deep == deep)).size
        ]

    def propose(self, model: Any, state: Any) -> tuple[Any, NDArray[np.bool_]]:
        """Advance ``state`` in place by one step; also which walkers moved, ``(group * walkers,)``."""
        # contiguous, so these are views
        coords = state.coords.reshape(self.count, -1, state.coords.shape[1])
        log_prob = state.log_prob.reshape(self.count, -1)
        steps = (self.streams.steps[:: self.ensembles] % FOLD).astype(np.uint32)
        moved = np.zeros(log_prob.shape, bool)
        for rows, jumps, mixture in self.kinds:
            for some in chunks(rows):
                theta, here = coords[some.rows], log_prob[some.rows]
                moved[some.rows] = self._jump(some, jumps, mixture, steps, theta, here)
                coords[some.rows], log_prob[some.rows] = theta, here
        return state, moved.ravel()

    def _jump(
        self, some: Chunk, jumps: int, mixture: Prepared, steps: NDArray[np.uint32], theta: Floats, here: Floats
    ) -> NDArray[np.bool_]:
        """Advance ``theta`` ``(row, walker, ndim)`` with log densities ``here``, in place; which walkers moved."""
        places, count = some.places, len(some.rows)
        proposed = _propose(
            self.problem.problem,
            jumps,
            mixture,
            self.problem.observations,
            self.keys,
            steps[places],
            some.padded(theta),
            places,
            count,
        )
        points, after, log_q, log_uniform = (np.asarray(part)[:count] for part in proposed)
        density = self.density(points.reshape(count, -1, points.shape[-1]), some.rows).reshape(after.shape)
        log_q, moved = log_q.copy(), np.zeros(here.shape, bool)
        for jump in range(jumps):
            with np.errstate(invalid="ignore"):
                odds = density[:, jump] - here - after[:, jump] + log_q
            better = odds > log_uniform[:, jump]
            np.copyto(theta, points[:, jump], where=better[..., None])
            np.copyto(here, density[:, jump], where=better)
            np.copyto(log_q, after[:, jump], where=better)
            moved |= better
        return moved


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
    """Proposals for the first ``count`` of ``rows``, whose ``theta`` and ``steps`` are given, one after the other.

    Points ``(row, jump, walker, ndim)`` with their log proposal densities, those of the walkers themselves
    ``(row, walker)``, and logs of uniforms for all jumps; zeros behind the first ``count``.
    """

    def of(i: Any) -> tuple[Any, ...]:
        mine = jax.tree.map(lambda part: part[rows[i]], (mixture, observations, keys))
        return _propose_one(problem, jumps, steps[i], theta[i], *mine)

    def add(i: int, found: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(whole.at[i].set(part) for whole, part in zip(found, of(i), strict=True))

    empty = tuple(jnp.zeros((len(rows), *part.shape)) for part in jax.eval_shape(of, 0))
    return jax.lax.fori_loop(0, count, add, empty)


def _propose_one(
    problem: Problem, jumps: int, step: Any, theta: Any, mixture: Prepared, obs: Observation, keys: Any
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
