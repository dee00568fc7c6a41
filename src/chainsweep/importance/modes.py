r"""The starts of a sampler: scattered prior draws, weighted by likelihood, and the modes that descents find.

Descents start from draws that are likelier than all their neighbours, so that few of them end in the same mode: the
likeliest draws of all mostly belong to one, the widest.

A descent is a saddle-free Newton iteration with Levenberg-Marquardt damping: with the Hessian
:math:`H = V \Lambda V^T` of the potential, the step is :math:`-V (|\Lambda| + \mu)^{-1} V^T \nabla U`, taken
when it lowers :math:`U`, with :math:`\mu` falling on success and rising on failure. All descents of all data
sets run in one compiled program.

Reference: Dauphin et al. 2014, arXiv:1406.2572; Marquardt 1963, doi:10.1137/0111030; Rinnooy Kan & Timmer 1987,
Mathematical Programming 39, 57 (starts of local searches); Ursem 1999, CEC 1999, 1633 (valleys between peaks).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from chainsweep.model.batched import BatchedProblem, blocks_of
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.arrays import Bools, Floats, Ints
from chainsweep.numerics.factors import inverses
from chainsweep.numerics.loops import first_of, lanes_of
from chainsweep.numerics.resampling import distinct, temper

DESCENT_STEPS = 60
DECREMENT = 1e-9
"""The gain of a Newton step in log density below which a descent ends."""
SCALE_DRAWS = 1024
"""The number of prior draws that give the scale of a descent's coordinates."""
NEIGHBOURS = 8
"""The number of nearest draws than which a peak of the likelihood is likelier."""
PEAKS = 16
"""The most peaks of the prior draws."""
PEAK_SHARE = 0.75
"""The most of the descents that start from peaks; the others start from draws chosen with tempered weights."""
BETWEEN = 0.25, 0.5, 0.75
"""The places on the line from one peak to another at which the density is looked at."""
VALLEY = 0.5
"""Two peaks are separate if the log density at a point between them is more than this below that of the lower one."""
NEIGHBOUR_DRAWS = {3: 4096, 6: 1536}
"""The number of draws, the likeliest, among which peaks are searched, by the most parameters it is for."""
FEW_NEIGHBOUR_DRAWS = 1024
"""The same for more parameters: a search for neighbours takes longer there."""
SAME_MODE_DISTANCE = 0.5
"""The distance, in Laplace standard deviations, below which the ends of two descents count as one mode."""
LEAST_CURVATURE = 0.1
"""The least Laplace precision along any direction, in units of the prior's."""


@dataclass(frozen=True)
class Pool:
    """Prior draws of each data set; arrays ``(dataset, draw, ...)``. ``log_likelihood`` may be -inf."""

    theta: Floats
    z: Floats
    log_likelihood: Floats

    @property
    def any_finite(self) -> Bools:
        """True where any prior draw has a finite likelihood, shape ``(dataset,)``."""
        return np.asarray(np.isfinite(self.log_likelihood).any(axis=1))


@dataclass(frozen=True)
class Modes:
    """The ends of the descents of each data set, best first.

    ``z`` ``(dataset, mode, ndim_unconstrained)``; ``log_density`` (unconstrained) and ``log_mass`` (Laplace)
    ``(dataset, mode)``, both -inf for an end that repeats a better one or did not stay finite;
    ``covariance`` ``(dataset, mode, n, n)``.
    """

    z: Floats
    log_density: Floats
    log_mass: Floats
    covariance: Floats


def prior_pool(batched: BatchedProblem, keys: NDArray[np.uint32], draws: int) -> Pool:
    """Make ``draws`` prior draws of each data set with their likelihood, from raw ``keys`` ``(dataset, 2)``."""
    theta = batched.sample_prior(keys, draws)
    return Pool(theta, batched.unconstrain(theta), batched.log_likelihood(theta))


def choose_likely(log_likelihood: Floats, count: int, generators: list[np.random.Generator], effective: float) -> Ints:
    """Indices ``(dataset, count)`` of distinct draws, chosen with tempered likelihood weights.

    The likelihood is raised to the largest power at most 1 for which the effective number of draws is at
    least ``effective``; draws are then chosen without replacement (Gumbel top-k).
    """
    powers = temper(log_likelihood, effective)
    rows = zip(log_likelihood, powers, generators, strict=True)
    return np.stack([distinct(weights, power, count, generator) for weights, power, generator in rows])


