"""A model in the unconstrained space, for a sampler that needs a space without surfaces."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import jax.numpy as jnp

from chainsweep.model.problem import Observation, Problem, sum_log_probs
from chainsweep.numerics.arrays import Array


@dataclass(frozen=True, eq=False)
class FreeProblem(Problem):
    """A NumPyro model whose points ``theta`` are the unconstrained ``z``, with the Jacobian as a part of the prior."""

    @property
    def ndim(self) -> int:
        """The number of scalars in the unconstrained space."""
        return self.ndim_unconstrained

    def sample_prior(self, key: Array, obs: Observation) -> Array:
        """One prior draw, unconstrained."""
        return super().unconstrain(super().sample_prior(key, obs), obs)

    def constrain_with_jacobian(self, z: Array, obs: Observation) -> tuple[Array, Array]:
        """The point itself, with a log Jacobian of 0."""
        return z, jnp.zeros(())

    def unconstrain(self, theta: Array, obs: Observation) -> Array:
        """The point itself."""
        return theta

    def _log_probs(self, theta: Array, obs: Observation) -> tuple[Array, Array]:
        trace, log_jacobian = self._trace_unconstrained(theta, obs)
        prior, likelihood = sum_log_probs(trace, check_support=False)
        return prior + log_jacobian, likelihood


@lru_cache(maxsize=1)
def without_surfaces(problem: Problem) -> Problem:
    """The problem itself, or the unconstrained one where a parameter lives on a surface (a simplex, a correlation)."""
    if problem.ndim == problem.ndim_unconstrained:
        return problem
    return FreeProblem(**{item.name: getattr(problem, item.name) for item in fields(problem)})
