"""Importance weights: k-hat equal to ArviZ and right for known tails; weighted figures; resampling."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats

from chainsweep.diagnostics import blocks
from chainsweep.diagnostics.pareto import EQUAL_LOG_WEIGHTS
from chainsweep.diagnostics.weights import (
    effective_sample_size,
    efficiency,
    ess_lower_bound,
    log_evidence,
    psis_khat,
    weighted_mean,
    weighted_quantile,
    weighted_sd,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its refactoring once a day when imported
    import arviz


def arviz_psis(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothed, khat = arviz.psislw(log_weights.copy())
    return khat, smoothed


def some_weights(kind: str, n_draws: int) -> np.ndarray:
    rng = np.random.default_rng(n_draws)
    log_weights = rng.normal(size=(6, n_draws)) * np.array([0.01, 0.1, 1, 3, 20, 300])[:, None]
    if kind == "outside":
        log_weights[rng.random((6, n_draws)) < 0.4] = -np.inf
        log_weights[:, 0] = 0.0
    elif kind == "offset":
        log_weights -= 1e4
    elif kind == "pareto":
        log_weights = rng.pareto([[1], [2], [3], [1], [2], [5]], size=(6, n_draws)) + 1
        log_weights = np.log(log_weights)
    return log_weights


@pytest.mark.parametrize("kind", ["normal", "outside", "offset", "pareto"])
def test_khat_and_smoothed_weights_equal_arviz(kind):
    for n_draws in (5, 20, 21, 25, 30, 100, 1000, 4001):
        log_weights = some_weights(kind, n_draws)
        khat, smoothed = psis_khat(log_weights)
        expected_khat, expected = arviz_psis(log_weights)
        np.testing.assert_allclose(khat, expected_khat, rtol=1e-6, err_msg=f"{n_draws} draws")
        np.testing.assert_allclose(smoothed, expected, rtol=1e-6, atol=1e-9, err_msg=f"{n_draws} draws")


def test_tied_weights_equal_arviz_in_khat():
    log_weights = np.round(some_weights("normal", 500), 1)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        khat, smoothed = psis_khat(log_weights[1:])
    expected_khat, expected = arviz_psis(log_weights[1:])
    np.testing.assert_allclose(khat, expected_khat, rtol=1e-6)
    # Which of two tied draws takes which quantile is arbitrary.
    np.testing.assert_allclose(np.sort(smoothed), np.sort(expected), rtol=1e-6, atol=1e-9)


def test_equality_with_arviz_is_not_vacuous():
    log_weights = some_weights("normal", 1000)
    khat, _ = psis_khat(log_weights[:, :500])
    assert (np.abs(khat - arviz_psis(log_weights)[0]) > 1e-5).all()


@pytest.mark.parametrize("k", [0.3, 0.5, 0.9, 1.3])
def test_khat_finds_the_shape_of_pareto_weights(k):
    weights = np.random.default_rng(1).uniform(size=(50, 20_000)) ** -k
    khat, _ = psis_khat(np.log(weights))
    assert khat.mean() == pytest.approx(k, abs=0.05)
    assert (k > 0.7) == (np.median(khat) > 0.7)


def test_khat_tells_a_good_proposal_from_a_narrow_one():
    """A wider proposal has bounded weights; one of a third of the width has weights without a variance."""
    rng = np.random.default_rng(2)
    khat = {}
    for width in (1.3, 0.3):
        theta = width * rng.normal(size=(20, 4000))
        log_weights = scipy.stats.norm.logpdf(theta) - scipy.stats.norm.logpdf(theta, scale=width)
        khat[width] = psis_khat(log_weights)[0]
    assert (khat[1.3] < 0.3).all()
    assert np.median(khat[0.3]) > 0.7


def test_an_exact_proposal_is_the_best_case():
    khat, smoothed = psis_khat(np.stack([np.zeros(100), 1e-3 * EQUAL_LOG_WEIGHTS * np.arange(100.0)]))
    assert (khat == 0.0).all()
    np.testing.assert_allclose(smoothed, -math.log(100), rtol=1e-9)
    few = np.full(100, -np.inf)
    few[:3] = 0.0
    assert psis_khat(few)[0] == np.inf


def test_without_usable_weights_everything_is_nan_and_disturbs_no_other():
    log_weights = some_weights("normal", 200)[:5]
    log_weights[1] = -np.inf
    log_weights[2, 7] = np.nan
    log_weights[3, 7] = np.inf
    good, bad = [0, 4], [1, 2, 3]
    khat, smoothed = psis_khat(log_weights)
    evidence, error = log_evidence(log_weights)
    mean = weighted_mean(log_weights, log_weights)
    figures = [khat, smoothed, effective_sample_size(log_weights), efficiency(log_weights), evidence, error]
    figures += [
        mean,
        weighted_sd(np.ones(200), log_weights),
        weighted_quantile(np.ones(200), log_weights, 0.5),
    ]
    for figure in figures:
        assert np.isnan(figure[bad]).all()
        assert np.isfinite(figure[good]).all()
    np.testing.assert_array_equal(khat[good], psis_khat(log_weights[good])[0])


def test_blocks_change_nothing(monkeypatch):
    log_weights = some_weights("normal", 300).reshape(3, 2, 300)
    whole = psis_khat(log_weights)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 300)
    for figure, expected in zip(psis_khat(log_weights), whole, strict=True):
        np.testing.assert_allclose(figure, expected, rtol=1e-12)
    assert whole[0].shape == (3, 2)


def test_effective_sample_size_of_known_weights():
    log_weights = np.log([[1.0, 1.0, 1.0, 1.0], [1.0, 1e-300, 1e-300, 1e-300], [3.0, 1.0, 1e-300, 1e-300]])
    np.testing.assert_allclose(effective_sample_size(log_weights + 500), [4.0, 1.0, 1.6])
    np.testing.assert_allclose(efficiency(log_weights), [1.0, 0.25, 0.4])


def test_log_evidence_is_right_within_its_error():
    """The integral of ``7 exp(-x^2 / 2)`` over x > 0 by a wide proposal, 400 times."""
    theta = 1.5 * np.random.default_rng(3).normal(size=(400, 2000))
    log_weights = math.log(7) - 0.5 * theta**2 - scipy.stats.norm.logpdf(theta, scale=1.5)
    log_weights[theta < 0] = -np.inf
    value, error = log_evidence(log_weights)
    z = (value - math.log(3.5 * math.sqrt(2 * math.pi))) / error
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1.0, abs=0.12)
    # The twin: leaving out the draws outside the support doubles the evidence.
    wrong, _ = log_evidence(log_weights[:1, theta[0] >= 0])
    assert wrong[0] - value[0] > 0.5


def test_evidence_of_one_draw_has_no_error():
    value, error = log_evidence(np.array([2.0]))
    assert value == 2.0
    assert np.isnan(error)


def test_equal_weights_give_the_plain_figures():
    rng = np.random.default_rng(4)
    values, log_weights, q = (
        rng.normal(size=(3, 2, 101)),
        np.full((3, 1, 101), -700.0),
        [0.0, 0.05, 0.5, 0.95, 1.0],
    )
    np.testing.assert_allclose(weighted_mean(values, log_weights), values.mean(-1), atol=1e-12)
    np.testing.assert_allclose(weighted_sd(values, log_weights), values.std(-1, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(weighted_quantile(values, log_weights, q), np.quantile(values, q, axis=-1), atol=1e-9)
    assert weighted_quantile(values, log_weights, 0.5).shape == (3, 2)


def test_weights_turn_one_distribution_into_another():
    theta = 2.0 * np.random.default_rng(5).normal(size=(40, 20_000))
    log_weights = scipy.stats.norm.logpdf(theta, loc=1.0, scale=0.7) - scipy.stats.norm.logpdf(theta, scale=2.0)
    expected = scipy.stats.norm.ppf([0.05, 0.5, 0.95], loc=1.0, scale=0.7)
    assert weighted_mean(theta, log_weights).mean() == pytest.approx(1.0, abs=0.005)
    assert weighted_sd(theta, log_weights).mean() == pytest.approx(0.7, abs=0.005)
    quantiles = weighted_quantile(theta, log_weights, [0.05, 0.5, 0.95]).mean(axis=-1)
    np.testing.assert_allclose(quantiles, expected, atol=0.01)
    assert abs(weighted_mean(theta, np.zeros_like(theta)).mean() - 1.0) > 0.5


def test_draws_without_mass_are_ignored_whatever_their_value():
    values = np.array([np.nan, 1.0, 2.0, -1e300, 3.0, np.inf])
    log_weights = np.array([-np.inf, 0.0, 0.0, -np.inf, 0.0, -np.inf])
    assert weighted_mean(values, log_weights) == pytest.approx(2.0)
    assert weighted_sd(values, log_weights) == pytest.approx(1.0)
    np.testing.assert_allclose(weighted_quantile(values, log_weights, [0, 0.25, 0.5, 1]), [1.0, 1.5, 2.0, 3.0])
    values[2] = np.nan
    assert np.isnan(weighted_mean(values, log_weights))
    assert np.isnan(weighted_quantile(values, log_weights, 0.1))


def test_one_draw_with_all_mass():
    values, log_weights = np.array([5.0, 7.0, 9.0]), np.array([-np.inf, 0.0, -np.inf])
    assert weighted_mean(values, log_weights) == 7.0
    assert np.isnan(weighted_sd(values, log_weights))
    np.testing.assert_array_equal(weighted_quantile(values, log_weights, [0.0, 0.3, 1.0]), 7.0)


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, [[0.5]]])
def test_quantile_outside_its_range_is_refused(q):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        weighted_quantile(np.arange(3.0), np.zeros(3), q)


@pytest.mark.parametrize("function", [psis_khat, effective_sample_size, efficiency, log_evidence])
def test_no_draws_are_refused(function):
    with pytest.raises(ValueError, match="at least one draw"):
        function(np.zeros((4, 0)))


def test_weights_of_no_use_at_all_raise_no_warning():
    """Few draws hold all: the fitted tail is too heavy for numbers, and is cut back to the largest weight."""
    rng = np.random.default_rng(0)
    log_weights = rng.exponential(150.0, (2000, 1500))
    khat, smoothed = psis_khat(log_weights)
    assert (khat > 5.0).all()
    assert np.isfinite(smoothed).all()


def normal_log_weights(sd: float, dim: int, rows: int, draws: int) -> np.ndarray:
    """Log weights of normal draws of ``sd`` for a unit normal target; their k-hat is ``1 - sd^2``."""
    squares = np.random.default_rng(5).normal(0.0, sd, (rows, draws, dim)) ** 2
    return -0.5 * squares.sum(axis=-1) * (1.0 - 1.0 / sd**2)


def test_ess_lower_bound_is_near_the_truth_where_weights_have_a_variance():
    """The efficiency is ``(sqrt(2 s^2 - 1) / s^2)^d``."""
    for sd, dim in ((0.95, 1), (0.9, 1), (0.95, 5), (0.9, 5), (1.3, 5)):
        log_weights = normal_log_weights(sd, dim, 100, 4000)
        true = 4000 * (np.sqrt(2 * sd**2 - 1) / sd**2) ** dim
        bound = ess_lower_bound(log_weights, psis_khat(log_weights)[0])
        assert 0.9 < np.median(bound[bound > 0]) / true < 1.02
        assert (bound > 0).mean() > 0.85


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_ess_lower_bound_is_none_where_weights_have_no_variance(dim):
    """Kish's number claims more than 400 of 4,000 in most of these rows."""
    log_weights = normal_log_weights(0.65, dim, 200, 4000)
    bound = ess_lower_bound(log_weights, psis_khat(log_weights)[0])
    assert (bound > 0).mean() < 0.05


