r"""The compiled programs of one attempt: NumPyro's kernels over chains and data sets, in whitened coordinates.

After each transition of NumPyro's kernel a chain tries to *jump*: independence Metropolis steps whose proposals come
from a mixture :math:`q` that follows the posterior (``engines/guide.py``), accepted with probability
:math:`\min(1, p(w') q(w) / p(w) q(w'))`. Either step leaves the exact density as it is; together they cross ridges and
gaps where trajectories alone would need thousands of gradients.

Reference: Tierney 1994, Annals of Statistics 22, 1701 (cycles of Metropolis kernels).
"""

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
from chainsweep.engines.mixture import Mixture, one_draw, one_log_density
from chainsweep.model.problem import Observation, Problem

Floats = NDArray[np.float64]

TARGET_ACCEPT_BY_ATTEMPT = (0.0, 0.95, 0.97, 0.98, 0.99, 0.995)
"""Least target acceptance of each attempt; the first takes the setting."""
MOST_STEPS = 12
"""Leapfrog steps of HMC double from attempt to attempt, up to this many (or the setting)."""
HMC_SCOUTS, NUTS_SCOUTS = 0.3, 0.9
"""Share of ``warmup`` that goes to scouts where there is no metric yet; a block after them is for the step size."""
JITTER = 0.3
"""Step sizes of HMC vary by this share, evenly, so that no trajectory closes on itself."""

JITTER_STREAM, JUMP_STREAM = 1 << 20, 1 << 21
"""Far from the small numbers that the kernel's own ``split`` counts: folding in 1 gives the second part of a split."""
LATER_JUMPS = 4
"""Later attempts try this many times as many jumps after each transition."""


class Lanes(NamedTuple):
    """What the lanes of one compiled call are about: a data set each, its whitening, and its jumps.

    ``center`` ``(lane, n)`` and ``factor`` ``(lane, n, n)``: unconstrained ``z = center + factor @ w``. ``jumps`` is a
    mixture in ``w``.
    """

    observations: Observation
    center: Any
    factor: Any
    jumps: Mixture


class Program:
    """The compiled programs of one attempt: initialise lanes, advance them by a block of iterations.

    ``scout`` iterations are for the metric, ``adapt`` for the step size, then come ``draws`` at most. ``block`` divides
    all three.
    """

    def __init__(self, problem: Problem, settings: NutsSettings, attempt: int) -> None:
        self.problem = problem
        self.fixed = settings.algorithm == "hmc" or (
            settings.algorithm == "auto" and attempt + 1 < settings.attempts
        )
        self.jumps = settings.jumps * (LATER_JUMPS if attempt else 1)
        warmup = settings.warmup * 2**attempt
        self.block = min(settings.block, warmup // 4)
        self.adapt = self.block
        self.scout = max(1, round((HMC_SCOUTS if self.fixed else NUTS_SCOUTS) * warmup / self.block)) * self.block
        self.draws = -(-settings.draws * 2**attempt // self.block) * self.block
        self.depth = settings.max_tree_depth
        self.steps = min(settings.hmc_steps * 2**attempt, max(MOST_STEPS, settings.hmc_steps)) if self.fixed else None
        self.target = max(settings.target_accept, TARGET_ACCEPT_BY_ATTEMPT[attempt])
        self.initialise = jax.jit(jax.vmap(jax.vmap(self._initialise, in_axes=(0, 0, None))))
        self.merge = jax.jit(self._merge)
        self.pool_step_sizes = jax.jit(self._pool_step_sizes)
        self.advance = jax.jit(jax.vmap(jax.vmap(self._advance, in_axes=(0, None))), donate_argnums=0)

    @property
    def iterations(self) -> int:
        """The most iterations of one data set."""
        return self.scout + self.adapt + self.draws

    def _potential(self, w: Any, lane: Lanes) -> Any:
        return self.problem.potential(lane.center + lane.factor @ w, lane.observations)

    def _kernel(self, w: Any, key: Any, lane: Lanes) -> tuple[Any, Callable]:
        def potential(w: Any) -> Any:
            return self._potential(w, lane)

        algorithm: dict[str, Any] = {"max_tree_depth": self.depth}
        if self.fixed:
            algorithm = {"num_steps": self.steps, "trajectory_length": None}
        init, sample = hmc(
            potential_fn=potential, kinetic_fn=euclidean_kinetic_energy, algo="HMC" if self.fixed else "NUTS"
        )
        state = init(w, self.adapt, adapt_mass_matrix=False, target_accept_prob=self.target, rng_key=key, **algorithm)
        return state, sample

    def _initialise(self, w: Any, key: Any, lane: Lanes) -> Any:
        return self._kernel(w, key, lane)[0]

    @staticmethod
    def _merge(state: Any, new: Any, fresh: Any) -> Any:
        """``new`` where ``fresh`` ``(lane,)``, else ``state``."""
        return jax.tree.map(lambda a, b: jnp.where(fresh.reshape(-1, *(1,) * (a.ndim - 1)), b, a), state, new)

    @staticmethod
    def _pool_step_sizes(state: Any, adapted: Any, share: Any) -> Any:
        """In the lanes ``adapted`` ``(lane,)`` all chains take ``share`` of the geometric mean of their step sizes."""
        own = state.adapt_state.step_size
        shared = share[:, None] * jnp.exp(jnp.log(own).mean(axis=1, keepdims=True))
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
            if self.jumps:
                new = self._jump(new, lane)
            return new, (new.z, new.potential_energy, new.diverging, new.accept_prob, new.num_steps)

        return jax.lax.scan(step, state, None, length=self.block)

    def _jump(self, state: Any, lane: Lanes) -> Any:
        """``jumps`` Metropolis steps with proposals from the mixture, one after the other."""
        for_draws, for_choices = jax.random.split(jax.random.fold_in(state.rng_key, JUMP_STREAM))
        w = one_draw(lane.jumps, for_draws, self.jumps)
        energies, gradients = jax.vmap(jax.value_and_grad(lambda point: self._potential(point, lane)))(w)
        log_proposal = one_log_density(lane.jumps, jnp.concatenate([state.z[None], w]))
        log_weight = jnp.concatenate([state.potential_energy[None], energies]) * -1.0 - log_proposal
        log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
        log_uniform = -jax.random.exponential(for_choices, (self.jumps,))
        place, stands = jnp.asarray(0), log_weight[0]
        for k in range(self.jumps):
            taken = log_uniform[k] < log_weight[k + 1] - stands
            place, stands = jnp.where(taken, k + 1, place), jnp.where(taken, log_weight[k + 1], stands)
        there = jnp.maximum(place - 1, 0)
        jumped = {"z": w[there], "potential_energy": energies[there], "z_grad": gradients[there]}
        kept = {name: jnp.where(place > 0, value, getattr(state, name)) for name, value in jumped.items()}
        return state._replace(**kept)


def _jittered(state: Any) -> Any:
    """The state with another step size for one iteration."""
    key = jax.random.fold_in(state.rng_key, JITTER_STREAM)
    factor = jax.random.uniform(key, minval=1.0 - JITTER, maxval=1.0 + JITTER)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=factor * state.adapt_state.step_size))


@lru_cache(maxsize=64)
def program_of(problem: Problem, settings: NutsSettings, attempt: int) -> Program:
    """The one program of an attempt in this process: JAX compiles it once per shape."""
    return Program(problem, settings, attempt)
