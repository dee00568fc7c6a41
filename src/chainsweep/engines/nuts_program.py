"""The compiled programs of one attempt: NumPyro's kernels over chains and data sets, in whitened coordinates."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
ADAPTING_SHARE = 10
"""HMC adapts its step size for this part of ``warmup``: its metric is the Laplace fit's, then the scouts'."""
JITTER = 0.3
"""Step sizes of HMC vary by this share, evenly, so that no trajectory closes on itself."""

JITTER_STREAM = 1 << 20
"""Far from the small numbers that the kernel's own ``split`` counts: folding in 1 gives the second part of a split."""


class Lanes(NamedTuple):
    """What the lanes of one compiled call are about: a data set each, and its whitening.

    ``center`` ``(lane, n)`` and ``factor`` ``(lane, n, n)``: unconstrained ``z = center + factor @ w``.
    """

    observations: Observation
    center: Any
    factor: Any


class Program:
    """The compiled programs of one attempt: initialise lanes, advance them by a block of iterations.

    ``adapt`` iterations of step size (NUTS: and metric) adaptation come before ``draws`` at most; ``scout`` iterations
    before that, where not 0, are for the metric alone. ``block`` divides all three.
    """

    def __init__(self, problem: Problem, settings: NutsSettings, attempt: int) -> None:
        self.problem = problem
        self.fixed = settings.algorithm == "hmc" or (settings.algorithm == "auto" and attempt == 0)
        self.dense = settings.dense_mass
        warmup = settings.warmup * 2**attempt
        if self.fixed:
            self.block = max(10, warmup // ADAPTING_SHARE)
            self.adapt, self.scout = self.block, 3 * self.block
        else:
            self.block = next(size for size in range(min(settings.block, warmup), 0, -1) if warmup % size == 0)
            self.adapt, self.scout = warmup, 0
        self.draws = -(-settings.draws * 2**attempt // self.block) * self.block
        self.depth = min(settings.max_tree_depth + attempt, MAX_TREE_DEPTH)
        self.steps = settings.hmc_steps * 2**attempt if self.fixed else None
        self.target = max(settings.target_accept, TARGET_ACCEPT_BY_ATTEMPT[attempt])
        self.initialise = jax.jit(jax.vmap(jax.vmap(self._initialise, in_axes=(0, 0, None))))
        self.merge = jax.jit(self._merge)
        self.pool_step_sizes = jax.jit(self._pool_step_sizes)
        self.advance = jax.jit(jax.vmap(jax.vmap(self._advance, in_axes=(0, None))), donate_argnums=0)

    @property
    def iterations(self) -> int:
        """The most iterations of one data set."""
        return self.scout + self.adapt + self.draws

    def _kernel(self, w: Any, key: Any, lane: Lanes) -> tuple[Any, Callable]:
        def potential(w: Any) -> Any:
            return self.problem.potential(lane.center + lane.factor @ w, lane.observations)

        algorithm: dict[str, Any] = {"max_tree_depth": self.depth, "dense_mass": self.dense}
        if self.fixed:
            algorithm = {"num_steps": self.steps, "trajectory_length": None, "adapt_mass_matrix": False}
        init, sample = hmc(
            potential_fn=potential, kinetic_fn=euclidean_kinetic_energy, algo="HMC" if self.fixed else "NUTS"
        )
        return init(w, self.adapt, target_accept_prob=self.target, rng_key=key, **algorithm), sample

    def _initialise(self, w: Any, key: Any, lane: Lanes) -> Any:
        return self._kernel(w, key, lane)[0]

    @staticmethod
    def _merge(state: Any, new: Any, fresh: Any) -> Any:
        """``new`` where ``fresh`` ``(lane,)``, else ``state``."""
        return jax.tree.map(lambda a, b: jnp.where(fresh.reshape(-1, *(1,) * (a.ndim - 1)), b, a), state, new)

    @staticmethod
    def _pool_step_sizes(state: Any, adapted: Any) -> Any:
        """In the lanes ``adapted`` ``(lane,)`` all chains take the geometric mean of their step sizes."""
        own = state.adapt_state.step_size
        shared = jnp.exp(jnp.log(own).mean(axis=1, keepdims=True))
        return state._replace(
            adapt_state=state.adapt_state._replace(step_size=jnp.where(adapted[:, None], shared, own))
        )

    def _advance(self, state: Any, lane: Lanes) -> Any:
        # NumPyro's sample function closes over what init was given (warm-up length, adaptation), so both are
        # made anew inside the trace; the unused initial state is dead code to the compiler.
        _, sample = self._kernel(state.z, state.rng_key, lane)

        def step(old: Any, _: None) -> tuple[Any, tuple]:
            new = sample(_jittered(old) if self.fixed else old, (), {})
            if self.fixed:
                adapting = old.i < self.adapt
                size = jnp.where(adapting, new.adapt_state.step_size, old.adapt_state.step_size)
                new = new._replace(adapt_state=new.adapt_state._replace(step_size=size))
            return new, (new.z, new.potential_energy, new.diverging, new.accept_prob, new.num_steps)

        return jax.lax.scan(step, state, None, length=self.block)


def _jittered(state: Any) -> Any:
    """The state with another step size for one iteration."""
    key = jax.random.fold_in(state.rng_key, JITTER_STREAM)
    factor = jax.random.uniform(key, minval=1.0 - JITTER, maxval=1.0 + JITTER)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=factor * state.adapt_state.step_size))


@lru_cache(maxsize=64)
def program_of(problem: Problem, settings: NutsSettings, attempt: int) -> Program:
    """The one program of an attempt in this process: JAX compiles it once per shape."""
    return Program(problem, settings, attempt)
