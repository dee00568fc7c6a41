"""Posteriors that have too many parameters for a grid: long runs and weighted draws, with the error that chance leaves.

No code of the package is used. Both raise ArithmeticError where they cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize

from benchmarks.truth.exact import Exact

MOST_CHANCE = 0.03
"""The largest error by chance, of a mean in sds and of an sd, relative."""
CHAINS, WARMUP, DRAWS, LEAPS = 64, 40, 200, 4
PROPOSED, ROUNDS, FREEDOM = 200_000, 4, 5.0


def by_hamiltonian(
    names: Sequence[str], value: Callable[[np.ndarray], np.ndarray], gradient: Callable[[np.ndarray], np.ndarray]
) -> Exact:
    """The posterior of a log density and its gradient at points ``(chain, column)``, by Hamiltonian Monte Carlo.

    The metric is the inverse of the second derivatives at the mode; for densities near a normal one, which are also
    log-concave, so that chains started around the mode have no other place to miss.
    """
    rng, count = np.random.default_rng(7), len(names)

    mode = minimize(
        lambda b: -float(value(b[None])[0]), np.zeros(count), jac=lambda b: -gradient(b[None])[0], method="L-BFGS-B"
    ).x
    step = 1e-4 * np.eye(count)
    curvature = (gradient(mode - step) - gradient(mode + step)) / 2e-4
    root = np.linalg.cholesky(np.linalg.inv(0.5 * (curvature + curvature.T)))
    z = rng.standard_normal((CHAINS, count))
    height, slope = value(mode + z @ root.T), gradient(mode + z @ root.T) @ root
    kept = []
    for turn in range(WARMUP + DRAWS):
        momentum, length = rng.standard_normal(z.shape), rng.uniform(0.2, 0.5)
        new, new_slope, moving = z, slope, momentum
        for _ in range(LEAPS):
            moving = moving + 0.5 * length * new_slope
            new = new + length * moving
            new_slope = gradient(mode + new @ root.T) @ root
            moving = moving + 0.5 * length * new_slope
        new_height = value(mode + new @ root.T)
        change = new_height - height - 0.5 * ((moving**2).sum(axis=1) - (momentum**2).sum(axis=1))
        taken = np.log(rng.random(CHAINS)) < change
        z, slope = (np.where(taken[:, None], a, b) for a, b in ((new, z), (new_slope, slope)))
        height = np.where(taken, new_height, height)
        if turn >= WARMUP:
            kept.append(mode + z @ root.T)
    draws = np.stack(kept)
    mean, sd = draws.mean(axis=(0, 1)), draws.std(axis=(0, 1))
    # Chains are independent: the spread of their own means and second moments is the error by chance.
    for each in ((draws - mean) / sd, 0.5 * ((draws - mean) / sd) ** 2):
        _check(each.mean(axis=0).std(axis=0) / np.sqrt(CHAINS), names)
    return Exact(dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))


def by_weights(
    names: Sequence[str],
    log_density: Callable[[np.ndarray], np.ndarray],
    start: Sequence[float],
    columns: Callable[[np.ndarray], np.ndarray] = lambda points: points,
) -> Exact:
    """The posterior of ``columns`` of points ``(draw, axis)``, by importance sampling from a Student t distribution.

    The proposal begins at the mode that is found from ``start`` and takes over mean and covariance of its draws.
    """
    rng = np.random.default_rng(7)
    found = minimize(lambda point: -float(log_density(point[None])[0]), np.asarray(start, float), method="BFGS")
    mean, covariance = found.x, found.hess_inv
    for _ in range(ROUNDS):
        root = np.linalg.cholesky(covariance)
        normal = rng.standard_normal((PROPOSED, len(mean)))
        points = mean + normal @ root.T * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, PROPOSED))[:, None]
        distance = (np.linalg.solve(root, (points - mean).T) ** 2).sum(axis=0)
        logs = log_density(points) + 0.5 * (FREEDOM + len(mean)) * np.log1p(distance / FREEDOM)
        weights = np.exp(np.where(np.isfinite(logs), logs - np.nanmax(logs), -np.inf))
        weights /= weights.sum()
        mean = weights @ points
        covariance = (points - mean).T @ (weights[:, None] * (points - mean))
    values = columns(points)
    centre = weights @ values
    sd = np.sqrt(weights @ (values - centre) ** 2)
    scaled = (values - centre) / sd
    for each in (scaled, 0.5 * (scaled**2 - 1)):
        _check(np.sqrt(weights**2 @ each**2), names)
    return Exact(dict(zip(names, centre.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))


def _check(chance: np.ndarray, names: Sequence[str]) -> None:
    if not np.all(chance < MOST_CHANCE):
        raise ArithmeticError(f"errors by chance of {np.max(chance):.3f} sd, of {names[int(np.argmax(chance))]}")