def test_ess_lower_bound_never_exceeds_kish():
    log_weights = np.random.default_rng(0).normal(0.0, 0.7, (3, 4, 1000))
    bound = ess_lower_bound(log_weights, psis_khat(log_weights)[0])
    assert bound.shape == (3, 4)
    assert (bound <= effective_sample_size(log_weights) * (1 + 1e-12)).all()


def test_ess_lower_bound_of_equal_and_of_unusable_weights():
    log_weights = np.stack([np.zeros(100), np.full(100, -np.inf)])
    bound = ess_lower_bound(log_weights, psis_khat(log_weights)[0])
    assert bound[0] == pytest.approx(100.0)
    assert np.isnan(bound[1])
    few = np.array([[0.0, -1.0, -2.0]])
    assert ess_lower_bound(few, psis_khat(few)[0])[0] == 0.0


def first_good(claimed: np.ndarray, khat: np.ndarray, limit: float) -> np.ndarray:
    """The claims of those who look at one row after the other and stop at the first that passes, ``(trial,)``."""
    good = (claimed >= limit) & (khat < 0.7)
    stopped = good.any(axis=1)
    return np.take_along_axis(claimed, good.argmax(axis=1)[:, None], axis=1)[stopped, 0]


@pytest.mark.parametrize(("sd", "most"), [(0.9, 1.05), (0.8, 1.25)])
def test_who_stops_at_the_first_good_round_of_twelve_claims_about_what_is_there(sd, most):
    """The true number is the limit, so every round that passes was lucky. The twin, Kish's, passes more often."""
    dim, draws, trials, rounds = 5, 1500, 120, 12
    true = draws * (np.sqrt(2 * sd**2 - 1) / sd**2) ** dim
    log_weights = normal_log_weights(sd, dim, trials * rounds, draws).reshape(trials, rounds, draws)
    khat = psis_khat(log_weights)[0]
    bound = first_good(ess_lower_bound(log_weights, khat), khat, true)
    kish = first_good(effective_sample_size(log_weights), khat, true)
    assert np.median(bound) < most * true
    assert (bound > 1.5 * true).mean() < 0.05
    assert len(bound) < 0.9 * len(kish)
    assert np.median(kish) > np.median(bound)
