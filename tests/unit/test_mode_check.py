"""The mode check with a search whose result is planted: what counts as found, as far, and as proven."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chainsweep.importance.adaptive import WeightedDraws
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.target import Start
from chainsweep.verdicts import mode_check as checking
from chainsweep.verdicts.mode_check import LEAST_ESS, PASSES, ModeCheck, mode_check, replaced, unchecked
from tests.mode_checks import lacks_mass
from tests.snpe_lines import exact_posterior, line_batch

SETS, CHAIN, EXACT = 5, 200, 600


def made(**changed: object) -> ModeCheck:
    values: dict = {item.name: np.zeros(1) for item in fields(ModeCheck)}
    values |= {"sd_ratio": np.ones(1), "conclusive": np.ones(1, bool)}
    return ModeCheck(**(values | {name: np.atleast_1d(value) for name, value in changed.items()}))


@pytest.mark.parametrize(
    ("changed", "shift", "mass", "spread"),
    [
        ({"shift": 1.0, "shift_se": 0.2}, 0.4, 0.0, 0.0),
        ({"shift": 1.0, "shift_se": 0.4}, 0.0, 0.0, 0.0),
        ({"mass_outside": 0.5, "mass_outside_se": 0.1}, 0.0, 0.2, 0.0),
        ({"sd_ratio": np.exp(-1.0), "sd_se": 0.1}, 0.0, 0.0, 0.7),
        ({"sd_ratio": np.exp(1.0), "sd_se": 0.1}, 0.0, 0.0, 0.7),
        ({"sd_ratio": np.nan}, 0.0, 0.0, 0.0),
        ({"shift": 9.0, "mass_outside": 0.9, "sd_ratio": 0.1, "conclusive": False}, 0.0, 0.0, 0.0),
    ],
)
def test_only_what_exceeds_three_errors_of_a_conclusive_check_counts(changed, shift, mass, spread):
    check = made(**changed)
    np.testing.assert_allclose(
        [check.significant_shift[0], check.significant_mass[0], check.significant_spread[0]], [shift, mass, spread]
    )


@pytest.mark.parametrize(
    ("figure", "below", "above"),
    [("shift", 0.19, 0.21), ("mass_outside", 0.009, 0.011), ("sd_ratio", np.exp(0.17), np.exp(0.19))],
)
def test_each_figure_alone_says_that_mass_is_missing(figure, below, above):
    assert not lacks_mass(made(**{figure: below}))[0]
    assert lacks_mass(made(**{figure: above}))[0]


def test_what_is_not_proven_is_told_with_figures_and_limits():
    check = made(khat=[0.93, 0.2], ess=[57.0, 800.0], conclusive=[False, True])
    told = "mode check inconclusive: k-hat 0.93, 57 effective draws (limits 0.7 and 100)"
    assert check.unproven() == {0: told}


def test_nothing_is_known_before_a_check_and_a_newer_one_takes_its_places():
    none = unchecked(3)
    assert not none.conclusive.any()
    assert np.isnan(none.shift).all()
    assert np.isposinf(none.khat).all()
    both = replaced(none, made(shift=0.5, khat=0.1), np.array([1]))
    assert both.conclusive.tolist() == [False, True, False]
    np.testing.assert_array_equal(both.shift, [np.nan, 0.5, np.nan])
    assert not none.conclusive.any()


@pytest.fixture(scope="module")
def lines():
    """Five lines, and exact draws of each in the unconstrained space, which is that of the parameters."""
    batch, rng = line_batch(SETS), np.random.default_rng(3)
    moments = [exact_posterior(batch, position)[:2] for position in range(SETS)]
    z = np.stack([rng.multivariate_normal(*pair, size=EXACT + CHAIN) for pair in moments])
    problem = SimpleNamespace(varying=np.arange(2), has_jax_likelihood=False)
    batched: Any = SimpleNamespace(problem=problem, batch=batch, constrain=lambda z: z)
    return batched, z, moments


def checked(
    monkeypatch, lines, chain, khat=None, ess=None, log_weight=None, exact=None, passes=PASSES[:1], chain_ess=None
):
    """The check of ``chain`` by a search that gave exact draws, and the data sets that were searched."""
    batched, z, moments = lines
    searched = []

    def found(target, start, keys, settings, members):
        searched.append(members.tolist())
        return WeightedDraws(
            z[:, :EXACT] if exact is None else exact,
            np.zeros((SETS, EXACT)) if log_weight is None else log_weight,
            np.full(SETS, 0.1) if khat is None else np.array(khat),
            np.full(SETS, 600.0) if ess is None else np.array(ess),
            np.zeros(SETS),
            np.full(SETS, 0.01),
            np.ones(SETS, np.int64),
        )

    def kernels(target, z, keys):
        mean = np.stack([mean for mean, _ in moments])[:, None]
        chol = np.stack([np.linalg.cholesky(covariance) for _, covariance in moments])[:, None]
        return Mixture(np.zeros((SETS, 1)), mean, chol)

    monkeypatch.setattr(checking, "adapt", found)
    monkeypatch.setattr(checking, "from_chains", kernels)
    nothing = np.zeros((SETS, 0))
    start = Start(np.zeros((SETS, 0, 2)), nothing, nothing, kernels(None, None, None))
    keys = np.zeros((SETS, 2), np.uint32)
    return mode_check(batched, chain, start, keys, passes, chain_ess), searched


def test_k_hat_and_effective_draws_decide_whether_anything_is_proven(monkeypatch, lines):
    limit, least = PASSES[0].khat, LEAST_ESS
    assert (limit, least) == (0.7, 100.0)
    khat = [0.1, np.nextafter(limit, 0), limit, 0.9, 0.1]
    check, _ = checked(monkeypatch, lines, lines[1][:, EXACT:], khat, [600, least, 600, 600, np.nextafter(least, 0)])
    assert check.conclusive.tolist() == [True, True, False, False, False]
    assert not lacks_mass(check).any()
    assert list(check.unproven()) == [2, 3, 4]


def test_only_what_a_quick_pass_left_open_is_searched_again(monkeypatch, lines):
    chain = lines[1][:, EXACT:].copy()
    chain[4] = np.nan
    _, searched = checked(monkeypatch, lines, chain, [0.1, 0.9, 0.1, 0.9, 0.1], passes=PASSES)
    assert searched == [[0, 1, 2, 3], [1, 3]]


def test_shift_and_spread_are_in_sds_of_the_exact_draws(monkeypatch, lines):
    """Chains half as wide and half an exact sd away, of which as many draws count as they claim."""
    _, z, moments = lines
    mean = np.stack([mean for mean, _ in moments])[:, None]
    sd = np.stack([np.sqrt(np.diagonal(covariance)) for _, covariance in moments])[:, None]
    chain = mean + 0.5 * (z[:, EXACT:] - mean) + 0.5 * sd
    check, _ = checked(monkeypatch, lines, chain)
    np.testing.assert_allclose(check.shift, 0.5, atol=4 * np.sqrt(1 / EXACT + 0.25 / CHAIN))
    np.testing.assert_allclose(check.shift_se, np.sqrt(1 / EXACT + 0.25 / CHAIN), rtol=0.2)
    np.testing.assert_allclose(np.log(check.sd_ratio), np.log(0.5), atol=0.25)
    np.testing.assert_allclose(check.sd_se, np.sqrt(0.5 / EXACT + 0.5 / CHAIN), rtol=0.3)
    assert lacks_mass(check).all()
    few, _ = checked(monkeypatch, lines, chain, chain_ess=np.full(SETS, CHAIN / 16))
    np.testing.assert_allclose(few.shift_se, np.sqrt(1 / EXACT + 16 * 0.25 / CHAIN), rtol=0.2)


def test_mass_far_from_every_draw_is_weighed(monkeypatch, lines):
    _, z, moments = lines
    sd = np.stack([np.sqrt(np.diagonal(covariance)) for _, covariance in moments])[:, None]
    exact = z[:, :EXACT].copy()
    exact[:, :30] += 200.0 * sd
    log_weight = np.where(np.arange(EXACT) < 30, np.log(3.0), 0.0)[None].repeat(SETS, axis=0)
    share = 90 / (90 + EXACT - 30)
    check, _ = checked(monkeypatch, lines, z[:, EXACT:], log_weight=log_weight, exact=exact)
    np.testing.assert_allclose(check.mass_outside, share, rtol=1e-9)
    weights = np.exp(log_weight[0]) / np.exp(log_weight[0]).sum()
    far = np.arange(EXACT) < 30
    of_weights = np.sqrt((weights**2 * (far - share) ** 2).sum())
    np.testing.assert_allclose(check.mass_outside_se, np.hypot(of_weights, 1 / CHAIN), rtol=1e-9)
    right, _ = checked(monkeypatch, lines, z[:, EXACT:])
    assert (right.mass_outside < 0.01).all()


def test_mass_where_chains_have_their_share_of_draws_is_not_missing(monkeypatch, lines):
    """The twin of the test before: a share of the chains is there as well."""
    _, z, moments = lines
    sd = np.stack([np.sqrt(np.diagonal(covariance)) for _, covariance in moments])[:, None]
    exact, chain = z[:, :EXACT].copy(), z[:, EXACT:].copy()
    exact[:, :30] += 200.0 * sd
    chain[:, 3 : CHAIN : CHAIN // 10] += 200.0 * sd
    check, _ = checked(monkeypatch, lines, chain, exact=exact)
    assert (check.mass_outside < 0.01).all()
    assert not lacks_mass(replace(check, sd_ratio=np.ones(SETS), shift=np.zeros(SETS))).any()


def test_a_figure_near_its_limit_is_measured_again(monkeypatch, lines):
    """A mass of 2 % with an error of 1 % says nothing; with 0.1 % it says that mass is missing."""
    limits = checking.DEFAULT_LIMITS
    unsure = made(mass_outside=[0.02, 0.02, 0.002, 0.2, 0.008], mass_outside_se=[0.01, 0.001, 0.01, 0.03, 0.0001])
    unsure = replace(unsure, **{name: np.zeros(5) for name in ("shift", "shift_se", "sd_se")}, sd_ratio=np.ones(5))
    assert checking.near_a_limit(replace(unsure, conclusive=np.ones(5, bool)), limits).tolist() == [1, 0, 0, 0, 0]
    _, z, moments = lines
    sd = np.stack([np.sqrt(np.diagonal(covariance)) for _, covariance in moments])[:, None]
    exact = z[:, :EXACT].copy()
    exact[:, :8] += 6.0 * sd
    _, searched = checked(monkeypatch, lines, z[:, EXACT:], exact=exact)
    assert searched == [list(range(SETS))] * 2  # of a black box no third pass


def test_chains_or_weights_that_are_none_prove_nothing(monkeypatch, lines):
    chain = lines[1][:, EXACT:].copy()
    chain[0] = np.nan
    check, _ = checked(monkeypatch, lines, chain, ess=[600, 0, 600, 600, 600])
    assert check.conclusive.tolist() == [False, False, True, True, True]
    assert np.isnan(check.shift).tolist() == [True, True, False, False, False]
    assert lacks_mass(replace(check)).tolist() == [False] * SETS
