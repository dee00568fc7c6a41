"""The starts of walkers, which are stuck, and what is kept of their chains."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.engines.emcee.chain import CAPACITY, Thinned, assess, ensemble_tau, packed_chains, unpacked_chains
from chainsweep.engines.emcee.initial_walkers import (
    choose_distinct,
    low_walkers,
    reposition_stuck,
    stuck_walkers,
)


def test_walkers_are_distinct_draws_chosen_by_weight():
    rng = np.random.default_rng(1)
    log_weights = np.where(np.arange(1000) < 100, 0.0, -np.log(99.0))
    counts = np.zeros(1000)
    for _ in range(300):
        chosen = choose_distinct(log_weights, 1.0, 20, rng)
        assert len(set(chosen)) == 20
        counts[chosen] += 1
    # the first 100 hold 11/12 of the weight; taking some out leaves them a little less
    assert 0.85 < counts[:100].sum() / counts.sum() < 0.93


def test_tempered_weights_choose_as_evenly_as_their_power_says():
    rng = np.random.default_rng(1)
    log_weights = np.where(np.arange(1000) < 100, 0.0, -np.log(99.0))
    chosen = np.concatenate([choose_distinct(log_weights, 0.0, 20, rng) for _ in range(300)])
    assert 0.08 < (chosen < 100).mean() < 0.12


def test_too_few_finite_draws_repeat_and_none_gives_none():
    log_weights = np.full(50, -np.inf)
    rng = np.random.default_rng(2)
    assert len(choose_distinct(log_weights, 1.0, 8, rng)) == 0
    log_weights[[3, 4, 5]] = 0.0
    chosen = choose_distinct(log_weights, 1.0, 8, rng)
    assert len(chosen) == 8
    assert set(chosen) == {3, 4, 5}


def ensemble(rng: np.random.Generator, centre: float, sd: float, peak: float, walkers: int):
    theta = rng.normal(size=(100, walkers, 3))
    return centre + sd * theta, peak - 0.5 * (theta**2).sum(axis=-1)


def test_walkers_where_there_is_little_mass_are_stuck_and_repositioned():
    rng = np.random.default_rng(3)
    good, away = ensemble(rng, 0.0, 1.0, 0.0, 20), ensemble(rng, 9.0, 0.5, -40.0, 4)
    theta, log_prob = (np.concatenate(pair, axis=1) for pair in zip(good, away, strict=True))
    stuck = stuck_walkers(theta, log_prob)
    np.testing.assert_array_equal(stuck, np.arange(24) >= 20)
    points, densities = reposition_stuck(theta, log_prob, stuck, rng)
    assert len(np.unique(points, axis=0)) == 4
    np.testing.assert_allclose(densities, -0.5 * (points**2).sum(axis=-1))


def test_a_narrow_tower_does_not_empty_the_region_that_holds_the_mass():
    rng = np.random.default_rng(4)
    tower, region = ensemble(rng, 0.0, 1e-5, 30.0, 12), ensemble(rng, 9.0, 1.0, 0.0, 12)
    theta, log_prob = (np.concatenate(pair, axis=1) for pair in zip(tower, region, strict=True))
    assert low_walkers(log_prob, 3).sum() == 12
    assert not stuck_walkers(theta, log_prob).any()


def test_a_lone_good_walker_is_not_multiplied():
    rng = np.random.default_rng(5)
    good, away = ensemble(rng, 0.0, 1.0, 0.0, 1), ensemble(rng, 9.0, 0.5, -90.0, 11)
    good[0][:] = good[0][:1]
    theta, log_prob = (np.concatenate(pair, axis=1) for pair in zip(good, away, strict=True))
    assert not stuck_walkers(theta, log_prob).any()


def test_an_ensemble_in_its_target_has_no_stuck_walkers():
    rng = np.random.default_rng(6)
    flagged = sum(stuck_walkers(*ensemble(rng, 0.0, 1.0, 0.0, 32)).sum() for _ in range(200))
    assert flagged == 0


def test_the_chain_keeps_every_stride_th_step():
    chain, rng = Thinned.empty((2, 3, 2)), np.random.default_rng(7)
    steps = rng.normal(size=(4 * CAPACITY + 77, 2, 3, 2))
    for number, theta in enumerate(steps, start=1):
        chain.append(number, theta, theta[..., 0])
        assert chain.count <= CAPACITY
    assert chain.stride == 8
    np.testing.assert_array_equal(chain.theta[: chain.count], steps[7::8])
    theta, log_prob = chain.after(1000)
    np.testing.assert_array_equal(theta, steps[1007::8])
    np.testing.assert_array_equal(log_prob, steps[1007::8, ..., 0])
    short = Thinned.empty((2, 3, 2))
    short.append(1, steps[0], steps[0, ..., 0])
    saved = unpacked_chains(packed_chains([short, chain]))
    assert [(each.count, each.stride) for each in saved] == [(1, 1), (chain.count, 8)]
    np.testing.assert_array_equal(saved[0].theta[:1], steps[:1])
    np.testing.assert_array_equal(saved[1].theta[: chain.count], steps[7::8])
    np.testing.assert_array_equal(saved[1].log_prob[: chain.count], steps[7::8, ..., 0])


def autoregressive(rng: np.random.Generator, shape: tuple[int, ...], rho: float) -> np.ndarray:
    noise = rng.normal(size=shape) * np.sqrt(1 - rho**2)
    noise[0] /= np.sqrt(1 - rho**2)
    for step in range(1, shape[0]):
        noise[step] += rho * noise[step - 1]
    return noise


def test_a_density_that_is_the_same_everywhere_has_no_rhat_and_needs_none():
    theta = autoregressive(np.random.default_rng(0), (2000, 2, 16, 2), 0.5)
    flat = np.zeros(theta.shape[:-1])
    found = assess(theta, flat, VerdictSection(), final=True)
    assert found.passed
    assert found.rhat_max < 1.01
    assert not assess(theta, np.full_like(flat, -np.inf), VerdictSection(), final=True).passed


def judge(theta: np.ndarray, final: bool = False):
    return assess(theta, -0.5 * (theta**2).sum(axis=-1), VerdictSection(), final)


def test_a_long_chain_passes_and_its_tau_is_right():
    theta = autoregressive(np.random.default_rng(8), (800, 2, 16, 2), 0.6)
    assessment = judge(theta)
    assert assessment.passed
    np.testing.assert_allclose(assessment.tau, 1.6 / 0.4, rtol=0.15)
    assert assessment.first == 160


@pytest.mark.parametrize("fault", ["short", "ensembles apart", "walker apart", "walker stuck", "drift"])
def test_a_faulty_chain_does_not_pass(fault):
    theta = autoregressive(np.random.default_rng(9), (800, 2, 16, 2), 0.6)
    if fault == "short":
        theta = theta[:200]
    elif fault == "ensembles apart":
        theta[:, 1] += 0.4
    elif fault == "walker apart":
        theta[:, 0, 3] += 8.0
    elif fault == "walker stuck":
        theta[:, 1, 5] = theta[0, 1, 5]
    else:
        theta += np.linspace(0, 1.5, 800)[:, None, None, None]
    assert not judge(theta).passed


def test_walkers_that_stay_apart_raise_tau():
    theta = autoregressive(np.random.default_rng(10), (400, 1, 32, 1), 0.6)
    apart = theta + 5.0 * (np.arange(32) < 8)[:, None]
    assert ensemble_tau(theta)[0] < 6
    assert ensemble_tau(apart)[0] > 100


def with_density(theta: np.ndarray, shift: np.ndarray | float, final: bool = False):
    return assess(theta, -0.5 * (theta**2).sum(axis=-1) + shift, VerdictSection(), final)


def test_a_walker_that_moves_freely_where_there_is_no_density_is_stuck():
    """Every other figure is that of a good chain."""
    theta = autoregressive(np.random.default_rng(11), (800, 2, 16, 2), 0.6)
    low = np.where(np.arange(16) == 5, -60.0, 0.0)
    good, bad = with_density(theta, 0.0), with_density(theta, low)
    assert good.passed
    assert good.stuck == 0
    assert bad.rhat_max < 1.01
    assert bad.kept_over_tau == good.kept_over_tau
    assert bad.stuck == 2
    assert not bad.passed


def test_ensembles_with_equal_parameters_and_other_densities_do_not_agree():
    theta = autoregressive(np.random.default_rng(12), (800, 2, 16, 2), 0.6)
    assessment = with_density(theta, np.array([[0.0], [1.0]]))
    assert assessment.stuck == 0
    assert assessment.rhat_max > 1.05
    assert not assessment.passed


def test_burn_in_is_five_autocorrelation_times_where_that_is_more_than_a_fifth():
    theta = autoregressive(np.random.default_rng(13), (1000, 2, 16, 1), 99 / 101)
    assessment = judge(theta, final=True)
    assert 200 < assessment.first < 500
    assert assessment.first == int(5.0 * ensemble_tau(theta[200:])[0])
    assert not assessment.passed
    slow = judge(autoregressive(np.random.default_rng(14), (400, 2, 16, 1), 0.99), final=True)
    assert slow.first == 200, "never more than half"


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({"tau": 0.999}, True),
        ({"tau": 1.001}, False),
        ({"ess": 0.999}, True),
        ({"ess": 1.001}, False),
        ({"rhat": 1.0 + 1e-6}, True),
        ({"rhat": 1.0 - 1e-6}, False),
    ],
)
def test_each_limit_is_compared_with_its_own_figure(changed, passes):
    """Limits a little below and above what a chain has; an ensemble's steps count once for each of its walkers."""
    theta = autoregressive(np.random.default_rng(15), (800, 2, 16, 2), 0.6)
    found = judge(theta, final=True)
    assert found.ess_min == pytest.approx(32 * found.kept_over_tau)
    figures = {"tau": found.kept_over_tau, "ess": found.ess_min, "rhat": found.rhat_max}
    near = {name: factor * figures[name] for name, factor in changed.items()}
    lenient = {"tau": 10.0, "ess": 1.0, "rhat": 2.0}
    limits = VerdictSection().model_copy(update=lenient | near)
    assert assess(theta, -0.5 * (theta**2).sum(axis=-1), limits, final=True).passed is passes
