"""The inputs of adaptive importance sampling: a target, points to start from, and mixtures that each proposal keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainsweep.importance.mixture import combine
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.mixture_fit import fit, place
from chainsweep.importance.modes import Modes, Pool
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.arrays import Floats, Ints
from chainsweep.numerics.factors import cholesky_factors

Positions = Ints

PRIOR_INFLATION = 1.5
"""The covariance of the defensive component, in units of that of the prior draws."""
DRAWS_INFLATION = 4.0
"""The covariance of the defensive component, in units of that of the draws of another proposal."""
EVEN_SHARE = 0.5
"""The share of the known modes' weight that is the same for all of them; the rest follows their Laplace masses."""
CHAIN_COMPONENTS = 32
CHAIN_POINTS = 512


@dataclass(frozen=True)
class Target:
    """The exact density of each data set, in the unconstrained space.

    ``log_density(z, positions)`` takes ``z`` ``(dataset, draw, nz)`` of the data sets at ``positions``
    ``(dataset,)`` of the whole batch and returns ``(dataset, draw)``; -inf or NaN is a point without mass.
    ``hessian(z, positions)`` returns the Hessian of the *negative* log density, ``(dataset, draw, nz, nz)``, or is
    None where there are no derivatives.
    """

    log_density: Callable[[Floats, Positions], Floats]
    hessian: Callable[[Floats, Positions], Any] | None = None

    def precision(self, z: Floats, positions: Positions) -> Any:
        """The Hessian, or zeros where it is not known."""
        return np.zeros((*z.shape, z.shape[-1])) if self.hessian is None else self.hessian(z, positions)


class Start(NamedTuple):
    """The points and mixtures from which the adaptation starts.

    ``z`` ``(dataset, point, nz)``; ``log_target`` and ``log_denominator`` ``(dataset, point)``, the latter the log of
    the number of points times their proposal's density, so that ``exp(log_target - log_denominator)`` sums to an
    evidence. There may be 0 points. ``defensive`` is as wide as the prior; ``mode_components`` holds modes, draws of
    chains, or other places that must not be lost.
    """

    z: Floats
    log_target: Floats
    log_denominator: Floats
    defensive: Mixture
    mode_components: Mixture | None = None


def target_of(batched: BatchedProblem) -> Target:
    """The unconstrained density of a batch, with the Hessian where JAX can differentiate the likelihood.

    A data set whose black-box likelihood raises is noted in ``batched.failures`` and has no mass.
    """
    parts: dict[bytes, BatchedProblem] = {}

    def part(positions: Positions) -> BatchedProblem:
        name = positions.tobytes()
        if name not in parts:
            parts.clear()
            parts[name] = batched.take(positions)
            known = {k: batched.failures.get(position) for k, position in enumerate(positions.tolist())}
            parts[name].failures.update({k: reason for k, reason in known.items() if reason is not None})
        return parts[name]

    def log_density(z: Floats, positions: Positions) -> Floats:
        if batched.problem.has_jax_likelihood:
            return part(positions).log_density_unconstrained(z)
        # Idle lanes repeat a data set, and calls of the user's function are expensive.
        unique, first, back = np.unique(positions, return_index=True, return_inverse=True)
        bound = part(unique)
        density = bound.log_density_unconstrained(z[first])
        batched.failures.update({int(unique[k]): reason for k, reason in bound.failures.items()})
        return density[back]

    def hessian(z: Floats, positions: Positions) -> Any:
        return part(positions).curvature(z)

    return Target(log_density, hessian if batched.problem.has_jax_likelihood else None)


def from_prior(target: Target, pool: Pool, keep: int = 4000) -> Start:
    """Start from the ``keep`` likeliest prior draws; the defensive component is fitted to all.

    The more draws the pool has, the narrower are the modes that it can meet. Only the kept draws cost time later.
    """
    draws = pool.z.shape[1]
    best = np.argsort(-np.nan_to_num(pool.log_likelihood, nan=-np.inf), axis=1, kind="stable")[:, :keep]
    z = np.take_along_axis(pool.z, best[..., None], axis=1)
    log_likelihood = np.take_along_axis(pool.log_likelihood, best, axis=1)
    finite = np.asarray(np.isfinite(z).all(axis=-1))
    z = np.where(finite[..., None], z, 0.0)
    log_target = np.where(finite, target.log_density(z, _all(z)), -np.inf)
    usable = np.isfinite(log_target) & np.isfinite(log_likelihood)
    with np.errstate(invalid="ignore"):
        log_prior = np.where(usable, log_target - log_likelihood, 0.0)
    return Start(
        z, np.where(usable, log_target, -np.inf), log_prior + np.log(draws), defensive_mixture(pool.z, PRIOR_INFLATION)
    )


