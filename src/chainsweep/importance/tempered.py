r"""Tempered particles: from a wide start to the posterior in steps, so that far and small modes are met on the way.

With :math:`q` the defensive mixture of the prior's size, the particles of a data set pass through
:math:`q^{1-\beta} p^\beta` with :math:`\beta` from 0 to 1, each step as long as leaves half of them effective. In each
they are resampled and moved by scaled differences of two particles (differential evolution), which fit modes of any
width. A mode that ends with little mass has more of it on the way: what was met in earlier steps is kept too.

The particles only say where to look: their weights are not used, and a poor run makes a search poorer, never wrong.

Reference: Del Moral, Doucet & Jasra 2006, JRSS B 68, 411 (tempered particles); ter Braak & Vrugt 2008, Statistics and
Computing 18, 435 (moves by differences).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainsweep.importance.mixture_density import Mixture, degrees
from chainsweep.importance.modes import choose_peaks
from chainsweep.importance.target import CHAIN_POINTS, Start, Target, from_chains
from chainsweep.numerics.arrays import Floats, Ints
from chainsweep.numerics.resampling import effective_draws, systematic

LEAST_EFFECTIVE = 0.5
"""The share of the particles that stay effective in one step."""
MOST_STEPS = 60
"""The most steps of a data set; the last one goes to the posterior, whatever stays effective."""
BISECTIONS = 24
"""The number of times that the range of the next power is halved."""
SMALLEST_STEP = 1e-6
"""The least growth of the power in one step, so that it ends."""
SCALES = -3.0, 0.2
"""The decimal logs of the smallest and largest scale of a difference."""
PEAKS = 8
"""The most peaks of the particles of one step."""
KEPT = 3
"""The particles of each step whose number is a multiple of this are kept too."""


@dataclass(frozen=True)
class Tempering:
    """The effort of a tempered search."""

    particles: int = 512
    """The number of particles of a data set."""
    moves: int = 6
    """The number of moves of every particle in each step."""


@dataclass(eq=False)
class Particles:
    """The particles of every data set: ``z`` ``(dataset, point, n)`` and ``log_target`` ``(dataset, point)``.

    The last ``last`` points are those of the posterior itself; before them come those of earlier steps. NaN and -inf
    where a data set took fewer steps or has no mass.
    """

    z: Floats
    log_target: Floats
    last: int

    @property
    def final(self) -> Floats:
        """The particles at the posterior, ``(dataset, particle, n)``."""
        return self.z[:, -self.last :]


@dataclass(frozen=True)
class _Wide:
    """The Student-t distribution that the particles come from, with the inverse Cholesky factor of its scale."""

    mean: Floats
    inverse: Floats

    @classmethod
    def of(cls, defensive: Mixture) -> _Wide:
        return cls(np.asarray(defensive.mean)[:, :1], np.linalg.inv(np.asarray(defensive.chol)[:, 0]))

    def take(self, rows: Ints) -> _Wide:
        """The distributions of the data sets ``rows``."""
        return _Wide(self.mean[rows], self.inverse[rows])

    def log_density(self, z: Floats) -> Floats:
        """The log density at ``z`` ``(dataset, point, n)``, up to a constant for each data set."""
        n = z.shape[2]
        white = (z - self.mean) @ np.swapaxes(self.inverse, 1, 2)
        return -0.5 * (degrees(n) + n) * np.log1p(np.einsum("dpi,dpi->dp", white, white) / degrees(n))


@dataclass(eq=False)
class _Cloud:
    """The particles of the data sets that are not done: arrays ``(dataset, particle, ...)``."""

    z: Floats
    log_target: Floats
    log_wide: Floats
    log_weight: Floats

    @property
    def slope(self) -> Floats:
        """The growth of a particle's log weight with the power; -inf at points without mass."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(self.log_target), self.log_target - self.log_wide, -np.inf)

    def take(self, rows: Ints) -> _Cloud:
        """The particles of the data sets ``rows``."""
        return _Cloud(self.z[rows], self.log_target[rows], self.log_wide[rows], self.log_weight[rows])


def tempered(
    target: Target, start: Start, generators: list[np.random.Generator], settings: Tempering = Tempering()
) -> Particles:
    """Move particles from the points of ``start``, ``(dataset, point, n)``, to the target.

    Each data set has one of the ``generators``, and nothing else is random: it depends on no other data set.
    """
    datasets, _, n = start.z.shape
    count = settings.particles
    wide = _Wide.of(start.defensive)
    log_wide = wide.log_density(start.z)
    cloud = _Cloud(start.z, start.log_target, log_wide, np.where(np.isfinite(start.log_target), log_wide, -np.inf))
    cloud.log_weight = cloud.log_weight - np.where(np.isfinite(start.log_denominator), start.log_denominator, 0.0)
    kept = [[np.empty((0, n))] for _ in range(datasets)]
    kept_target = [[np.empty(0)] for _ in range(datasets)]
    final, final_target = np.full((datasets, count, n), np.nan), np.full((datasets, count), -np.inf)
    rows = np.flatnonzero(np.isfinite(cloud.log_weight).any(axis=1))
    cloud, power = cloud.take(rows), np.zeros(rows.size)
    for step in range(MOST_STEPS):
        if not rows.size:
            break
        power, cloud = _resampled(cloud, power, count, [generators[row] for row in rows], step == MOST_STEPS - 1)
        for _ in range(settings.moves):
            cloud = _moved(target, wide.take(rows), cloud, power, rows, [generators[row] for row in rows])
        final[rows], final_target[rows] = cloud.z, cloud.log_target
        if step % KEPT == 0:
            for k, row in enumerate(rows.tolist()):
                kept[row].append(cloud.z[k])
                kept_target[row].append(cloud.log_target[k])
        going = np.flatnonzero(power < 1.0)
        rows, cloud, power = rows[going], cloud.take(going), power[going]
    return _together(kept, kept_target, final, final_target)


