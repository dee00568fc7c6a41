"""Thinning keeps a bounded number of draws and biases no weighted sum."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.diagnostics.thinning import even_indices, optimal_resample


def test_even_indices():
    assert even_indices(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert even_indices(10, 5).tolist() == [1, 3, 5, 7, 9]
    index = even_indices(1003, 250)
    assert len(np.unique(index)) == 250
    assert index[-1] == 1002


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_resampled_sums_are_unbiased(spread):
    rng = np.random.default_rng(1)
    log_weights = rng.normal(0, spread, 2000) - 700.0
    values = rng.normal(size=2000) + 0.2 * log_weights
    exact = np.sum(np.exp(log_weights + 700.0) * values)
    estimates = []
    for uniform in (np.arange(400) + 0.5) / 400:
        index, kept = optimal_resample(log_weights, 200, uniform)
        assert len(index) <= 201
        assert np.all(np.diff(index) > 0)
        estimates.append(np.sum(np.exp(kept + 700.0) * values[index]))
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - exact) < 5 * error + 1e-9 * abs(exact)


def test_keeping_the_first_draws_instead_is_seen():
    """The twin: dropping draws without adjusting weights changes the sum."""
    log_weights = np.linspace(-3, 0, 2000)
    index, kept = optimal_resample(log_weights, 200, 0.5)
    exact = np.exp(log_weights).sum()
    assert np.exp(kept).sum() == pytest.approx(exact, rel=0.02)
    assert np.exp(log_weights[:200]).sum() < 0.5 * exact
    assert np.exp(log_weights[index]).sum() < 0.5 * exact


def test_heavy_draws_are_kept_as_they_are():
    log_weights = np.full(1000, -8.0)
    log_weights[[10, 500]] = [0.0, 1.0]
    index, kept = optimal_resample(log_weights, 50, 0.3)
    for position, weight in ((10, 0.0), (500, 1.0)):
        assert kept[index.tolist().index(position)] == weight


def test_few_or_no_usable_draws():
    index, kept = optimal_resample(np.array([0.0, -np.inf, 1.0]), 10, 0.5)
    assert index.tolist() == [0, 1, 2]
    assert kept.tolist() == [0.0, -np.inf, 1.0]
    lonely = np.full(100, -np.inf)
    lonely[7] = 0.0
    assert optimal_resample(lonely, 10, 0.5)[0].tolist() == [7]
    assert len(optimal_resample(np.full(100, -np.inf), 10, 0.5)[0]) == 10
