"""The starts of searches for modes: peaks among points, peaks with a valley between them, and tempered particles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chainsweep.importance.modes import choose_peaks, separated
from chainsweep.importance.target import Start, Target, defensive_mixture
from chainsweep.importance.tempered import PEAKS, Tempering, particle_peaks, tempered

CENTRES = np.array([[-6.0, 0.0], [4.0, 4.0], [5.0, -7.0]])
SHARES = np.array([0.6, 0.3, 0.1])
WIDTHS = np.array([1.0, 0.3, 0.6])


def log_density(z: np.ndarray) -> np.ndarray:
    """The log density of three modes, normalised, at ``z`` ``(..., 2)``."""
    squares = ((z[..., None, :] - CENTRES) ** 2).sum(axis=-1) / WIDTHS**2
    return np.logaddexp.reduce(np.log(SHARES / (2 * np.pi * WIDTHS**2)) - 0.5 * squares, axis=-1)


def mode_of(z: np.ndarray) -> np.ndarray:
    return np.argmin(((z[..., None, :] - CENTRES) ** 2).sum(axis=-1), axis=-1)


def scattered(seed: int, draws: int = 2000) -> np.ndarray:
    return 6.0 * np.random.default_rng(seed).standard_normal((draws, 2))


def test_peaks_are_in_every_mode_and_the_likeliest_draws_are_not():
    z = scattered(1)
    values = log_density(z)
    peaks = choose_peaks(z, values, 24)
    assert set(mode_of(z[peaks])) == {0, 1, 2}
    assert np.all(np.diff(values[peaks]) <= 0)
    assert peaks[0] == np.argmax(values)
    likeliest = np.argsort(-values)[: len(peaks)]
    assert set(mode_of(z[likeliest])) < {0, 1, 2}


def test_points_without_a_density_are_no_peaks():
    z, values = scattered(2, 200), np.full(200, -np.inf)
    values[[3, 7]] = [0.0, 1.0]
    z[7] = np.nan
    assert choose_peaks(z, values, 5).tolist() == [3]
    assert choose_peaks(z, np.full(200, np.nan), 5).size == 0


def test_padding_and_copies_change_no_peak():
    """Other data sets of a batch may have more points, and resampled points have copies."""
    z = scattered(5, 600)
    values = log_density(z)
    padded = np.concatenate([z, np.full((5000, 2), np.nan)])
    low = np.concatenate([values, np.full(5000, -np.inf)])
    alone = choose_peaks(z, values, 9)
    np.testing.assert_array_equal(choose_peaks(padded, low, 9), alone)
    copied = choose_peaks(np.repeat(z, 12, axis=0), np.repeat(values, 12), 9)
    np.testing.assert_array_equal(np.repeat(z, 12, axis=0)[copied], z[alone])


def test_peaks_of_one_mode_count_once():
    batched: Any = SimpleNamespace(log_density_unconstrained=log_density)
    near = CENTRES[[0, 0, 1, 1, 2]] + 0.2 * np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [0, -1]])
    points = np.stack([np.concatenate([near, [[np.nan, 0.0]]]), np.full((6, 2), np.nan)])
    found = separated(batched, points, 4)
    assert found.shape == (2, 4, 2)
    assert sorted(mode_of(found[0, :3])) == [0, 1, 2]
    assert np.all(np.diff(log_density(found[0, :3])) <= 0)
    assert np.isnan(found[0, 3]).all()
    assert np.isnan(found[1]).all()
    assert np.isfinite(separated(batched, points, 2)[0]).all()


@pytest.fixture(scope="module")
def start() -> Start:
    """Points of a wide normal distribution for two data sets, the second of which has no mass anywhere."""
    z = np.stack([scattered(3), scattered(4)])
    values = log_density(z)
    values[1] = -np.inf
    proposal = -0.5 * (z**2).sum(axis=2) / 36 - np.log(2 * np.pi * 36)
    return Start(z, values, proposal + np.log(z.shape[1]), defensive_mixture(z, 1.5))


def moved(start: Start, seeds: tuple[int, int] = (1, 2), **effort: int):
    def density(z, positions):
        return np.where((positions == 0)[:, None], log_density(z), -np.inf)

    generators = [np.random.default_rng(seed) for seed in seeds]
    return tempered(Target(density), start, generators, Tempering(**effort))


def test_particles_end_in_every_mode_by_its_mass(start):
    found = [moved(start, (seed, 0)).final[0] for seed in range(4)]
    share = np.bincount(mode_of(np.concatenate(found)), minlength=3) / (4 * Tempering().particles)
    np.testing.assert_allclose(share, SHARES, atol=0.1)
    one = found[0][mode_of(found[0]) == 1]
    np.testing.assert_allclose(one.std(axis=0), WIDTHS[1], rtol=0.25)


def test_a_data_set_without_mass_has_no_particles_and_disturbs_no_other(start):
    both = moved(start, particles=128, moves=2)
    assert np.isnan(both.final[1]).all()
    other = moved(start, (1, 77), particles=128, moves=2)
    np.testing.assert_array_equal(both.z[0], other.z[0])
    np.testing.assert_array_equal(both.log_target[0], log_density(both.z[0]))


def test_peaks_of_particles_are_kept_from_all_steps(start):
    found = moved(start)
    assert found.z.shape[1] > found.last
    peaks = particle_peaks(found)
    assert set(mode_of(peaks[0][np.isfinite(peaks[0]).all(axis=1)])) == {0, 1, 2}
    assert np.isnan(peaks[1]).all()
    assert peaks.shape[1] == found.z.shape[1] // found.last * PEAKS
