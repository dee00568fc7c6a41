r"""The compiled programs of one attempt: NumPyro's kernels over chains and data sets, in whitened coordinates.

After each transition of NumPyro's kernel a chain makes independence Metropolis steps, whose proposals come
from a mixture :math:`q` that follows the posterior (``importance/global_proposal.py``), accepted with probability
:math:`\min(1, p(w') q(w) / p(w) q(w'))`. Either step leaves the exact density as it is; together they cross ridges and
gaps where trajectories alone would need thousands of gradients.

Reference: Tierney 1994, Annals of Statistics 22, 1701 (cycles of Metropolis kernels).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc
from numpyro.infer.hmc_util import euclidean_kinetic_energy

from chainsweep.engines.nuts.settings import NutsSettings
from chainsweep.importance.mixture_density import Prepared, picked, random_numbers
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.loops import isolated, traced_once, vmap_active, zeros_like_result

Algorithm = Literal["hmc", "nuts"]
Bits = Literal[32, 64]
"""The width in bits of the numbers that chains are computed with."""

HMC_METRIC_SHARE, NUTS_METRIC_SHARE = 0.3, 0.9
"""The share of ``warmup`` that the metric warm-up takes where there is no metric yet; the block after it adapts the
step size."""
JITTER = 0.3
"""Step sizes of HMC vary by this share, evenly, so that no trajectory closes on itself."""

JITTER_STREAM, INDEPENDENCE_STREAM, LOCAL_STREAM = 1 << 20, 1 << 21, 1 << 22
"""Numbers folded into a chain's key, far from the small ones that the kernel's own ``split`` uses: folding in 1 gives
the second part of a split."""
LOCAL_SCALE = (np.log(0.2), np.log(2.4))
"""The range of the log of the size of a step within a component, in units of the component's scale over the root of
the dimension."""


class Lanes(NamedTuple):
    """The inputs of the lanes of one compiled call: a data set for each, its whitening, and its global proposal.

    ``center`` ``(lane, n)`` and ``factor`` ``(lane, n, n)``: unconstrained ``z = center + factor @ w``. ``proposal`` is
    a mixture in ``w``.
    """

    observations: Observation
    center: Any
    factor: Any
    proposal: Prepared


class Program:
    """The compiled programs of one attempt: initialise lanes, advance them by a block of iterations.

    ``metric_warmup`` iterations are for the metric, ``adapt`` for the step size, then come at most ``draws`` draws.
    ``block`` divides all three. Attempts differ in these numbers alone, and share the compiled programs.
    """

    def __init__(
        self, problem: Problem, settings: NutsSettings, algorithm: Algorithm, attempt: int, bits: Bits = 64
    ) -> None:
        self.kernels = kernels_of(problem, settings, algorithm, bits)
        longer = 2 ** (attempt if algorithm == "hmc" else max(0, attempt - 1))
        self.block = self.adapt = self.kernels.block
        share = HMC_METRIC_SHARE if algorithm == "hmc" else NUTS_METRIC_SHARE
        self.metric_warmup = max(1, round(share * settings.warmup * longer / self.block)) * self.block
        self.draws = -(-settings.draws * longer // self.block) * self.block

    @property
    def iterations(self) -> int:
        """The largest number of iterations of one data set."""
        return self.metric_warmup + self.adapt + self.draws


class Kernels:
    """The compiled functions of an algorithm, for all attempts; they take numbers of any width."""

    def __init__(self, problem: Problem, settings: NutsSettings, algorithm: Algorithm, bits: Bits) -> None:
        self.problem, self.bits = problem, bits
        self.fixed = algorithm == "hmc"
        self.independence_steps = settings.tuning.jumps
        self.block = self.adapt = min(settings.tuning.block, settings.warmup // 4)
        self.depth = settings.tuning.max_tree_depth
        self.steps = settings.tuning.hmc_steps if self.fixed else None
        self.target = settings.tuning.target_accept
        self.initialise = self._compiled(self._initialise_lanes, donate_argnums=0)
        self.advance = self._compiled(self._advance_lanes, donate_argnums=0)
        self.potentials = self._compiled(jax.vmap(jax.vmap(self._whitened_potential, in_axes=(0, None, None, None))))

    def _compiled(self, function: Callable, **options: Any) -> Any:
        return self._in_our_precision(jax.jit(function, **options))

    def _in_our_precision(self, function: Callable) -> Callable:
        if self.bits == 64:
            return function

        def in_single_precision(*arrays: Any) -> Any:
            narrow = jax.tree.map(_narrowed, arrays)
            with jax.enable_x64(False):
                return function(*narrow)

        return in_single_precision

    def _potential(self, w: Any, lane: Lanes) -> Any:
        return self._whitened_potential(w, lane.center, lane.factor, lane.observations)

    def _whitened_potential(self, w: Any, center: Any, factor: Any, observations: Observation) -> Any:
        return self.problem.potential(center + factor @ w, observations)

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

    def blank(self, w: Any, keys: Any, lanes: Lanes) -> Any:
        """The state of empty lanes, for starts of the shapes of ``w`` and ``keys``."""
        shapes = self._in_our_precision(partial(jax.eval_shape, jax.vmap(self._initialise)))(w, keys, lanes)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    def _initialise(self, w: Any, keys: Any, lane: Lanes) -> Any:
        return jax.vmap(lambda w, key: self._kernel(w, key, lane)[0])(w, keys)

    def _initialise_lanes(self, state: Any, w: Any, keys: Any, lanes: Lanes, rows: Any, count: Any) -> Any:
        """Return ``state`` with new chains at ``w`` ``(lane, chain, n)`` in the first ``count`` lanes of ``rows``."""
        return vmap_active(self._initialise, (w, keys, lanes), rows, count, state)

    def _advance_lanes(self, state: Any, lanes: Lanes, rows: Any, count: Any) -> tuple[Any, Any]:
        """Advance the first ``count`` of the lanes ``rows`` by a block of iterations.

        Return the new state, and the outputs of each iteration of these lanes, zeros in the others.
        """
        advance = traced_once(self._advance_lane)
        _, met = zeros_like_result(jax.vmap(advance), state, lanes)
        return vmap_active(advance, (state, lanes), rows, count, (state, met))

    def _advance_lane(self, state: Any, lane: Lanes) -> tuple[Any, Any]:
        proposals = self._proposals(state.rng_key, lane) if self.independence_steps else None
        return jax.vmap(self._advance, in_axes=(0, None, 0))(state, lane, proposals)

    def _proposals(self, keys: Any, lane: Lanes) -> Proposals:
        """All proposals of a block, ``(chain, iteration, step)``, at once, because none depends on where a chain is."""

        def of_chain(key: Any) -> Proposals:
            return proposed(
                lambda w: self._potential(w, lane),
                lane.proposal,
                jax.random.fold_in(key, INDEPENDENCE_STREAM),
                (self.block, self.independence_steps),
            )

        return jax.vmap(of_chain)(keys)

    def _advance(self, state: Any, lane: Lanes, proposals: Proposals | None) -> Any:
        # NumPyro's sample function closes over the arguments of init (warm-up length, adaptation), so both are
        # made again inside the trace; the compiler removes the unused initial state.
        _, sample = self._kernel(state.z, state.rng_key, lane)

        def step(old: Any, proposals: Proposals | None) -> tuple[Any, tuple]:
            new = sample(_jittered(old) if self.fixed else old, (), {})
            if self.fixed:
                adapting = old.i < self.adapt
                size = jnp.where(adapting, new.adapt_state.step_size, old.adapt_state.step_size)
                new = new._replace(adapt_state=new.adapt_state._replace(step_size=size))
            if proposals is not None:
                new = self._independence_steps(new, lane, proposals)
            return new, (new.z, new.potential_energy, new.diverging, new.accept_prob, new.num_steps)

        return jax.lax.scan(step, state, proposals, length=self.block)

    def _independence_steps(self, state: Any, lane: Lanes, proposals: Proposals) -> Any:
        """Make a step within a component, then the independence steps of one iteration; return the new state."""

        def potential(w: Any) -> Any:
            return self._potential(w, lane)

        key = jax.random.fold_in(state.rng_key, LOCAL_STREAM)
        here = Place(state.z, state.potential_energy, lane.proposal.parts(state.z))
        here = stepped_within(potential, lane.proposal, here, key)
        w = after_independence_steps(here, proposals)
        moved = jnp.any(w != state.z)
        energy, gradient = jax.value_and_grad(potential)(w)
        end = {"z": w, "potential_energy": energy, "z_grad": gradient}
        return state._replace(**{name: jnp.where(moved, value, getattr(state, name)) for name, value in end.items()})


class Proposals(NamedTuple):
    """Independent draws of the mixture.

    ``w`` ``(..., n)``; ``log_weight`` ``(...)``, the log of the target's density over the mixture's at ``w``;
    ``log_uniform`` ``(...)``, the log of the uniform number that decides on acceptance.
    """

    w: Any
    log_weight: Any
    log_uniform: Any


class Place(NamedTuple):
    """The place of a chain: ``w``, its potential, and the density of each component of the mixture there."""

    w: Any
    potential: Any
    parts: Any


def proposed(potential: Callable, mixture: Prepared, key: Any, shape: tuple[int, ...]) -> Proposals:
    """Independent draws of the mixture and their weights, an array of them of shape ``shape``."""
    for_draws, for_choices = jax.random.split(key)
    count = int(np.prod(shape))
    w = isolated(mixture.draws, random_numbers(for_draws, count, mixture.mean.shape[1]))
    log_proposal = isolated(mixture.log_density, w)
    log_weight = -jax.vmap(potential)(w) - log_proposal
    # A proposal at which the mixture's density underflows is never accepted.
    log_weight = jnp.where(jnp.isnan(log_weight) | jnp.isneginf(log_proposal), -jnp.inf, log_weight)
    log_uniform = jnp.log(jax.random.uniform(for_choices, (count,)))
    return Proposals(w.reshape(*shape, -1), log_weight.reshape(shape), log_uniform.reshape(shape))


def after_independence_steps(here: Place, proposals: Proposals) -> Any:
    """The ``w`` of a chain after independence Metropolis steps to ``proposals`` ``(step,)``, one after the other."""

    def step(best: tuple[Any, Any], proposal: tuple[Any, Any, Any]) -> tuple[tuple[Any, Any], None]:
        number, log_weight, log_uniform = proposal
        taken = log_uniform < log_weight - best[1]
        return (jnp.where(taken, number, best[0]), jnp.where(taken, log_weight, best[1])), None

    numbers = jnp.arange(proposals.log_weight.shape[0])
    start = -1, -here.potential - jnp.log(here.parts.sum())
    (last, _), _ = jax.lax.scan(step, start, (numbers, proposals.log_weight, proposals.log_uniform))
    return jnp.where(last < 0, here.w, proposals.w[last])


def stepped_within(potential: Callable, mixture: Prepared, here: Place, key: Any) -> Place:
    """Make a random-walk Metropolis step in the scale of a component of the mixture; return the new place.

    The component ``k`` is drawn with the probability ``r_k(w)``, its share of the mixture's density at the chain, so
    the acceptance ratio is ``p(w') r_k(w') / (p(w) r_k(w))``.
    """
    for_choices, for_noise = jax.random.split(key)
    choices = jax.random.uniform(for_choices, (3,))
    cumulated = jnp.cumsum(here.parts)
    k = picked(cumulated, choices[0])
    size = jnp.exp(LOCAL_SCALE[0] + (LOCAL_SCALE[1] - LOCAL_SCALE[0]) * choices[1]) / np.sqrt(here.w.size)
    w = here.w + mixture.chol[k] @ jax.random.normal(for_noise, here.w.shape) * size
    there = Place(w, potential(w), mixture.parts(w))
    share_here, share_there = (jnp.log(s.parts[k]) - jnp.log(s.parts.sum()) for s in (here, there))
    ratio = here.potential - there.potential + share_there - share_here
    taken = jnp.log(choices[2]) < jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
    return jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, here)


def _jittered(state: Any) -> Any:
    """The state with another step size for one iteration."""
    key = jax.random.fold_in(state.rng_key, JITTER_STREAM)
    factor = jax.random.uniform(key, minval=1.0 - JITTER, maxval=1.0 + JITTER)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=factor * state.adapt_state.step_size))


_NARROW = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}


def _narrowed(array: Any) -> Any:
    return array.astype(_NARROW.get(array.dtype, array.dtype))


def with_pooled_steps(state: Any, adapted: Any, share: Any) -> Any:
    """Return ``state`` where all chains of the lanes ``adapted`` ``(lane,)`` have one step size.

    It is ``share`` ``(lane,)`` times the geometric mean of the chains' own step sizes.
    """
    own = np.asarray(state.adapt_state.step_size)
    pooled = share[:, None] * np.exp(np.log(np.where(adapted[:, None], own, 1.0)).mean(axis=1, keepdims=True))
    step_size = np.where(adapted[:, None], pooled, own).astype(own.dtype)
    return state._replace(adapt_state=state.adapt_state._replace(step_size=step_size))


@lru_cache(maxsize=64)
def kernels_of(problem: Problem, settings: NutsSettings, algorithm: Algorithm, bits: Bits = 64) -> Kernels:
    """The compiled functions of an algorithm, made once in this process: JAX compiles them once for each shape."""
    return Kernels(problem, settings, algorithm, bits)
