"""The places of walkers: scattered likely prior draws at the start, and new places for stuck ones during burn-in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from chainsweep.importance.modes import Pool
from chainsweep.model.failing import Failing
from chainsweep.numerics.arrays import Bools, Floats, Ints
from chainsweep.numerics.resampling import distinct, temper
from chainsweep.numerics.seeds import Seeds

EFFECTIVE_DRAWS_PER_WALKER = 4
"""Likelihood weights are tempered until the effective number of prior draws is this many for each walker."""

STUCK_TAIL = 1e-5
"""The share of a normal posterior whose density is below that of the threshold under which a walker is low."""

STUCK_MASS = 0.01
"""The mass of the low walkers' region, relative to that of the others, below which they are moved."""


@dataclass(frozen=True)
class Start:
    """Initial walkers of every data set: ``theta`` ``(dataset, ensemble, walker, ndim)``, ``log_prob`` alike.

    ``failures`` maps the position of a data set that has no start to the reason; its rows are NaN.
    """

    theta: Floats
    log_prob: Floats
    failures: dict[int, str]


def start_walkers(pool: Pool, log_density: Floats, ids: Sequence[str], seeds: Seeds, shape: tuple[int, int]) -> Start:
    """Choose ``shape = (ensembles, walkers)`` prior draws of each data set, each ensemble from a part of its own.

    ``log_density`` ``(dataset, draw)`` is that of the draws, -inf where it is not finite.
    """
    ensembles, walkers = shape
    ndim, draws = pool.theta.shape[-1], pool.theta.shape[1] // ensembles
    theta = np.full((len(ids), ensembles, walkers, ndim), np.nan)
    log_prob = np.full(theta.shape[:-1], np.nan)
    failures: dict[int, str] = {}
    for ensemble in range(ensembles):
        share = slice(ensemble * draws, (ensemble + 1) * draws)
        points, density = pool.theta[:, share], log_density[:, share]
        likelihood = np.where(np.isfinite(density), pool.log_likelihood[:, share], -np.inf)
        power = temper(likelihood, EFFECTIVE_DRAWS_PER_WALKER * walkers)
        for position, dataset_id in enumerate(ids):
            rng = seeds.generator(dataset_id, "walkers", ensemble)
            chosen = choose_distinct(likelihood[position], power[position], walkers, rng)
            if len(np.unique(chosen)) < min(walkers, ndim + 2):
                finite = int(np.isfinite(density[position]).sum())
                failures[position] = (
                    f"{Failing.NO_START}{finite} of {draws} prior draws and at least "
                    f"{ndim + 2} are needed; check the data, or narrow the prior to where it is finite"
                )
                theta[position], log_prob[position] = np.nan, np.nan
            elif position not in failures:
                theta[position, ensemble] = points[position, chosen]
                log_prob[position, ensemble] = density[position, chosen]
    return Start(theta, log_prob, failures)


def choose_distinct(log_weights: Floats, power: float, n: int, rng: np.random.Generator) -> Ints:
    """Indices of ``n`` draws without replacement, repeated where fewer are finite; empty if none is."""
    order = distinct(log_weights, power, min(n, int(np.isfinite(log_weights).sum())), rng)
    return np.resize(order, n) if len(order) else order


def low_walkers(log_prob: Floats, ndim: int) -> Bools:
    """True for walkers whose density never came near that of the best, ``(..., walker)`` of ``(step, ..., walker)``.

    Judged by the highest density that a walker reached, against the highest of its ensemble less what a
    chi-square tail with ``ndim`` degrees of freedom allows.
    """
    highest = log_prob.max(axis=0)
    return highest < highest.max(axis=-1, keepdims=True) - 0.5 * chdtri(ndim, STUCK_TAIL)


def stuck_walkers(theta: Floats, log_prob: Floats) -> Bools:
    """True for the walkers of one ensemble that are stuck where there is next to no mass, ``(walker,)``.

    Parameters
    ----------
    theta, log_prob
        The last steps of the ensemble, ``(step, walker, ndim)`` and ``(step, walker)``.

    Notes
    -----
    A narrow peak may be much higher than a broad region that holds the mass. So low walkers count as stuck only
    when mean log density plus log volume, from the covariance of the points, says that their region has little mass.
    """
    ndim = theta.shape[-1]
    low = low_walkers(log_prob, ndim)
    none = np.zeros_like(low)
    good_points = theta[:, ~low].reshape(-1, ndim)
    if not low.any() or len(np.unique(good_points, axis=0)) < 2 * (ndim + 1):
        return none
    good = log_prob[:, ~low].mean() + _log_volume(good_points)
    bad = log_prob[:, low].mean() + _log_volume(theta[:, low].reshape(-1, ndim))
    return low if bad < good + np.log(STUCK_MASS) else none


def _log_volume(points: Floats) -> float:
    """Half the log determinant of the covariance; -inf for points on a plane."""
    covariance = np.atleast_2d(np.cov(points, rowvar=False))
    sign, logdet = np.linalg.slogdet(covariance)
    return 0.5 * float(logdet) if sign > 0 else -np.inf


def reposition_stuck(theta: Floats, log_prob: Floats, stuck: Bools, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """New places for the stuck walkers: recent points of the other walkers of their ensemble.

    ``theta`` and ``log_prob`` are the last steps, as for ``stuck_walkers``. Return the points ``(walker, ndim)`` and
    their log densities.
    """
    points, densities = theta[:, ~stuck].reshape(-1, theta.shape[-1]), log_prob[:, ~stuck].ravel()
    distinct = np.unique(points, axis=0, return_index=True)[1]
    number = int(stuck.sum())
    chosen = rng.choice(distinct, size=number, replace=number > len(distinct))
    return points[chosen], densities[chosen]
