"""A model tried at ``init``, on one data set, in the ways that engines will use it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chainsweep.errors import ModelError
from chainsweep.model.derivatives import WAYS
from chainsweep.model.mistakes import explained
from chainsweep.model.problem import Observation, Problem

STILL_DRAWS = 32
"""Prior draws that tell what is the same in all of them."""
ROUNDING = 1e-12
"""Largest range, of numbers around 1, of what rounding alone makes different."""
PADDING_TRIAL = 8
"""Points of padding, and prior draws, of the trial whether padding changes the log density."""


def compilable(problem: Problem, path: Path, example: Observation) -> Problem:
    """Trace all that engines compile: simulations, densities with their derivatives, the curve.

    Nothing is compiled or computed. A mistake that shows only while JAX traces, with symbols in place of numbers,
    is found here. The answer is the problem with the first way to second derivatives that the model allows.

    Raises
    ------
    ModelError
        The model cannot be compiled, or differentiated twice; ``path`` names its file.
    """

    def uses(key: Any, z: Any, obs: Observation) -> Any:
        theta = problem.constrain(z, obs)
        curve = None if problem.curve_site is None else problem.curve(theta, obs)
        densities = problem.log_density(theta, obs), problem.potential(z, obs)
        simulated = problem.simulate(key, theta, obs) if problem.has_simulator else None
        return problem.sample_prior(key, obs), simulated, densities, curve

    keys, z = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, problem.ndim_unconstrained))
    failures: list[Exception] = []
    try:
        jax.eval_shape(jax.vmap(uses, in_axes=(0, 0, None)), keys, z, example)
        for way in WAYS:
            structure = replace(problem.structure, second_derivatives=way)
            candidate = replace(problem, structure=structure)
            try:
                jax.eval_shape(jax.vmap(candidate.curvature, in_axes=(0, None)), z, example)
                return candidate
            except Exception as error:
                failures.append(error)
        raise failures[0]
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: the model cannot be compiled or differentiated: {explained(error, path)}") from error


def still_columns(problem: Problem, example: Observation) -> tuple[int, ...]:
    """Flat columns that are the same in every prior draw; only parameters on a surface have any."""
    if problem.ndim == problem.ndim_unconstrained:
        return ()
    keys = jax.random.split(jax.random.key(0), STILL_DRAWS)
    theta = np.asarray(jax.jit(jax.vmap(lambda key: problem.sample_prior(key, example)))(keys))
    alike = np.ptp(theta, axis=0) <= ROUNDING * np.maximum(np.abs(theta).max(axis=0), 1.0)
    return tuple(np.flatnonzero(alike).tolist())


def padding_is_invisible(problem: Problem, example: Observation) -> bool:
    """Whether the log density stays the same when points are padded and masked.

    It does not where the model looks at its fields as a whole (their length, their mean), which is allowed;
    such data sets are then never padded.
    """
    fields = {n: jnp.concatenate([v, jnp.repeat(v[-1:], PADDING_TRIAL, 0)]) for n, v in example.fields.items()}
    mask = jnp.concatenate([example.mask, jnp.zeros(PADDING_TRIAL, bool)])
    padded = Observation(fields, example.constants, mask)

    @jax.jit
    def compare(keys: Any) -> Any:
        theta = jax.vmap(lambda key: problem.sample_prior(key, example))(keys)
        return [jax.vmap(problem.log_density, in_axes=(0, None))(theta, obs) for obs in (example, padded)]

    plain, with_padding = compare(jax.random.split(jax.random.key(0), PADDING_TRIAL))
    return bool(np.allclose(plain, with_padding, rtol=1e-9, atol=1e-9, equal_nan=True))