def particle_peaks(particles: Particles) -> Floats:
    """Return peaks ``(dataset, peak, n)`` of the target among the particles of each step; NaN where there are fewer.

    The steps are looked at one by one: in the last ones the likeliest mode has nearly all particles.
    """
    datasets, points, n = particles.z.shape
    steps = points // particles.last
    found = np.full((datasets, steps, PEAKS, n), np.nan)
    for row in range(datasets):
        clouds = particles.z[row].reshape(steps, -1, n), particles.log_target[row].reshape(steps, -1)
        for step, (z, log_target) in enumerate(zip(*clouds, strict=True)):
            peaks = choose_peaks(z, log_target, PEAKS)
            found[row, step, : len(peaks)] = z[peaks]
    return found.reshape(datasets, -1, n)


def on_particles(target: Target, particles: Particles, keys: NDArray[np.uint32]) -> Mixture:
    """Return kernels on the particles at the posterior, from raw ``keys`` ``(dataset, 2)``."""
    return from_chains(target, particles.final[:, :: max(1, particles.last // CHAIN_POINTS)], keys)


def _resampled(
    cloud: _Cloud, power: Floats, count: int, generators: list[np.random.Generator], at_last: bool
) -> tuple[Floats, _Cloud]:
    """Return the next powers, and the particles resampled for them; ``at_last`` the power is 1."""
    slope, enough = cloud.slope, LEAST_EFFECTIVE * count

    def effective(to: Floats) -> Floats:
        logs = np.where(np.isfinite(slope), cloud.log_weight + slope * (to - power)[:, None], -np.inf)
        return effective_draws(logs - logs.max(axis=1, keepdims=True), np.ones(len(logs)))

    low, high = power.copy(), np.ones(len(power))
    whole = effective(high) >= enough
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        good = effective(middle) >= enough
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    new = np.where(whole | at_last, 1.0, np.minimum(np.maximum(low, power + SMALLEST_STEP), 1.0))
    logs = np.where(np.isfinite(slope), cloud.log_weight + slope * (new - power)[:, None], -np.inf)
    index = np.stack([systematic(own, count, rng.random()) for own, rng in zip(logs, generators, strict=True)])
    z = np.take_along_axis(cloud.z, index[..., None], axis=1)
    log_target, log_wide = (np.take_along_axis(array, index, axis=1) for array in (cloud.log_target, cloud.log_wide))
    return new, _Cloud(z, log_target, log_wide, np.zeros(index.shape))


def _moved(
    target: Target,
    wide: _Wide,
    cloud: _Cloud,
    power: Floats,
    rows: Ints,
    generators: list[np.random.Generator],
) -> _Cloud:
    """Return the particles after one Metropolis move by the difference of two of them."""
    count, n = cloud.z.shape[1:]
    step, log_uniform = np.empty_like(cloud.z), np.empty(cloud.z.shape[:2])
    for k, rng in enumerate(generators):
        one, other = rng.integers(count, size=(2, count))
        scale = 2.38 / np.sqrt(2 * n) * 10.0 ** rng.uniform(*SCALES, size=(count, 1))
        step[k], log_uniform[k] = scale * (cloud.z[k, one] - cloud.z[k, other]), np.log(rng.random(count))
    z = cloud.z + step
    log_target, log_wide = target.log_density(z, rows), wide.log_density(z)
    p = power[:, None]
    with np.errstate(invalid="ignore"):
        gain = p * (log_target - cloud.log_target) + (1.0 - p) * (log_wide - cloud.log_wide)
    taken = np.isfinite(log_target) & (log_uniform < np.where(np.isnan(gain), -np.inf, gain))
    return _Cloud(
        np.where(taken[..., None], z, cloud.z),
        np.where(taken, log_target, cloud.log_target),
        np.where(taken, log_wide, cloud.log_wide),
        cloud.log_weight,
    )


def _together(
    kept: list[list[Floats]], kept_target: list[list[Floats]], final: Floats, final_target: Floats
) -> Particles:
    clouds = [np.concatenate(parts) for parts in kept]
    targets = [np.concatenate(parts) for parts in kept_target]
    longest = max((len(cloud) for cloud in clouds), default=0)
    z = np.full((len(final), longest, final.shape[2]), np.nan)
    log_target = np.full((len(final), longest), -np.inf)
    for row, (cloud, values) in enumerate(zip(clouds, targets, strict=True)):
        z[row, : len(cloud)], log_target[row, : len(cloud)] = cloud, values
    return Particles(
        np.concatenate([z, final], axis=1), np.concatenate([log_target, final_target], axis=1), final.shape[1]
    )
