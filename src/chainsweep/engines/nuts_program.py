"""The compiled program of NUTS: NumPyro's kernel over chains and data sets, in whitened coordinates."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from numpyro.infer.hmc import hmc
from numpyro.infer.hmc_util import euclidean_kinetic_energy

from chainsweep.config import NutsSettings
from chainsweep.model.problem import Observation, Problem

Floats = NDArray[np.float64]

TARGET_ACCEPT_BY_ATTEMPT = (0.0, 0.97, 0.99, 0.995, 0.998, 0.999)
"""Target acceptance of later attempts; the first takes the setting."""
MAX_TREE_DEPTH = 12
TRACE_THIN = 10
"""Every this many iterations are kept in the trace, at twice as many in each later attempt."""


class Lanes(NamedTuple):
    """The data sets of one attempt and their whitening: ``center`` ``(dataset, n)``, ``factor`` ``(dataset, n, n)``."""

    observations: Observation
    center: Any
    factor: Any


class Program:
    """The compiled program of one attempt: initialise lanes, advance them by a block of iterations."""

    def __init__(self, problem: Problem, settings: NutsSettings, attempt: int) -> None:
        self.problem = problem
        self.dense = settings.dense_mass
        self.warmup = settings.warmup * 2**attempt
        self.draws = settings.draws * 2**attempt
        self.trace_thin = TRACE_THIN * 2**attempt
        self.depth = min(settings.max_tree_depth + attempt, MAX_TREE_DEPTH)
        self.target = max(settings.target_accept, TARGET_ACCEPT_BY_ATTEMPT[attempt])
        self.initialise = jax.jit(jax.vmap(jax.vmap(self._initialise, in_axes=(0, 0, None))))
        self.advance = jax.jit(
            lambda state, lanes, length: jax.vmap(
                jax.vmap(lambda one, lane: self._advance(one, lane, length), in_axes=(0, None))
            )(state, lanes),
            static_argnums=2,
        )

    def _kernel(self, w: Any, key: Any, lane: Lanes) -> tuple[Any, Callable]:
        def potential(w: Any) -> Any:
            return self.problem.potential(lane.center + lane.factor @ w, lane.observations)

        init, sample = hmc(potential_fn=potential, kinetic_fn=euclidean_kinetic_energy, algo="NUTS")
        state = init(
            w,
            self.warmup,
            dense_mass=self.dense,
            target_accept_prob=self.target,
            max_tree_depth=self.depth,
            rng_key=key,
        )
        return state, sample

    def _initialise(self, w: Any, key: Any, lane: Lanes) -> Any:
        return self._kernel(w, key, lane)[0]

    def _advance(self, state: Any, lane: Lanes, length: int) -> Any:
        # NumPyro's sample function closes over what init was given (warm-up length, adaptation), so both are
        # made anew inside the trace; the unused initial state is dead code to the compiler.
        _, sample = self._kernel(state.z, state.rng_key, lane)

        def step(carry: Any, _: None) -> tuple[Any, tuple]:
            new = sample(carry, (), {})
            return new, (new.z, new.potential_energy, new.diverging, new.accept_prob, new.num_steps)

        return jax.lax.scan(step, state, None, length=length)


@lru_cache(maxsize=64)
def program_of(problem: Problem, settings: NutsSettings, attempt: int) -> Program:
    """The one program of an attempt in this process: JAX compiles it once per shape."""
    return Program(problem, settings, attempt)
