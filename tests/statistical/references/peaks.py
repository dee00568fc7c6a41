r"""Reference posteriors of 64 Gaussian peaks under the broad prior, and the script that makes them.

    python -m tests.statistical.references.peaks    # some minutes; writes peaks.npz next to this file

Half of the data sets hold a visible peak, half are drawn from the broad prior itself: faint peaks, peaks outside the
window, peaks as wide as it. The method shares no code with the package and cannot overlook a mode. Given place
:math:`m` and width :math:`s` the curve is linear in height, level and slope, so their integral over the prior's box
is nearly closed: a grid over all of :math:`(m, s)` shows where mass is. Draws are taken from its cells, then height,
level and slope one after the other from truncated normals, and weighted with the exact density in float64::

    w = p(y | l, m, s, a, b) p(l, m, s, a, b) / (q(m, s) q(l | m, s) q(a | l, m, s) q(b | a, l, m, s))

Reference: Geweke, Hajivassiliou, Keane (sequential truncated normals): Keane 1994, Econometrica 62, 95.
"""

from __future__ import annotations

import os
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp
from scipy.stats import truncnorm

Floats = NDArray[np.float64]

FILE = Path(__file__).with_name("peaks.npz")
NAMES = ("l", "m", "s", "a", "b")
LOW = np.array([-2.0, -2.0, 0.0, -2.0, -2.0])
HIGH = np.array([2.0, 2.0, 2.0, 2.0, 2.0])
VISIBLE_LOW = np.array([0.7, 0.2, 0.05, -1.0, -1.0])
VISIBLE_HIGH = np.array([1.8, 0.8, 0.2, 1.0, 1.0])
QUANTILES = (0.05, 0.5, 0.95)
DATASETS, POINTS, SEED = 64, 40, 2026
ENOUGH = 12_000
"""Effective draws at which a data set is done."""
MOST_DRAWS = 6_400_000
PLACES, WIDTHS = 2000, 300
"""Cells of the grid; widths are dense near 0."""


class Peaks(NamedTuple):
    """The data sets: fields ``(dataset, point)``, and ``truth`` ``(dataset, parameter)`` that they were made with."""

    x: Floats
    y: Floats
    y_err: Floats
    truth: Floats


class Reference(NamedTuple):
    """Exact posteriors: ``mean``, ``sd`` ``(dataset, parameter)``, ``quantiles`` ``(dataset, parameter, 3)``,
    ``log_evidence``, ``log_evidence_se`` and ``ess`` ``(dataset,)``; parameters in the order of ``NAMES``."""

    mean: Floats
    sd: Floats
    quantiles: Floats
    log_evidence: Floats
    log_evidence_se: Floats
    ess: Floats


def load() -> tuple[Peaks, Reference]:
    """What the script stored."""
    with np.load(FILE) as stored:
        return Peaks(*(stored[n] for n in Peaks._fields)), Reference(*(stored[n] for n in Reference._fields))


def make_data() -> Peaks:
    """64 data sets, the first half visible peaks, the second half from the broad prior."""
    rng = np.random.default_rng(SEED)
    half = DATASETS // 2
    visible, broad = rng.uniform(VISIBLE_LOW, VISIBLE_HIGH, (half, 5)), rng.uniform(LOW, HIGH, (half, 5))
    truth = np.concatenate([visible, broad])
    x = np.sort(rng.uniform(0, 1, (DATASETS, POINTS)), axis=1)
    y_err = rng.uniform(0.05, 0.25, x.shape)
    height, place, width, level, slope = truth.T[:, :, None]
    curve = height * np.exp(-((x - place) ** 2) / (2 * width**2)) + level + slope * x
    return Peaks(x, curve + y_err * rng.standard_normal(x.shape), y_err, truth)


class Linear(NamedTuple):
    """Height, level and slope at fixed place and width, as one normal: what is left when the others are integrated
    out or given. All ``(cell,)``."""

    precision_l: Floats
    mean_l: Floats
    log_peak: Floats
    """Log likelihood, level and slope integrated over the whole plane, at the best height."""
    projected_level: Floats
    """Level and slope at height ``l`` are these less ``l`` times ``l_level``, ``l_slope``."""
    projected_slope: Floats
    l_level: Floats
    l_slope: Floats


