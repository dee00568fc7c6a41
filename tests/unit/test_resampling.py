"""Draws chosen by their weights: with copies, or each once."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.numerics.resampling import distinct, systematic, temper


@pytest.mark.parametrize("count", [1, 7, 50, 1000])
def test_resampling_copies_each_draw_by_its_weight(count):
    rng = np.random.default_rng(6)
    for _ in range(12):
        log_weights = rng.normal(size=50) * 2
        log_weights[[0, 20, -1]] = -np.inf, np.nan, -np.inf
        index = systematic(log_weights, count, rng.uniform())
        assert index.shape == (count,)
        assert (np.diff(index) >= 0).all()
        weights = np.nan_to_num(np.exp(log_weights))
        weights /= weights.sum()
        copies = np.bincount(index, minlength=50)
        assert (np.abs(copies - count * weights) < 1.0 + 1e-9).all()
        assert (copies[weights == 0] == 0).all()


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_resampling_at_the_edges_never_takes_a_draw_without_mass(uniform):
    for size in range(2, 60):
        log_weights = np.full(size + 2, -np.inf)
        log_weights[1:-1] = np.log(np.full(size, 1 / 3))
        index = systematic(log_weights, 7 * size, uniform)
        assert index.min() >= 1
        assert index.max() <= size


def test_resampling_is_unbiased():
    log_weights = np.log([0.1, 0.2, 0.7])
    index = [systematic(log_weights, 1, uniform)[0] for uniform in np.random.default_rng(7).uniform(size=20_000)]
    share = np.bincount(index) / 20_000
    np.testing.assert_allclose(share, [0.1, 0.2, 0.7], atol=0.015)
    assert not np.allclose(share, 1 / 3, atol=0.015)


@pytest.mark.parametrize(
    ("log_weights", "count", "uniform"),
    [([-np.inf, np.nan], 5, 0.0), ([], 5, 0.0), ([0.0, 0.0], 5, 1.0), ([0.0, 0.0], 0, 0.0), ([0.0, np.inf], 5, np.nan)],
)
def test_resampling_refuses_what_it_cannot_do(log_weights, count, uniform):
    with pytest.raises(ValueError, match="resampling needs a count"):
        systematic(np.array(log_weights), count, uniform)


def test_draws_without_replacement_follow_their_tempered_weights():
    """The first of two: the share of weight 9 to the power 1/2 is 3 in 4."""
    rng = np.random.default_rng(8)
    first = [distinct(np.log([1.0, 9.0]), 0.5, 1, rng)[0] for _ in range(20_000)]
    assert np.mean(first) == pytest.approx(0.75, abs=0.01)


def test_draws_without_replacement_come_once_and_those_without_mass_last():
    log_weights = np.array([-np.inf, 1.0, np.nan, 0.0, np.inf, 2.0])
    chosen = distinct(log_weights, 1.0, 9, np.random.default_rng(9)).tolist()
    assert sorted(chosen[:3]) == [1, 3, 5]
    assert chosen[3:] == [0, 2, 4]


def effective(log_weights: np.ndarray) -> float:
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def test_weights_are_tempered_just_enough():
    rng = np.random.default_rng(0)
    log_weights = -(np.array([[0.0], [1.0], [1e4]]) * rng.normal(size=(3, 500)) ** 2)
    log_weights[2, 100:] = -np.inf
    power = temper(log_weights, 128)
    assert power[0] == 1.0
    assert effective(power[1] * log_weights[1]) >= 127.9
    assert power[2] < 1e-9  # only 100 are finite
    np.testing.assert_array_equal(temper(np.full((1, 10), -np.inf), 4), [0.0])
    sharp = 100.0 * log_weights[1]
    power = temper(sharp[None], 128)[0]
    assert 0.0 < power < 0.5
    assert effective((1 + 1e-6) * power * sharp) < 128.0 < effective((1 - 1e-6) * power * sharp)
