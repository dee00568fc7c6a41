"""The acceptance of walkers' independence steps: exact draws stay exact, whatever the proposals are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from chainsweep.engines.emcee.independence_move import Proposals, _accepted

WALKERS, TRIES = 20_000, 3


def after_independence_steps(mean: float, sd: float, claimed_sd: float) -> np.ndarray:
    """Return the places of walkers that start at draws of a unit normal, and step to draws of another one."""
    rng = np.random.default_rng(4)
    theta, points = rng.standard_normal((WALKERS, 1)), rng.normal(mean, sd, (TRIES, WALKERS, 1))
    density, proposal = stats.norm.logpdf, stats.norm(mean, claimed_sd).logpdf
    log_uniform = np.log(rng.uniform(size=(TRIES, WALKERS)))
    offered = Proposals(points, proposal(points[..., 0]), log_uniform, proposal(theta[:, 0]))
    after, here, moved = _accepted(theta, density(theta[:, 0]), offered, density(points[..., 0]))
    np.testing.assert_allclose(here, density(np.asarray(after)[:, 0]), rtol=1e-9)
    np.testing.assert_array_equal(np.asarray(moved), (np.asarray(after) != theta)[:, 0])
    assert 0.3 < np.mean(moved) < 0.99
    return np.asarray(after)[:, 0]


@pytest.mark.parametrize(("mean", "sd"), [(1.0, 1.5), (0.0, 3.0), (-0.3, 0.9)])
def test_independence_steps_leave_the_density_as_it_is(mean, sd):
    assert stats.kstest(after_independence_steps(mean, sd, sd), "norm").pvalue > 1e-3


def test_proposals_of_another_density_than_they_claim_are_seen():
    """The twin."""
    assert stats.kstest(after_independence_steps(1.0, 1.5, 1.0), "norm").pvalue < 1e-6


def test_a_proposal_without_density_is_never_taken():
    log_q, log_uniform = np.zeros((TRIES, 2)), np.full((TRIES, 2), -700.0)
    offered = Proposals(np.ones((TRIES, 2, 1)), log_q, log_uniform, np.zeros(2))
    after, _, moved = _accepted(np.zeros((2, 1)), np.zeros(2), offered, np.full((TRIES, 2), -np.inf))
    assert not np.asarray(moved).any()
    assert not np.asarray(after).any()
