"""Agreement of engines: known shifts and distances, and no figure where there is none."""

import numpy as np
import pytest
import scipy.stats

from chainsweep.diagnostics import blocks
from chainsweep.diagnostics.agreement import moment_agreement, pairwise_agreement, wasserstein


def test_known_shift_and_width():
    found = moment_agreement([[1.0, 0.0]], [[2.0, 1.0]], [[3.0, 0.0]], [[2.0, 2.0]])
    np.testing.assert_allclose(found.shift, [[1.0, 0.0]])
    np.testing.assert_allclose(found.log_sd_ratio, [[0.0, -np.log(2.0)]])


def test_a_missing_figure_is_nan_and_point_masses_are_apart():
    found = moment_agreement(
        [np.nan, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, np.inf], [0.0, 2.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]
    )
    np.testing.assert_array_equal(found.shift, [np.nan, np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(found.log_sd_ratio, [0.0, np.nan, np.nan, np.nan])


def test_every_pair_of_engines_is_compared_once():
    zero, one = np.zeros((3, 2)), np.ones((3, 2))
    pairs = pairwise_agreement({"emcee": (zero, one), "nuts": (one, one), "snpe": (zero, one)})
    assert list(pairs) == [("emcee", "nuts"), ("emcee", "snpe"), ("nuts", "snpe")]
    assert (pairs["emcee", "nuts"].shift == 1.0).all()
    assert (pairs["emcee", "snpe"].shift == 0.0).all()


def test_figures_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        moment_agreement(np.zeros((3, 2)), np.ones((3, 2)), np.zeros((3, 1)), np.ones((3, 2)))


def test_distance_equals_scipy(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 2, 60)), 2 * rng.normal(size=(5, 2, 90)) + 1
    log_a, log_b = rng.normal(size=(5, 1, 60)), rng.normal(size=(5, 2, 90))
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 500)
    plain, weighted = wasserstein(a, b), wasserstein(a, b, log_a, log_b)
    assert plain.shape == weighted.shape == (5, 2)
    pooled = np.sqrt(0.5 * (a.var(-1, ddof=1) + b.var(-1, ddof=1)))
    for i in np.ndindex(5, 2):
        assert plain[i] * pooled[i] == pytest.approx(scipy.stats.wasserstein_distance(a[i], b[i]), rel=1e-9)
    weights = np.exp(log_a[0, 0]), np.exp(log_b[0, 0])
    expected = scipy.stats.wasserstein_distance(a[0, 0], b[0, 0], *weights)
    # Both distances of one pair of samples, so that the unit (weighted pooled sd) cancels.
    reference = wasserstein(a[0, 0] + 100, b[0, 0], log_a[0, 0], log_b[0, 0])
    far = scipy.stats.wasserstein_distance(a[0, 0] + 100, b[0, 0], *weights)
    assert weighted[0, 0] / reference == pytest.approx(expected / far, rel=1e-9)
    assert weighted[0, 0] != pytest.approx(plain[0, 0], rel=1e-3)


def test_distance_sees_a_shift_and_only_that():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 100, 1000))
    same = wasserstein(a, b)
    assert same.mean() == pytest.approx(1.8 / np.sqrt(1000), rel=0.15)
    np.testing.assert_allclose(wasserstein(a, b + 0.5), 0.5, atol=0.15)
    assert wasserstein(a, b + 0.5).min() > same.max()


def test_distance_sees_a_second_mode_that_moments_hide():
    rng = np.random.default_rng(3)
    modes = np.sign(rng.normal(size=(20, 2000))) + 0.1 * rng.normal(size=(20, 2000))
    normal = np.sqrt(1.01) * rng.normal(size=(20, 2000))
    found = moment_agreement(modes.mean(-1), modes.std(-1), normal.mean(-1), normal.std(-1))
    assert found.shift.max() < 0.15
    assert wasserstein(modes, normal).min() > 0.25


def test_padding_needs_no_mass_and_may_be_nan():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(3, 40)) + 50.0, rng.normal(size=(3, 30)) + 50.0
    expected = wasserstein(a[:, :25], b)
    a[:, 25:] = np.nan
    assert np.isnan(wasserstein(a, b)).all()
    log_weights = np.where(np.isnan(a), -np.inf, 0.0)
    np.testing.assert_allclose(wasserstein(a, b, log_weights), expected, rtol=1e-9)
    log_weights[1] = -np.inf
    np.testing.assert_array_equal(np.isnan(wasserstein(a, b, log_weights)), [False, True, False])


def test_points():
    assert wasserstein(np.ones(5), 2 * np.ones(5)) == np.inf
    assert np.isnan(wasserstein(np.ones(5), np.ones(5)))


def test_leading_axes_that_differ_are_refused():
    with pytest.raises(ValueError, match="equal leading axes"):
        wasserstein(np.zeros((3, 10)), np.zeros((2, 10)))
