"""Autocorrelation: equal to emcee, right on AR(1) chains, NaN for stuck walkers."""

import logging

import emcee
import numpy as np
import pytest
import scipy.signal

from chainsweep.diagnostics import blocks
from chainsweep.diagnostics.autocorrelation import autocorrelation, integrated_time


def ensemble(phi: float, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """AR(1) walkers, ``(..., draw, walker)``."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return scipy.signal.lfilter([1.0], [1.0, -phi], noise, axis=-2)


def emcee_time(chain: np.ndarray) -> np.ndarray:
    """emcee's estimate of each of ``(series, draw, walker)``."""
    logging.getLogger("emcee.autocorr").setLevel(logging.ERROR)
    return np.array([emcee.autocorr.integrated_time(series, c=5, quiet=True)[0] for series in chain])


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.9, 0.99])
def test_time_equals_emcee(phi):
    for n_draws in (2, 3, 10, 101, 1000):
        chain = ensemble(phi, (5, n_draws, 8), seed=n_draws)
        chain[1, :, 0] += 50.0
        chain[2] += np.linspace(0, 20, n_draws)[:, None]
        chain[3, :, 1] *= 1e3
        expected = emcee_time(chain)
        np.testing.assert_allclose(integrated_time(chain), expected, rtol=1e-6, atol=1e-9, err_msg=f"{n_draws} draws")


def test_equality_with_emcee_is_not_vacuous():
    """The twin: another window or other walkers differ by far more than the tolerance."""
    chain = ensemble(0.9, (3, 500, 8), seed=1)
    assert (np.abs(integrated_time(chain, c=1.0) / emcee_time(chain) - 1) > 1e-3).all()
    assert (np.abs(integrated_time(chain[..., :7]) / emcee_time(chain) - 1) > 1e-6).all()


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_time_of_ar1_chains_is_theirs_by_theory(phi):
    """``tau = (1 + phi) / (1 - phi)``."""
    tau = integrated_time(ensemble(phi, (20, 4000, 16), seed=2)).mean()
    assert tau == pytest.approx((1 + phi) / (1 - phi), rel=0.05)
    stickier = integrated_time(ensemble(phi + 0.05, (20, 4000, 16), seed=2)).mean()
    assert stickier != pytest.approx((1 + phi) / (1 - phi), rel=0.05)


def test_a_stuck_or_broken_walker_is_nan_and_disturbs_no_other():
    chain = ensemble(0.5, (4, 200, 6), seed=3)
    clean = integrated_time(chain)
    chain[0, :, 2] = 0.1
    chain[2, 10, 1] = np.nan
    tau = integrated_time(chain)
    assert np.isnan(tau[[0, 2]]).all()
    np.testing.assert_array_equal(tau[[1, 3]], clean[[1, 3]])


def test_function_equals_emcee():
    draws = ensemble(0.8, (3, 2, 77, 1), seed=4)[..., 0]
    expected = [[emcee.autocorr.function_1d(series) for series in row] for row in draws]
    np.testing.assert_allclose(autocorrelation(draws), expected, rtol=1e-6, atol=1e-12)
    assert not np.allclose(autocorrelation(draws[..., ::2])[..., 1], np.array(expected)[..., 1], atol=1e-2)


def test_function_of_a_constant_is_nan():
    draws = np.random.default_rng(5).normal(size=(3, 50))
    draws[1] = 0.1
    draws[2, 3] = np.inf
    acf = autocorrelation(draws)
    assert acf[0, 0] == 1.0
    assert np.isnan(acf[1:]).all()


def test_leading_axes_and_blocks(monkeypatch):
    chain = ensemble(0.7, (6, 60, 4, 3), seed=6)  # (dataset, draw, walker, parameter)
    by_parameter = np.moveaxis(chain, -1, 1)
    whole = integrated_time(by_parameter)
    assert whole.shape == (6, 3)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 1000)
    np.testing.assert_allclose(integrated_time(by_parameter), whole, rtol=1e-12)
    assert integrated_time(chain[0, :, :, 0]) == pytest.approx(whole[0, 0])


@pytest.mark.parametrize(
    ("call", "shape"), [(integrated_time, (5,)), (integrated_time, (0, 3)), (autocorrelation, (2, 0))]
)
def test_wrong_shape_is_explained(call, shape):
    with pytest.raises(ValueError, match="must have shape"):
        call(np.zeros(shape))
