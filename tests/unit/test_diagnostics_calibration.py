"""Calibration figures of posteriors that are exact, and of ones that are wrong in a known way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sbi.diagnostics import tarp

from chainsweep.diagnostics.calibration import (
    DENSITY,
    TARP,
    density_levels,
    findings,
    most_overconfident,
    rank_levels,
    tarp_levels,
    worst,
)

SIMULATIONS, DRAWS = 2000, 100
COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.0]])


def posteriors(*, widen=1.0, shift=0.0, covariance=COVARIANCE, by_information=None, seed=0):
    """Findings where the truth is normal around a known mean, and draws are as told."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 3, (SIMULATIONS, 2))
    truth = mean + rng.standard_normal((SIMULATIONS, 2)) @ np.linalg.cholesky(COVARIANCE).T
    information = rng.uniform(size=SIMULATIONS)
    scale = widen if by_information is None else by_information(information)
    scale = np.broadcast_to(scale, SIMULATIONS)[:, None, None]
    root = np.linalg.cholesky(covariance)
    draws = mean[:, None] + shift + scale * (rng.standard_normal((SIMULATIONS, DRAWS, 2)) @ root.T)
    inverse = np.linalg.inv(root)

    def log_density(points):
        distance = (((points - mean[:, None] - shift) / scale) @ inverse.T) ** 2
        return -0.5 * distance.sum(axis=2)

    levels = density_levels(log_density(truth[:, None])[:, 0], log_density(draws))
    nearer = tarp_levels(truth, draws, rng.normal(0, 3, truth.shape))
    return findings(("a", "b"), rank_levels(truth, draws), levels, nearer, information)


def by_name(found, figure, stratum="all"):
    return next(f for f in found if (f.figure, f.stratum) == (figure, stratum))


def test_a_rank_counts_the_draws_below_the_truth():
    draws = np.array([[[0.0], [1.0], [2.0], [3.0]]])
    assert rank_levels(np.array([[2.5]]), draws).item() == pytest.approx(3.5 / 5)
    assert rank_levels(np.array([[-1.0]]), draws).item() == pytest.approx(0.5 / 5)


@pytest.mark.parametrize("seed", range(5))
def test_exact_posteriors_pass(seed):
    found = posteriors(seed=seed)
    assert len(found) == 4 * 4
    assert worst(found).sure < 0.01
    assert most_overconfident(found).sure_overconfidence == 0
    for nominal, actual in by_name(found, DENSITY).coverage.items():
        assert abs(actual - nominal) < 4 * np.sqrt(nominal * (1 - nominal) / SIMULATIONS) + 0.01


def test_too_narrow_is_overconfident_and_too_wide_is_not():
    narrow, wide = posteriors(widen=0.5), posteriors(widen=2.0)
    assert most_overconfident(narrow).sure_overconfidence > 0.1
    assert by_name(narrow, "a").coverage[0.9] < 0.7
    assert worst(wide).sure > 0.1
    assert most_overconfident(wide).sure_overconfidence == 0


def test_a_shift_is_seen_in_its_direction():
    found = posteriors(shift=1.0)
    assert by_name(found, "a").deviation > 0.3
    assert most_overconfident(found).sure_overconfidence > 0.1


def test_right_margins_with_a_wrong_correlation_are_seen_by_the_joint_figures_alone():
    found = posteriors(covariance=np.array([[1.0, -0.8], [-0.8, 1.0]]))
    assert by_name(found, "a").sure == by_name(found, "b").sure == 0
    assert by_name(found, DENSITY).sure > 0.1
    assert by_name(found, TARP).sure > 0.01


def test_right_on_average_is_seen_by_strata():
    found = posteriors(by_information=lambda information: np.where(information < 0.5, 0.72, 1.45))
    assert worst([f for f in found if f.stratum == "all"]).sure < 0.05
    assert by_name(found, DENSITY, "little").sure_overconfidence > 0.05
    assert by_name(found, DENSITY, "most").sure > 0.05


def test_tarp_agrees_with_sbi():
    rng = np.random.default_rng(3)
    truth, reference = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    draws = truth[:, None] + rng.normal(0.3, 1.2, (300, 50, 2))
    levels = (tarp_levels(truth, draws, reference) * (50 + 1) - 0.5) / 50
    theirs, alpha = tarp._run_tarp(
        torch.as_tensor(draws).transpose(0, 1), torch.as_tensor(truth), torch.as_tensor(reference), z_score_theta=False
    )
    ours = [(levels < edge).mean() for edge in alpha.numpy()[:-1]]
    assert max(ours) > 0.9
    np.testing.assert_allclose(ours, theirs.numpy()[:-1], atol=1e-6)
