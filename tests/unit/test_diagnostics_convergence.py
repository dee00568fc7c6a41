"""Convergence figures: equal to ArviZ on any draws, right on known chains, NaN where nothing can be said."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.signal

from chainsweep.diagnostics import blocks
from chainsweep.diagnostics.convergence import (
    convergence,
    ess_bulk,
    ess_tail,
    mcse_mean,
    rhat,
    rhat_rank,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day when imported
    import arviz

ARVIZ = {
    "rhat_rank": (rhat_rank, lambda x: arviz.rhat(x, method="rank")),
    "rhat": (rhat, lambda x: arviz.rhat(x, method="split")),
    "ess_bulk": (ess_bulk, lambda x: arviz.ess(x, method="bulk")),
    "ess_tail": (ess_tail, lambda x: arviz.ess(x, method="tail")),
    "mcse_mean": (mcse_mean, lambda x: arviz.mcse(x, method="mean")),
}


def ar1(phi: float, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Stationary AR(1) chains of unit innovations along the last axis."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=shape)
    noise[..., 0] /= np.sqrt(1 - phi**2)
    return scipy.signal.lfilter([1.0], [1.0, -phi], noise, axis=-1)


def chains(kind: str, n_draws: int) -> np.ndarray:
    """Six series of four chains, ``(3, 2, chain, draw)``."""
    shape = (3, 2, 4, n_draws)
    draws = ar1({"ar1": 0.9, "antithetic": -0.8}.get(kind, 0.0), shape, seed=n_draws)
    if kind == "shifted":
        draws[..., 0, :] += 3.0
    elif kind == "wide":
        draws[..., 0, :] *= 5.0
    elif kind == "stuck":
        draws[..., 0, :] = 0.3
    elif kind == "drifting":
        draws += np.linspace(0, 3, n_draws)
    elif kind == "ties":
        draws = np.round(draws)
    elif kind == "float32":
        draws = (100 * draws).astype(np.float32)
    return draws


KINDS = ["iid", "ar1", "antithetic", "shifted", "wide", "stuck", "drifting", "ties", "float32"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_arviz(kind):
    for (name, (ours, theirs)), n_draws in itertools.product(ARVIZ.items(), (4, 5, 6, 7, 61, 250, 251)):
        draws = chains(kind, n_draws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.array([[theirs(series) for series in row] for row in draws])
        np.testing.assert_allclose(ours(draws), expected, rtol=1e-6, err_msg=f"{name} of {n_draws} draws")


def test_every_end_of_geyers_sequence_equals_arviz():
    """Short chains end it by length as well as by sign, with even terms of either sign."""
    for n_draws in range(8, 20):
        draws = ar1(-0.2, (60, 2, n_draws), seed=n_draws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = [arviz.ess(series, method="bulk") for series in draws]
        np.testing.assert_allclose(ess_bulk(draws), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ARVIZ)
def test_equality_with_arviz_is_not_vacuous(name):
    """The twin: other draws of the same kind differ by far more than the tolerance."""
    ours, theirs = ARVIZ[name]
    assert abs(ours(ar1(0.5, (4, 100), seed=1)) / theirs(ar1(0.5, (4, 100), seed=2)) - 1) > 1e-5


def test_one_chain_has_sizes_but_no_rhat():
    draws = ar1(0.5, (1, 200), seed=3)
    assert np.isnan(rhat_rank(draws))
    assert np.isnan(rhat(draws))
    for name in ("ess_bulk", "ess_tail", "mcse_mean"):
        ours, theirs = ARVIZ[name]
        assert ours(draws) == pytest.approx(theirs(draws), rel=1e-6)
    assert np.isnan(convergence(draws)["rhat"])


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9])
def test_ess_of_ar1_chains_is_theirs_by_theory(phi):
    """``ESS / N = (1 - phi) / (1 + phi)``; the mean over 100 series is within 5 %."""
    draws = ar1(phi, (100, 4, 2000), seed=4)
    theory = 8000 * (1 - phi) / (1 + phi)
    assert ess_bulk(draws).mean() == pytest.approx(theory, rel=0.05)
    # The twin: a chain that is a little stickier is told apart.
    stickier = ar1(phi + 0.05, (100, 4, 2000), seed=4)
    assert ess_bulk(stickier).mean() != pytest.approx(theory, rel=0.05)


def test_mcse_covers_the_error_of_the_mean():
    draws = ar1(0.7, (400, 4, 500), seed=5)
    z = draws.mean(axis=(1, 2)) / mcse_mean(draws)
    assert z.std() == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("kind", ["iid", "antithetic"])
def test_good_chains_pass(kind):
    draws = chains(kind, 1000)
    assert (rhat_rank(draws) < 1.01).all()
    assert (ess_bulk(draws) > 400).all()
    assert (ess_tail(draws) > 400).all()


@pytest.mark.parametrize("kind", ["shifted", "wide", "stuck", "drifting"])
def test_bad_chains_fail(kind):
    assert (rhat_rank(chains(kind, 1000)) > 1.05).all()


def test_only_the_folded_rhat_sees_a_wide_chain():
    draws = chains("wide", 1000)
    assert (rhat(draws) < 1.05).all()
    assert (rhat_rank(draws) > 1.05).all()


def test_chains_stuck_at_different_values_are_far_apart():
    draws = np.broadcast_to(np.arange(4.0)[:, None], (4, 100))
    assert rhat_rank(draws) > 1e6
    assert rhat(draws) > 1e6
    assert ess_bulk(draws) < 10


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_a_bad_series_is_nan_and_disturbs_no_other(spoil):
    draws = ar1(0.5, (5, 4, 100), seed=6)
    clean = convergence(draws)
    draws[1, 2, 50] = spoil
    draws[3] = 0.1
    for name, figure in convergence(draws).items():
        assert np.isnan(figure[[1, 3]]).all(), name
        np.testing.assert_array_equal(figure[[0, 2, 4]], clean[name][[0, 2, 4]])


@pytest.mark.parametrize("function", [rhat_rank, rhat, ess_bulk, ess_tail, mcse_mean])
def test_constant_or_short_draws_are_nan(function):
    assert np.isnan(function(np.full((4, 100), 0.1)))
    assert np.isnan(function(ar1(0.0, (4, 3), seed=7)))
    assert function(np.empty((0, 5, 4, 100))).shape == (0, 5)


def test_scale_does_not_matter():
    """Posteriors of 1e-20 are not constant (ArviZ takes a spread below 1e-15 for that in ``mcse``)."""
    draws = ar1(0.9, (4, 300), seed=8)
    assert mcse_mean(1e-20 * draws) == pytest.approx(1e-20 * mcse_mean(draws), rel=1e-9)


def test_all_at_once_equals_one_by_one_in_blocks(monkeypatch):
    draws = ar1(0.5, (7, 3, 4, 50), seed=9)
    single = {"rhat": rhat_rank, "ess_bulk": ess_bulk, "ess_tail": ess_tail, "mcse_mean": mcse_mean}
    expected = {name: function(draws) for name, function in single.items()}
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 1300)
    moved = np.moveaxis(np.ascontiguousarray(np.moveaxis(draws, 1, -1)), -1, 1)
    for name, figure in convergence(moved).items():
        np.testing.assert_allclose(figure, expected[name], rtol=1e-12)


def test_a_sweep_runs():
    figures = convergence(np.random.default_rng(10).normal(size=(2000, 5, 4, 250)).astype(np.float32))
    assert all(figure.shape == (2000, 5) and np.isfinite(figure).all() for figure in figures.values())
    assert np.median(figures["rhat"]) == pytest.approx(1.0, abs=0.01)


def test_wrong_shape_is_explained():
    with pytest.raises(ValueError, match=r"\(\.\.\., chain, draw\), got shape \(3,\)"):
        rhat_rank(np.zeros(3))