def from_draws(target: Target, z: Floats, log_proposal: Floats) -> Start:
    """Start from draws ``(dataset, draw, nz)`` of a normalised proposal, such as a trained network."""
    log_target = target.log_density(z, _all(z))
    return Start(z, log_target, log_proposal + np.log(z.shape[1]), defensive_mixture(z, DRAWS_INFLATION))


def join(start: Start, other: Start) -> Start:
    """Join the points and the mode components of two starts; the defensive mixture is that of the first."""
    parts = [part for part in (start.mode_components, other.mode_components) if part is not None]
    return Start(
        z=np.concatenate([start.z, other.z], axis=1),
        log_target=np.concatenate([start.log_target, other.log_target], axis=1),
        log_denominator=np.concatenate([start.log_denominator, other.log_denominator], axis=1),
        defensive=start.defensive,
        mode_components=combine(*((1.0, part) for part in parts)) if parts else None,
    )


def strongest(start: Start, size: int) -> tuple[Floats, Floats, Floats]:
    """The ``z``, ``log_target``, ``log_denominator`` of the ``size`` points of largest weight.

    Where there are fewer, points without weight are added. All numbers are finite, except ``log_target``, which is -inf
    at points without weight.
    """
    finite = np.isfinite(start.z).all(axis=-1) & np.isfinite(start.log_target) & np.isfinite(start.log_denominator)
    log_weight = np.where(finite, start.log_target, -np.inf) - np.where(finite, start.log_denominator, 0.0)
    best = np.argsort(-log_weight, axis=1, kind="stable")[:, :size]
    finite = np.take_along_axis(finite, best, axis=1)
    z = np.where(finite[..., None], np.take_along_axis(start.z, best[..., None], axis=1), 0.0)
    log_target = np.where(finite, np.take_along_axis(start.log_target, best, axis=1), -np.inf)
    log_denominator = np.where(finite, np.take_along_axis(start.log_denominator, best, axis=1), 0.0)
    gap = ((0, 0), (0, size - best.shape[1]))
    padded_target = np.pad(log_target, gap, constant_values=-np.inf)
    return np.pad(z, (*gap, (0, 0))), padded_target, np.pad(log_denominator, gap)


def defensive_mixture(z: Floats, inflation: float) -> Mixture:
    """One component with the mean and ``inflation`` times the covariance of points ``(dataset, point, nz)``.

    Points that are not finite are left out.
    """
    finite = np.isfinite(z).all(axis=-1, keepdims=True)
    count = np.maximum(finite.sum(axis=1), 1)
    filled = np.where(finite, z, 0.0)
    mean = filled.sum(axis=1) / count
    deviation = np.where(finite, filled - mean[:, None], 0.0)
    covariance = inflation * np.einsum("npi,npj->nij", deviation, deviation) / count[..., None]
    variance = np.maximum(np.einsum("nii->ni", covariance), 1e-12)
    chol = cholesky_factors(covariance + 1e-6 * variance[:, :, None] * np.eye(z.shape[-1]))
    return Mixture(np.zeros((len(z), 1)), mean[:, None], chol[:, None])


def from_modes(modes: Modes) -> Mixture:
    """A component at each mode with its Laplace covariance; a mode of mass -inf carries no weight."""
    covariance = 0.5 * (modes.covariance + np.swapaxes(modes.covariance, -1, -2))
    lowest = np.linalg.eigvalsh(np.nan_to_num(covariance))[..., 0]
    usable = np.isfinite(modes.log_mass) & np.isfinite(modes.z).all(axis=-1) & (lowest > 0.0)
    usable &= np.isfinite(covariance).all(axis=(-1, -2))
    mass = np.where(usable, modes.log_mass, -np.inf)
    top = mass.max(axis=1, keepdims=True)
    share = np.exp(mass - np.where(np.isfinite(top), top, 0.0))
    share = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
    even = usable / np.maximum(usable.sum(axis=1, keepdims=True), 1)
    safe = np.where(usable[..., None, None], covariance, np.eye(modes.z.shape[-1]))
    with np.errstate(divide="ignore"):
        log_weight = np.log(EVEN_SHARE * even + (1.0 - EVEN_SHARE) * share)
    return Mixture(log_weight, np.where(usable[..., None], modes.z, 0.0), cholesky_factors(safe))


def from_chains(target: Target, z: Floats, keys: NDArray[np.uint32]) -> Mixture:
    """Kernels on the draws ``(dataset, draw, nz)`` of chains, whose NaN rows are padding; ``keys`` ``(dataset, 2)``."""
    log_weight = np.where(np.isfinite(z).all(axis=-1), 0.0, -np.inf)
    kernels = place(keys, z, log_weight, 0.0, CHAIN_COMPONENTS)
    precision = target.precision(np.asarray(kernels.center), _all(z))
    return fit(keys, z, log_weight, kernels, precision, min(z.shape[1], CHAIN_POINTS))


def _all(z: Floats) -> Positions:
    return np.arange(z.shape[0], dtype=np.int64)
