"""Tests of a model at ``init``, on some data sets and at likely points, in the ways in which engines will use it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from chainsweep.errors import ModelError
from chainsweep.model.derivatives import WAYS
from chainsweep.model.mistakes import explained
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.cut_off import has_loop

STILL_DRAWS = 32
"""The number of prior draws that show which columns are the same in all of them."""
ROUNDING = 1e-12
"""The largest range, of numbers around 1, that counts as rounding alone."""
PADDING_TRIAL = 8
"""The number of padding points in the test whether padding changes the log density."""
PRIOR_POINTS = 8
DESCENTS, DESCENT_STEPS, DESCENTS_S = 3, 60, 5.0
"""The number of descents to likely points, the most steps of each, and the most seconds of all of a data set."""
FAR = 1e300
"""The number in place of a potential that is not finite."""
REMEDY = (
    "Often this is a square root, logarithm or power of zero or of a negative number in a branch of jnp.where that is "
    "not taken: give the function a safe argument, such as jnp.sqrt(jnp.where(x > c, x - c, 1.0)), inside the outer "
    "jnp.where"
)
TERM_TOLERANCE = 1e-9
"""The largest difference, absolute or relative, of two equal terms of a log density."""


def compilable(problem: Problem, path: Path, example: Observation) -> Problem:
    """Trace all that engines compile: simulations, densities with their derivatives, the curve.

    Nothing is compiled or computed. A mistake that shows only while JAX traces, with symbols in place of numbers,
    is found here. Return the problem with the first way to second derivatives that the model allows.

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
                loops = way != "forward" and has_loop(jax.make_jaxpr(problem.potential)(z[0], example))
                return replace(problem, structure=replace(structure, loops=loops))
            except Exception as error:
                failures.append(error)
        raise failures[0]
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: the model cannot be compiled or differentiated: {explained(error, path)}") from error


def likely_points(problem: Problem, example: Observation) -> Any:
    """Unconstrained points ``(point, n)`` of one data set: prior draws, and the ends of quick descents from some."""

    def draw(key: Any) -> Any:
        return problem.unconstrain(problem.sample_prior(key, example), example)

    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), PRIOR_POINTS)))
    slope, ends_at = _slope(problem), time.monotonic() + DESCENTS_S

    def stop_late(reached: Any) -> None:
        if time.monotonic() > ends_at:
            raise StopIteration

    def descended(z: Any) -> Any:
        def value_and_slope(at: Any) -> tuple[float, Any]:
            value, gradient = slope(at, example)
            return float(np.nan_to_num(value, nan=FAR, posinf=FAR)), np.nan_to_num(np.asarray(gradient, float))

        options = {"maxiter": DESCENT_STEPS}
        return minimize(value_and_slope, z, jac=True, method="L-BFGS-B", options=options, callback=stop_late).x

    usable = drawn[np.isfinite(drawn).all(axis=1)]
    return np.concatenate([usable, *(descended(z)[None] for z in usable[:DESCENTS])])


@lru_cache(maxsize=1)
def _slope(problem: Problem) -> Any:
    return jax.jit(jax.value_and_grad(problem.potential))


def still_columns(problem: Problem, example: Observation) -> tuple[int, ...]:
    """Flat columns that are the same in every prior draw; only parameters on a surface have any."""
    if problem.ndim == problem.ndim_unconstrained:
        return ()
    keys = jax.random.split(jax.random.key(0), STILL_DRAWS)
    theta = np.asarray(jax.jit(jax.vmap(lambda key: problem.sample_prior(key, example)))(keys))
    alike = np.ptp(theta, axis=0) <= ROUNDING * np.maximum(np.abs(theta).max(axis=0), 1.0)
    return tuple(np.flatnonzero(alike).tolist())