def choose_peaks(z: Floats, log_likelihood: Floats, count: int) -> Ints:
    """Return the positions of at most ``count`` of the points ``z`` ``(draw, n)`` of one data set, the likeliest first.

    Each is likelier than its ``NEIGHBOURS`` nearest points, in coordinates in which the points have the same spread
    along each axis.
    """
    most = next((draws for n, draws in NEIGHBOUR_DRAWS.items() if z.shape[1] <= n), FEW_NEIGHBOUR_DRAWS)
    usable = np.flatnonzero(np.isfinite(log_likelihood) & np.isfinite(z).all(axis=1))
    # A point that is there several times would be the only neighbour of itself.
    usable = usable[np.sort(np.unique(z[usable], axis=0, return_index=True)[1])]
    order = usable[np.argsort(-log_likelihood[usable], kind="stable")[:most]]
    k = min(NEIGHBOURS + 1, len(order))
    if k < 2:
        return order[:count]
    points = z[order] / np.maximum(_finite_spread(z[None, usable])[0], 1e-300)
    _, nearest = cKDTree(points).query(points, k=k)
    # Points are in descending order of likelihood: one is a peak if all its neighbours come later.
    return order[np.flatnonzero(nearest.min(axis=1) == np.arange(len(order)))[:count]]


def separated(batched: BatchedProblem, z: Floats, count: int) -> Floats:
    """The highest ``count`` of the points ``z`` ``(dataset, point, n)`` between any two of which the density is lower.

    Two peaks of a sample are often of one mode; then the density between them is not lower than at the lower one. The
    result is ``(dataset, count, n)``, highest first, NaN where there are fewer; so may be ``z``.
    """
    usable = np.asarray(np.isfinite(z).all(axis=-1))
    points = np.where(usable[..., None], z, 0.0)
    density = np.where(usable, batched.log_density_unconstrained(points), -np.inf)
    order = np.argsort(-density, axis=1, kind="stable")
    points, density = np.take_along_axis(points, order[..., None], axis=1), np.take_along_axis(density, order, axis=1)
    first, second = np.triu_indices(z.shape[1], 1)
    between = [(1.0 - share) * points[:, first] + share * points[:, second] for share in BETWEEN]
    lowest = batched.log_density_unconstrained(np.concatenate(between, axis=1)).reshape(len(z), len(BETWEEN), -1)
    with np.errstate(invalid="ignore"):
        valley = np.asarray(lowest.min(axis=1) < density[:, second] - VALLEY)
    chosen = np.full((len(z), count, z.shape[2]), np.nan)
    for row in range(len(z)):
        apart = np.zeros((z.shape[1],) * 2, bool)
        apart[first, second] = valley[row]
        kept: list[int] = []
        for k in np.flatnonzero(np.isfinite(density[row])).tolist():
            if len(kept) < count and apart[kept, k].all():
                kept.append(k)
        chosen[row, : len(kept)] = points[row, kept]
    return chosen


def find_modes(
    batched: BatchedProblem,
    pool: Pool,
    descents: int,
    generators: list[np.random.Generator],
    found: Floats | None = None,
) -> Modes:
    """Run ``descents`` descents per data set and merge those that meet.

    They start from separate peaks of the prior draws and of the points ``found`` elsewhere, ``(dataset, point, n)``,
    NaN where there are fewer, and the rest from prior draws chosen with tempered weights.
    """
    scattered = choose_likely(pool.log_likelihood, descents, generators, 4.0 * descents)
    peaks = np.full((len(scattered), PEAKS, pool.z.shape[2]), np.nan)
    for row, z in enumerate(pool.z):
        own = choose_peaks(z, pool.log_likelihood[row], PEAKS)
        peaks[row, : len(own)] = z[own]
    candidates = peaks if found is None else np.concatenate([peaks, found], axis=1)
    start = separated(batched, candidates, max(1, round(PEAK_SHARE * descents)))
    likely = np.take_along_axis(pool.z, scattered[..., None], axis=1)
    start = np.stack([_filled_up(*each) for each in zip(start, likely, strict=True)])
    some = pool.z[:, :SCALE_DRAWS]
    center = _finite_median(some)
    scale = np.maximum(_finite_spread(some), 1e-8)
    start = np.where(np.isfinite(start), start, center[:, None])
    z, log_density, covariance = _descended(batched, start, center, scale)
    return _merge(z, log_density, covariance)


def _filled_up(peaks: Floats, likely: Floats) -> Floats:
    """Return the peaks, filled up by the first of ``likely`` ``(start, n)`` to as many points as that has."""
    some = peaks[np.isfinite(peaks).all(axis=1)]
    return np.concatenate([some, likely])[: len(likely)]


def no_modes(pool: Pool) -> Modes:
    """The likeliest prior draw as the only mode, without mass, for models that cannot be differentiated."""
    best = np.argmax(pool.log_likelihood, axis=1)[:, None]
    z = np.take_along_axis(pool.z, best[..., None], axis=1)
    density = np.take_along_axis(pool.log_likelihood, best, axis=1)
    n = z.shape[-1]
    return Modes(z, density, np.full(density.shape, -np.inf), np.broadcast_to(np.eye(n), (*density.shape, n, n)))


def _finite_median(z: Floats) -> Floats:
    return np.median(np.where(np.isfinite(z), z, 0.0), axis=1)