class Window:
    """The sums over the points of one data set that do not depend on place and width."""

    def __init__(self, x: Floats, y: Floats, y_err: Floats) -> None:
        self.x, self.weight, self.y = x, 1 / y_err**2, y
        design = np.stack([np.ones_like(x), x])
        self.precision = (design * self.weight) @ design.T
        self.covariance = np.linalg.inv(self.precision)
        self.design = design
        self.target = design @ (self.weight * y)
        self.flat = self.covariance @ self.target
        self.log_norm = -0.5 * np.log(2 * np.pi * y_err**2).sum()
        _, log_det = np.linalg.slogdet(self.precision)
        self.log_plane = np.log(2 * np.pi) - 0.5 * log_det
        self.chi_flat = (self.weight * y**2).sum() - self.target @ self.flat
        # A given level leaves the slope this sd; the level itself has the marginal one.
        self.sd_level = np.sqrt(self.covariance[0, 0])
        self.slope_on_level = self.covariance[1, 0] / self.covariance[0, 0]
        self.sd_slope = 1 / np.sqrt(self.precision[1, 1])

    def linear(self, place: Floats, width: Floats) -> Linear:
        """``Linear`` of each place and width."""
        peak = np.exp(-0.5 * ((self.x - place[:, None]) / width[:, None]) ** 2)
        cross = (peak * self.weight) @ self.design.T
        shift = cross @ self.covariance
        precision = ((peak**2) @ self.weight - (shift * cross).sum(axis=1)).clip(1e-9)
        pull = peak @ (self.weight * self.y) - cross @ self.flat
        mean = pull / precision
        log_peak = self.log_norm + self.log_plane - 0.5 * (self.chi_flat - pull * mean)
        return Linear(precision, mean, log_peak, *np.broadcast_arrays(self.flat[0], self.flat[1], *shift.T))

    def log_likelihood(self, theta: Floats) -> Floats:
        """At ``theta`` ``(draw, 5)``, nothing integrated."""
        height, place, width, level, slope = theta.T[..., None]
        curve = height * np.exp(-((self.x - place) ** 2) / (2 * width**2)) + level + slope * self.x
        return self.log_norm - 0.5 * ((self.y - curve) ** 2 * self.weight).sum(axis=1)


def log_between(mean: Floats, sd: Floats) -> Floats:
    """Log probability that a normal lies in [-2, 2], also far in its tails."""
    low, high = (-2.0 - mean) / sd, (2.0 - mean) / sd
    near, far = np.where(mean > 0, -low, high), np.where(mean > 0, -high, low)
    ratio = log_ndtr(far) - log_ndtr(near)
    return log_ndtr(near) + np.log1p(-np.exp(np.minimum(ratio, -1e-16)))


def grid() -> tuple[Floats, Floats]:
    """Edges of the cells in place and in width."""
    return np.linspace(-2, 2, PLACES + 1), 2 * np.linspace(0, 1, WIDTHS + 1) ** 2


def log_mass(window: Window, rng: np.random.Generator) -> Floats:
    """Log posterior mass of each cell of the grid, ``(place, width)``, from one random point in each."""
    places, widths = grid()
    result = np.empty((PLACES, WIDTHS))
    for column in range(WIDTHS):
        place = places[:-1] + np.diff(places) * rng.uniform(size=PLACES)
        width = widths[column] + (widths[column + 1] - widths[column]) * rng.uniform(0.05, 1.0, size=PLACES)
        found = window.linear(place, width)
        sd = found.precision_l**-0.5
        height = np.clip(found.mean_l, -2, 2)
        level = found.projected_level - height * found.l_level
        slope = found.projected_slope - height * found.l_slope
        inside = log_between(level, window.sd_level)
        nearest = np.clip(level, -2, 2) - level
        inside = inside + log_between(slope + window.slope_on_level * nearest, window.sd_slope)
        normal = 0.5 * np.log(2 * np.pi) + np.log(sd) + log_between(found.mean_l, sd)
        result[:, column] = found.log_peak + normal + inside + np.log(widths[column + 1] - widths[column])
    return result


