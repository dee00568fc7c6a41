r"""Independence Metropolis steps of walkers, to draws of a mixture from importance sampling (``global_proposal.py``).

A proposal :math:`\theta'` is drawn from a mixture :math:`q` that approximates the posterior :math:`p`, independently of
the walker and its ensemble, and accepted with probability
:math:`\min(1, p(\theta') q(\theta) / p(\theta) q(\theta'))`. This is exact for any mixture; the proposals of a poor one
are only rejected more often. The mixture lives in the unconstrained space, so that
:math:`q(\theta) = q_z(z) / |d\theta / dz|`.

Reference: L. Tierney, Annals of Statistics 22, 1701 (1994), section 2.3.3.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from emcee.moves import Move
from numpy.typing import NDArray

from chainsweep.engines.emcee.density import Chunk, StackDensity, chunks, log_density_one
from chainsweep.engines.emcee.moves import GroupStreams
from chainsweep.importance.global_proposal import GlobalProposal
from chainsweep.importance.mixture_density import Prepared, prepared, random_numbers
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.arrays import Bools, Floats
from chainsweep.numerics.loops import isolated, on_cpu, scan_rows
from chainsweep.numerics.random_numbers import uniforms

TRIES = {False: 3, True: 4}
"""Proposals to each walker in one step, by whether its mixture is enlarged (``GlobalProposal.is_enlarged``)."""
FOLD = 1 << 31
"""The number modulo which steps are folded into keys."""


class IndependenceMove(Move):
    """A move in which all walkers of a stack try a few independence steps: no proposal depends on another walker.

    Parameters
    ----------
    density
        The log density of the data sets of the stack, and of the repeated ones that fill it up after them.
    proposal
        The global proposal of the first data sets, those that are not filling; its mixture is used.
    keys
        Raw keys ``(dataset, 2)`` of the same data sets; together with the step they decide all random numbers.
    """

    def __init__(
        self, density: StackDensity, proposal: GlobalProposal, keys: NDArray[np.uint32], streams: GroupStreams
    ) -> None:
        self.density, self.problem, self.streams = density, density.problem, streams
        self.count = len(keys)
        self.ensembles = len(streams.keys) // self.count
        filling = len(self.problem.batch) - self.count
        self.keys = jax.device_put(np.pad(keys, ((0, filling), (0, 0))).astype(np.uint32))
        every = np.pad(np.arange(self.count), (0, filling), mode="edge")
        # The other data sets may not change a sum, so each one has the number of components of its own kind of mixture.
        self.kinds = [
            (rows, TRIES[enlarged], _prepared(proposal.mixture(every, enlarged or on_cpu())))
            for enlarged in (False, True)
            if (rows := np.flatnonzero(proposal.is_enlarged == enlarged)).size
        ]

    def propose(self, model: Any, state: Any) -> tuple[Any, Bools]:
        """Advance ``state`` in place by one step; return it, and which walkers moved, ``(group * walkers,)``."""
        # The arrays are contiguous, so these are views.
        coords = state.coords.reshape(self.count, -1, state.coords.shape[1])
        log_prob = state.log_prob.reshape(self.count, -1)
        steps = (self.streams.steps[:: self.ensembles] % FOLD).astype(np.uint32)
        moved = np.zeros(log_prob.shape, bool)
        advance = self._step if self.problem.problem.has_jax_likelihood else self._step_on_host
        for rows, tries, mixture in self.kinds:
            for some in chunks(rows):
                theta, here = some.padded(coords[some.rows]), some.padded(log_prob[some.rows])
                at = Places(some.places, steps[some.places], np.asarray(len(some.rows)))
                found = advance(some, tries, mixture, at, theta, here)
                for whole, part in zip((coords, log_prob, moved), found, strict=True):
                    whole[some.rows] = np.asarray(part)[: len(some.rows)]
        return state, moved.ravel()

    def _step(self, some: Chunk, tries: int, mixture: Prepared, at: Places, theta: Floats, here: Floats) -> Any:
        """Return ``theta`` ``(row, walker, ndim)`` and its log densities after a step, and which walkers moved."""
        return _step(self.problem.problem, tries, mixture, self.problem.observations, self.keys, at, theta, here)

    def _step_on_host(self, some: Chunk, tries: int, mixture: Prepared, at: Places, theta: Floats, here: Floats) -> Any:
        """Return the same as ``_step`` for a likelihood that is not compiled."""
        problem = self.problem
        proposed = _propose(problem.problem, tries, mixture, problem.observations, self.keys, at, theta)
        count = len(some.rows)
        points = np.asarray(proposed.points)[:count]
        density = some.padded(self.density(points.reshape(count, -1, points.shape[-1]), some.rows))
        return _accept(theta, here, proposed, density.reshape(proposed.log_q.shape))


_prepared = jax.jit(jax.vmap(prepared))


class Places(NamedTuple):
    """The data sets of a chunk: their ``rows`` in the stack and their ``steps``; only the first ``count`` are used."""

    rows: Any
    steps: Any
    count: Any


class Proposals(NamedTuple):
    """The proposals of one step.

    ``points`` ``(try, walker, ndim)``; their log proposal densities ``log_q`` and the logs of the uniforms that decide
    on acceptance, both ``(try, walker)``; ``log_q_here`` ``(walker,)``, the log proposal densities at the walkers.
    """

    points: Any
    log_q: Any
    log_uniform: Any
    log_q_here: Any


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    problem: Problem, tries: int, mixture: Prepared, observations: Observation, keys: Any, at: Places, *walkers: Any
) -> Any:
    """Return the walkers of each data set of ``at`` after a step; zeros in the other rows.

    These are ``theta`` ``(row, walker, ndim)``, its log densities, and which walkers moved.
    """

    def one(step: Any, theta: Any, here: Any, mixture: Prepared, obs: Observation, key: Any) -> Any:
        proposed = _proposals(problem, tries, step, theta, mixture, obs, key)
        points = proposed.points.reshape(-1, theta.shape[1])
        density = isolated(partial(log_density_one, problem), points, obs)
        return _accepted(theta, here, proposed, density.reshape(proposed.log_q.shape))

    return scan_rows(one, at.rows, at.count, (at.steps, *walkers), (mixture, observations, keys))


@partial(jax.jit, static_argnums=(0, 1))
def _propose(
    problem: Problem, tries: int, mixture: Prepared, observations: Observation, keys: Any, at: Places, theta: Any
) -> Proposals:
    """Return ``Proposals`` for each data set of ``at``; zeros in the other rows."""
    datasets = mixture, observations, keys
    return scan_rows(partial(_proposals, problem, tries), at.rows, at.count, (at.steps, theta), datasets)


def _proposals(
    problem: Problem, tries: int, step: Any, theta: Any, mixture: Prepared, obs: Observation, key: Any
) -> Proposals:
    """The proposals of one step to the walkers of one data set, which are at ``theta`` ``(walker, ndim)``."""
    walkers, ndim = theta.shape
    count, shape = tries * walkers, (tries, walkers)

    def unconstrained(theta: Any) -> Any:
        return jax.vmap(problem.unconstrain, in_axes=(0, None))(theta, obs)

    def constrained(z: Any) -> tuple[Any, Any]:
        return jax.vmap(problem.constrain_with_jacobian, in_axes=(0, None))(z, obs)

    for_draws, for_choices = jax.random.split(jax.random.fold_in(key, step))
    drawn = isolated(mixture.draws, random_numbers(for_draws, count, mixture.mean.shape[1]))
    z = jnp.concatenate([drawn, isolated(unconstrained, theta)])
    points, log_jacobian = isolated(constrained, z)
    log_q = isolated(mixture.log_density, z) - log_jacobian
    log_uniform = jnp.log(uniforms(for_choices, count)).reshape(shape)
    return Proposals(points[:count].reshape(*shape, ndim), log_q[:count].reshape(shape), log_uniform, log_q[count:])


def _accepted(theta: Any, here: Any, proposed: Proposals, density: Any) -> tuple[Any, Any, Any]:
    """The walkers of one data set after Metropolis steps to the proposals, one after the other.

    ``density`` is the log density at the proposals, ``here`` that at the walkers. A proposal without density is never
    accepted; a walker at a point where the mixture has no density stays there.
    """

    def one_try(now: tuple[Any, ...], to: tuple[Any, ...]) -> tuple[tuple[Any, ...], None]:
        theta, here, log_q, moved = now
        point, there, log_q_there, log_uniform = to
        better = there - here - log_q_there + log_q > log_uniform
        taken = jnp.where(better[:, None], point, theta), jnp.where(better, there, here)
        return (*taken, jnp.where(better, log_q_there, log_q), moved | better), None

    start = theta, here, proposed.log_q_here, jnp.zeros(here.shape, bool)
    offered = proposed.points, density, proposed.log_q, proposed.log_uniform
    (theta, here, _, moved), _ = jax.lax.scan(one_try, start, offered)
    return theta, here, moved


_accept = jax.jit(jax.vmap(_accepted))