def _finite_spread(z: Floats) -> Floats:
    """Half the central 68 % interval: the prior's scale, insensitive to its tails."""
    low, high = np.quantile(np.where(np.isfinite(z), z, 0.0), [0.16, 0.84], axis=1)
    return 0.5 * (high - low)


def _descended(batched: BatchedProblem, start: Floats, center: Floats, scale: Floats) -> tuple[Floats, ...]:
    """Run ``_descend`` for any number of data sets, a few in one call."""
    parts = []
    for rows in blocks_of(len(start), lanes_of(start.shape[1] * start.shape[2] ** 2)):
        observations = batched.batch.take(rows)
        obs = Observation(observations.fields, observations.constants, observations.mask)
        count = np.asarray(len(np.unique(rows)))
        found = _descend(batched.problem, count, start[rows], center[rows], scale[rows], obs)
        parts.append([np.asarray(array)[:count] for array in found])
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


@partial(jax.jit, static_argnums=0)
def _descend(problem: Problem, count: Any, *datasets: Any) -> tuple[Floats, Floats, Floats]:
    """The ends, their log densities and Laplace covariances, of the first ``count`` data sets."""
    over_starts = jax.vmap(partial(_descend_one, problem), in_axes=(0, None, None, None))
    return first_of(over_starts, datasets, count)


class _Descent(NamedTuple):
    """The place ``u`` of a descent, its potential, slope and curvature (along ``axes``), and the place to try next."""

    u: Any
    value: Any
    slope: Any
    curvature: Any
    axes: Any
    trial: Any
    damping: Any
    count: Any

    @property
    def decrement(self) -> Any:
        """The gain of a Newton step in log density."""
        return 0.5 * jnp.sum(self.slope**2 / jnp.maximum(jnp.abs(self.curvature), 1e-12))


def _descend_one(
    problem: Problem, start: Floats, center: Floats, scale: Floats, obs: Observation
) -> tuple[Floats, Floats, Floats]:
    def potential(u: Floats) -> Floats:
        return problem.potential(center + scale * u, obs)

    def still(now: _Descent) -> Any:
        return (now.count <= DESCENT_STEPS) & (now.decrement > DECREMENT)

    def step(now: _Descent) -> _Descent:
        value, gradient = jax.value_and_grad(potential)(now.trial)
        curvature, axes = jnp.linalg.eigh(_finite(problem.hessian(potential)(now.trial)))
        # The start is always accepted.
        taken = (value < now.value) | (now.count == 0)
        there = value, axes.T @ _finite(gradient), curvature, axes
        here = now.value, now.slope, now.curvature, now.axes
        value, slope, curvature, axes = (jnp.where(taken, new, old) for new, old in zip(there, here, strict=True))
        u = jnp.where(taken, now.trial, now.u)
        damping = jnp.where(now.count == 0, now.damping, now.damping * jnp.where(taken, 0.2, 6.0)).clip(1e-9, 1e9)
        move = axes @ (slope / (jnp.abs(curvature) + damping))
        length = jnp.linalg.norm(move)
        trial = u - move * jnp.minimum(1.0, 4.0 / jnp.maximum(length, 1e-12))
        return _Descent(u, value, slope, curvature, axes, trial, damping, now.count + 1)

    n = start.shape[0]
    nowhere = jnp.full(n, jnp.inf)
    u = (start - center) / scale
    begin = _Descent(u, jnp.inf, nowhere, jnp.ones(n), jnp.eye(n), u, 1e-2, 0)
    end = jax.lax.while_loop(still, step, jax.tree.map(jnp.asarray, begin))
    covariance = (end.axes / jnp.maximum(end.curvature, LEAST_CURVATURE)) @ end.axes.T
    return center + scale * end.u, -end.value, covariance * scale[:, None] * scale[None, :]


def _finite(array: Any) -> Any:
    return jnp.nan_to_num(array, nan=0.0, posinf=1e12, neginf=-1e12)


def _merge(z: Floats, log_density: Floats, covariance: Floats) -> Modes:
    log_density = np.where(np.isfinite(log_density), log_density, -np.inf)
    order = np.argsort(-log_density, axis=1, kind="stable")
    z = np.take_along_axis(z, order[..., None], axis=1)
    covariance = np.take_along_axis(covariance, order[..., None, None], axis=1)
    log_density = np.take_along_axis(log_density, order, axis=1)
    precision = inverses(covariance)
    unique = np.isfinite(log_density)
    for k in range(1, z.shape[1]):
        difference = z[:, :k] - z[:, k : k + 1]
        distance = np.einsum("dki,dkij,dkj->dk", difference, precision[:, :k], difference)
        unique[:, k] &= ~np.any((distance < SAME_MODE_DISTANCE**2) & unique[:, :k], axis=1)
    log_density = np.where(unique, log_density, -np.inf)
    _, log_det = np.linalg.slogdet(covariance)
    log_mass = log_density + 0.5 * (z.shape[-1] * np.log(2 * np.pi) + log_det)
    return Modes(z, log_density, log_mass, covariance)