def padding_is_invisible(problem: Problem, example: Observation, z: Any) -> bool:
    """Return True if every term of the log density stays the same when points are padded and masked.

    It does not where the model uses its fields as a whole (their length, their mean), which is allowed;
    such data sets are then never padded. The terms are compared one by one at the points ``z`` ``(point, n)``: in their
    sum a difference may be lost, or it may be -inf on both sides.
    """
    fields = {n: jnp.concatenate([v, jnp.repeat(v[-1:], PADDING_TRIAL, 0)]) for n, v in example.fields.items()}
    mask = jnp.concatenate([example.mask, jnp.zeros(PADDING_TRIAL, bool)])
    plain, padded = _terms(problem, example, z), _terms(problem, Observation(fields, example.constants, mask), z)
    length = example.mask.shape[0]
    for name, axis in problem.structure.point_axes.items():
        padded[name] = (
            np.take(padded[name], np.arange(length), axis=axis) if padded[name].ndim >= -axis else padded[name]
        )
    return all(_same(plain[name], padded[name]) for name in plain)


def check_is_function(problem: Problem, path: Path, example: Observation, z: Any) -> None:
    """Evaluate the model twice at the points ``z`` ``(point, n)``, the second time traced again and in reverse order.

    Raises
    ------
    ModelError
        The results differ; ``path`` names the model's file.
    """
    first = _terms(problem, example, z)
    again = {name: values[::-1] for name, values in _terms(problem, example, z[::-1]).items()}
    for name, values in first.items():
        if not _same(values, again[name]):
            raise ModelError(
                f"{path}: the model is not a function of its arguments: at the same parameters and data, the term "
                f"'{name}' of its log density was another when it was asked for again. Nothing in a model may be "
                "random (np.random), count its calls, or be kept from one call to the next"
            )


def gradient_note(problem: Problem, path: Path, example: Observation, z: Any) -> str | None:
    """Return a sentence if the gradient is not finite at a point of ``z`` where the density is finite; else None."""
    slope, names = _slope(problem), problem.unconstrained_names
    for point in z[::-1]:
        value, gradient = (np.asarray(part) for part in slope(point, example))
        bad = np.flatnonzero(~np.isfinite(gradient))
        if np.isfinite(value) and len(bad):
            theta = np.asarray(problem.constrain(point, example))
            told = ", ".join(f"{name} = {number:.4g}" for name, number in zip(problem.names, theta, strict=True))
            by = ", ".join(dict.fromkeys(names[k] for k in bad))
            return (
                f"{path}: the gradient by {by} is not a number{_where(problem, example, point)}, and the density is "
                f"one ({told}), so NUTS cannot move there. {REMEDY}"
            )
    return None


def _where(problem: Problem, example: Observation, z: Any) -> str:
    """The place of the first point of a data set that alone gives a gradient that is not finite at ``z``.

    It is a phrase for a sentence, empty where no point alone does.
    """
    slope, points = _slope(problem), example.mask.shape[0]
    for k in range(points if problem.structure.paddable else 0):
        fields = {name: values[k : k + 1] for name, values in example.fields.items()}
        gradient = slope(z, Observation(fields, example.constants, example.mask[k : k + 1]))[1]
        if not np.isfinite(gradient).all():
            design = {name: values for name, values in fields.items() if name not in problem.observed}
            told = ", ".join(f"{name} = {float(values.ravel()[0]):.4g}" for name, values in design.items())
            return f" at {told or f'point {k}'}"
    return ""


def _terms(problem: Problem, obs: Observation, z: Any) -> dict[str, Any]:
    """The terms of the log density ``(point, ...)`` by site, and the values of latent sites and the log Jacobian."""

    def terms(z: Any) -> dict[str, Any]:
        return problem.terms(z, obs)

    found = jax.jit(jax.vmap(terms))(jnp.asarray(z))
    return {name: np.asarray(values) for name, values in found.items()}


def _same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=TERM_TOLERANCE, atol=TERM_TOLERANCE, equal_nan=True)
    )