def shares(log_cells: Floats) -> Floats:
    """Probability of each cell: its mass, smoothed over its neighbours, a tempered part, and the prior."""
    mass = np.exp(log_cells - log_cells.max())
    padded = np.pad(mass, 1, mode="edge")
    spread = np.max([padded[i : i + PLACES, k : k + WIDTHS] for i in range(3) for k in range(3)], axis=0)
    tempered = np.exp(0.5 * (log_cells - log_cells.max()))
    area = np.broadcast_to(np.diff(grid()[1]), mass.shape)
    parts = ((0.6, mass), (0.25, spread), (0.1, tempered * np.sqrt(area)), (0.05, area))
    return sum(share * part / part.sum() for share, part in parts)


def truncated(mean: Floats, sd: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draws of normals truncated to [-2, 2], and their log densities."""
    bounds = (-2.0 - mean) / sd, (2.0 - mean) / sd
    draws = np.clip(truncnorm.rvs(*bounds, loc=mean, scale=sd, random_state=rng), -2.0, 2.0)
    return draws, -0.5 * ((draws - mean) / sd) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(sd) - log_between(mean, sd)


def weighted_draws(window: Window, share: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """``count`` draws ``(draw, 5)`` and their log weights, whose mean weight is the evidence."""
    places, widths = grid()
    flat = rng.choice(share.size, size=count, p=share.ravel())
    i, k = np.unravel_index(flat, share.shape)
    place = places[i] + (places[i + 1] - places[i]) * rng.uniform(size=count)
    width = widths[k] + (widths[k + 1] - widths[k]) * (1.0 - rng.uniform(size=count))
    log_q = np.log(share.ravel()[flat]) - np.log(places[i + 1] - places[i]) - np.log(widths[k + 1] - widths[k])
    found = window.linear(place, width)
    height, log_height = truncated(found.mean_l, found.precision_l**-0.5, rng)
    level_at, slope_at = found.projected_level - height * found.l_level, found.projected_slope - height * found.l_slope
    level, log_level = truncated(level_at, np.full(count, window.sd_level), rng)
    slope_at = slope_at + window.slope_on_level * (level - level_at)
    slope, log_slope = truncated(slope_at, np.full(count, window.sd_slope), rng)
    theta = np.stack([height, place, width, level, slope], axis=1)
    log_prior = -np.log(HIGH - LOW).sum()
    return theta, log_prior + window.log_likelihood(theta) - (log_q + log_height + log_level + log_slope)


def solve(x: Floats, y: Floats, y_err: Floats, seed: int, enough: float = ENOUGH) -> Reference:
    """The exact posterior of one data set."""
    rng = np.random.default_rng([SEED, seed])
    window = Window(x, y, y_err)
    share = shares(log_mass(window, rng))
    count, theta, log_weight = 50_000, np.empty((0, 5)), np.empty(0)
    while True:
        more = weighted_draws(window, share, count - len(theta), rng)
        theta, log_weight = np.concatenate([theta, more[0]]), np.concatenate([log_weight, more[1]])
        weight = np.exp(log_weight - logsumexp(log_weight))
        ess = 1 / (weight**2).sum()
        if ess > enough or count >= MOST_DRAWS:
            break
        count *= 2
    mean = weight @ theta
    order = np.argsort(theta, axis=0)
    total = np.cumsum(weight[order], axis=0)
    quantiles = [
        [theta[order[min(np.searchsorted(total[:, p], q), count - 1), p], p] for q in QUANTILES] for p in range(5)
    ]
    evidence = logsumexp(log_weight) - np.log(count)
    relative = np.exp(log_weight - log_weight.max())
    error = relative.std() / relative.mean() / np.sqrt(count)
    sd = np.sqrt(weight @ (theta - mean) ** 2)
    return Reference(mean, sd, np.array(quantiles), np.asarray(evidence), np.asarray(error), np.asarray(ess))


def main() -> None:
    data = make_data()
    tasks = [(data.x[k], data.y[k], data.y_err[k], k) for k in range(DATASETS)]
    with Pool(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        found = pool.starmap(solve, tasks, chunksize=1)
    reference = Reference(*(np.stack(column) for column in zip(*found, strict=True)))
    np.savez_compressed(FILE, **data._asdict(), **reference._asdict())
    print(f"{DATASETS} data sets; effective draws: least {reference.ess.min():,.0f}, most {reference.ess.max():,.0f}")
    print(f"largest error of a log evidence: {reference.log_evidence_se.max():.4f}")


if __name__ == "__main__":
    main()
