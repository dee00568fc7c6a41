"""Summaries of padded draws: equal to plain NumPy on each data set's own draws."""

import numpy as np
import pytest

from chainsweep.diagnostics import blocks
from chainsweep.diagnostics.blocks import by_length
from chainsweep.diagnostics.convergence import convergence
from chainsweep.diagnostics.summary import convergence_summary, posterior_summary

N_DRAWS = np.array([30, 0, 50, 30, 1, 50, 7])


def padded(fill: float = np.nan) -> np.ndarray:
    """Draws ``(dataset 7, chain 2, draw 50, ndim 3)``, ``fill`` behind ``N_DRAWS``."""
    draws = np.random.default_rng(1).normal(size=(7, 2, 50, 3)) + np.arange(7)[:, None, None, None]
    behind = np.arange(50) >= N_DRAWS[:, None]
    return np.where(behind[:, None, :, None], fill, draws)


def own(draws: np.ndarray, i: int) -> np.ndarray:
    """The draws of data set ``i``, chains together: ``(draw, ndim)``."""
    return draws[i, :, : N_DRAWS[i]].reshape(-1, draws.shape[-1])


@pytest.mark.parametrize("block", [2**19, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_posterior_summary_equals_numpy(monkeypatch, block, dtype):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    draws = padded().astype(dtype)
    summary = posterior_summary(draws, N_DRAWS)
    for i in (0, 2, 3, 4, 5, 6):
        x = own(draws, i).astype(np.float64)
        np.testing.assert_allclose(summary["mean"][i], x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(summary["sd"][i], x.std(0, ddof=1), rtol=1e-12)
        for name, q in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
            np.testing.assert_allclose(summary[name][i], np.quantile(x, q, axis=0), rtol=1e-12)
    for figure in summary.values():
        assert figure.shape == (7, 3)
        assert np.isnan(figure[1]).all()


def test_what_stands_behind_the_draws_is_never_read():
    expected, found = posterior_summary(padded(), N_DRAWS), posterior_summary(padded(1e9), N_DRAWS)
    for name, figure in found.items():
        np.testing.assert_array_equal(figure, expected[name])
    longer = posterior_summary(padded(1e9), np.minimum(N_DRAWS + 1, 50))
    assert not np.allclose(longer["mean"][0], expected["mean"][0])


@pytest.mark.parametrize("weighted", [False, True])
def test_a_nan_that_counts_is_nan_for_its_parameter_alone(weighted):
    draws = padded()
    draws[2, 1, 4, 0] = np.nan
    log_weights = np.zeros(draws.shape[:3]) if weighted else None
    for figure in posterior_summary(draws, N_DRAWS, log_weights).values():
        assert np.isnan(figure[2, 0])
        assert np.isfinite(figure[2, 1:]).all()
        assert np.isfinite(figure[3]).all()


def test_equal_weights_change_nothing():
    draws, log_weights = padded(), np.where(np.isnan(padded()[..., 0]), np.nan, -12.0)
    plain, weighted = posterior_summary(draws, N_DRAWS), posterior_summary(draws, N_DRAWS, log_weights)
    for name, figure in plain.items():
        np.testing.assert_allclose(weighted[name][[0, 2, 3, 5, 6]], figure[[0, 2, 3, 5, 6]], rtol=1e-9)
        assert np.isnan(weighted[name][1]).all()


def test_weights_count_and_bad_ones_are_nan():
    draws = padded()
    log_weights = np.where(draws[..., 0] > np.arange(7)[:, None, None], 0.0, -np.inf)
    log_weights[3, 0, 0] = np.nan
    log_weights[5] = -np.inf
    summary = posterior_summary(draws, N_DRAWS, log_weights)
    half = own(draws, 2)[own(draws, 2)[:, 0] > 2]
    np.testing.assert_allclose(summary["mean"][2], half.mean(0), rtol=1e-9)
    np.testing.assert_allclose(summary["sd"][2], half.std(0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(summary["q95"][2], np.quantile(half, 0.95, axis=0), rtol=1e-9)
    assert abs(summary["mean"][2, 0] - posterior_summary(draws, N_DRAWS)["mean"][2, 0]) > 0.3
    for figure in summary.values():
        assert np.isnan(figure[[3, 5]]).all()


@pytest.mark.parametrize("block", [2**19, 300])
def test_convergence_summary_equals_each_data_set_alone(monkeypatch, block):
    draws = padded()
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    summary = convergence_summary(draws, N_DRAWS)
    for i in (0, 2, 3, 5, 6):
        alone = convergence(np.moveaxis(draws[i, :, : N_DRAWS[i]], -1, 0))
        for name, figure in summary.items():
            np.testing.assert_allclose(figure[i], alone[name], rtol=1e-12)
    for figure in summary.values():
        assert np.isnan(figure[[1, 4]]).all()


def test_a_shifted_chain_is_found_in_its_data_set():
    draws = np.random.default_rng(2).normal(size=(4, 4, 500, 2))
    draws[2, 0, :, 1] += 3
    rhat = convergence_summary(draws, np.full(4, 500))["rhat"]
    assert rhat[2, 1] > 1.2
    rhat[2, 1] = 1.0
    assert (rhat < 1.02).all()


def test_a_sweep_of_many_lengths_runs():
    draws = np.random.default_rng(3).normal(size=(2000, 2, 60, 3)).astype(np.float32)
    n_draws = np.random.default_rng(4).integers(4, 61, size=2000)
    for summary in (posterior_summary(draws, n_draws), convergence_summary(draws, n_draws)):
        assert all(np.isfinite(figure).all() for figure in summary.values())


def test_lengths_are_grouped():
    groups = dict(by_length(N_DRAWS, 50))
    assert list(groups) == [1, 7, 30, 50]
    np.testing.assert_array_equal(groups[30], [0, 3])
    assert not list(by_length(np.zeros(0, dtype=int), 50))


@pytest.mark.parametrize("function", [posterior_summary, convergence_summary])
def test_wrong_shapes_are_explained(function):
    with pytest.raises(ValueError, match=r"between 0 and the length of the draw axis, 50; got values from 0 to 51"):
        function(padded(), np.where(N_DRAWS == 50, 51, N_DRAWS))
    with pytest.raises(ValueError, match=r"n_draws shape \(dataset,\)"):
        function(padded(), N_DRAWS[:3])
    with pytest.raises(ValueError, match="ndim"):
        function(padded()[0], N_DRAWS)


def test_weights_of_wrong_shape_are_explained():
    with pytest.raises(ValueError, match="log_weights must have the shape"):
        posterior_summary(padded(), N_DRAWS, np.zeros((7, 2)))
