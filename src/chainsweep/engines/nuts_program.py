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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from numpyro.infer.hmc import hmc
from numpyro.infer.hmc_util import euclidean_kinetic_energy

from chainsweep.config import NutsSettings
from chainsweep.engines.mixture import Prepared, picked
from chainsweep.model.problem import Observation, Problem

Floats = NDArray[np.float64]
Algorithm = Literal["hmc", "nuts"]

LATER_ACCEPT, LATER_STEPS, LATER_JUMPS = 0.95, 2, 4
"""Attempts after the first: least target acceptance, and how many times the leapfrog steps (HMC) and jumps."""
HMC_SCOUTS, NUTS_SCOUTS = 0.3, 0.9
"""Share of ``warmup`` that goes to scouts where there is no metric yet; a block after them is for the step size."""
JITTER = 0.3
"""Step sizes of HMC vary by this share, evenly, so that no trajectory closes on itself."""

JITTER_STREAM, JUMP_STREAM = 1 << 20, 1 << 21
"""Far from the small numbers that the kernel's own ``split`` counts: folding in 1 gives the second part of a split."""
LOCAL_SCALE = (np.log(0.2), np.log(2.4))
"""Range of the log of the size of a step within a component, in its scale over the root of the dimension."""


class Lanes(NamedTuple):
    """What the lanes of one compiled call are about: a data set each, its whitening, and its jumps.

    ``center`` ``(lane, n)`` and ``factor`` ``(lane, n, n)``: unconstrained ``z = center + factor @ w``. ``jumps`` is a
    mixture in ``w``.
    """

    observations: Observation
    center: Any
    factor: Any
    jumps: Prepared


class Program:
    """The compiled programs of one attempt: initialise lanes, advance them by a block of iterations.

    ``scout`` iterations are for the metric, ``adapt`` for the step size, then come ``draws`` at most. ``block`` divides
    all three. The attempts after the first differ in these numbers alone, and share what is compiled.
    """

    def __init__(self, problem: Problem, settings: NutsSettings, algorithm: Algorithm, attempt: int) -> None:
        self.kernels = kernels_of(problem, settings, algorithm, attempt > 0)
        longer = 2 ** (attempt if algorithm == "hmc" else max(0, attempt - 1))
        self.block = self.adapt = self.kernels.block
        share = HMC_SCOUTS if algorithm == "hmc" else NUTS_SCOUTS
        self.scout = max(1, round(share * settings.warmup * longer / self.block)) * self.block
        self.draws = -(-settings.draws * longer // self.block) * self.block

    @property
    def iterations(self) -> int:
        """The most iterations of one data set."""
        return self.scout + self.adapt + self.draws


class Kernels:
    """What is compiled of an algorithm; ``later`` attempts take smaller and more steps, and more jumps."""

    def __init__(self, problem: Problem, settings: NutsSettings, algorithm: Algorithm, later: bool) -> None:
        self.problem = problem
        self.fixed = algorithm == "hmc"
        self.jumps = settings.jumps * (LATER_JUMPS if later else 1)
        self.block = self.adapt = min(settings.block, settings.warmup // 4)
        self.depth = settings.max_tree_depth
        self.steps = settings.hmc_steps * (LATER_STEPS if later else 1) if self.fixed else None
        self.target = max(settings.target_accept, LATER_ACCEPT if later else 0.0)
        self.initialise = jax.jit(jax.vmap(jax.vmap(self._initialise, in_axes=(0, 0, None))))
        self.merge = jax.jit(self._merge)
        self.pool_step_sizes = jax.jit(self._pool_step_sizes)
        self.advance = jax.jit(jax.vmap(jax.vmap(self._advance, in_axes=(0, None))), donate_argnums=0)

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
        """``jumps`` rounds of two Metropolis steps: one to wherever the mixture says, one within a component."""

        def potential(w: Any) -> Any:
            return self._potential(w, lane)

        keys = jax.random.split(jax.random.fold_in(state.rng_key, JUMP_STREAM), self.jumps)
        start = Standing(state.z, state.potential_energy, lane.jumps.parts(state.z))
        end, _ = jax.lax.scan(lambda old, key: (_round(potential, lane.jumps, old, key), None), start, keys)
        moved = jnp.any(end.w != state.z)
        energy, gradient = jax.value_and_grad(potential)(end.w)
        jumped = {"z": end.w, "potential_energy": energy, "z_grad": gradient}
        kept = {name: jnp.where(moved, value, getattr(state, name)) for name, value in jumped.items()}
        return state._replace(**kept)


class Standing(NamedTuple):
    """Where a chain stands between jumps: ``w``, its potential, and the density of each component there."""

    w: Any
    potential: Any
    parts: Any


def _round(potential: Callable, mixture: Prepared, here: Standing, key: Any) -> Standing:
    """A jump from the mixture as it is, then a step in the scale of a component that holds the chain.

    The component ``k`` of the second step is drawn with its share ``r_k`` of the mixture's density here; that share
    there stands in the acceptance: ``p(w') r_k(w') / (p(w) r_k(w))``.
    """
    keys = jax.random.split(key, 4)
    choices = jax.random.uniform(keys[0], (4,))

    def chosen(w: Any, log_ratio: Callable, choice: Any, here: Standing) -> Standing:
        there = Standing(w, potential(w), mixture.parts(w))
        ratio = here.potential - there.potential + log_ratio(there.parts)
        taken = jnp.log(choice) < jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, here)

    total = jnp.log(here.parts.sum())
    here = chosen(mixture.draw(keys[1]), lambda parts: total - jnp.log(parts.sum()), choices[0], here)
    cumulated = jnp.cumsum(here.parts)
    k = picked(cumulated, choices[1])
    share = jnp.log(here.parts[k]) - jnp.log(cumulated[-1])
    size = jnp.exp(LOCAL_SCALE[0] + (LOCAL_SCALE[1] - LOCAL_SCALE[0]) * choices[2]) / np.sqrt(here.w.size)
    near = here.w + mixture.chol[k] @ jax.random.normal(keys[2], here.w.shape) * size
    return chosen(near, lambda parts: jnp.log(parts[k]) - jnp.log(parts.sum()) - share, choices[3], here)


def _jittered(state: Any) -> Any:
    """The state with another step size for one iteration."""
    key = jax.random.fold_in(state.rng_key, JITTER_STREAM)
    factor = jax.random.uniform(key, minval=1.0 - JITTER, maxval=1.0 + JITTER)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=factor * state.adapt_state.step_size))


@lru_cache(maxsize=64)
def kernels_of(problem: Problem, settings: NutsSettings, algorithm: Algorithm, later: bool) -> Kernels:
    """The one compiled set of an algorithm in this process: JAX compiles it once per shape."""
    return Kernels(problem, settings, algorithm, later)
