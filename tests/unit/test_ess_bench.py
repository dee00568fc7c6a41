"""The bench of effective draws: its posteriors are normalised and drawn exactly, and its claims are judged rightly."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import ess
from benchmarks.ess_targets import FAMILIES, Posteriors, posterior
from chainsweep.engines.snpe.settings import SnpeSettings


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [1, 3])
def test_a_posterior_is_normalised_and_its_draws_follow_its_density(family, n):
    """A wide normal distribution weighs to 1, and weights and draws give the same mean of a bounded function."""
    rng = np.random.default_rng(n)
    target = posterior(family, n, rng)
    exact = target.draw(rng, 100_000)
    mean, factor = exact.mean(axis=0), 2.0 * np.linalg.cholesky(np.cov(exact.T).reshape(n, n))
    network = ess.NormalNetwork(mean[None], factor[None])
    z, log_q = network.draw(rng.standard_normal((1, 200_000, n)))
    weight = np.exp(target.log_density(z[0]) - log_q[0])
    assert weight.mean() == pytest.approx(1.0, abs=6 * weight.std() / np.sqrt(weight.size) + 0.005)

    def bounded(points):
        return np.tanh((points - mean) @ np.linalg.inv(factor).T).sum(axis=1)

    assert (weight * bounded(z[0])).mean() == pytest.approx(bounded(exact).mean(), abs=0.02)


def test_the_curvature_is_that_of_a_normal_posterior():
    target = posterior("normal", 2, np.random.default_rng(0))
    found = Posteriors([target], ["a"]).curvature(np.zeros((1, 1, 2)))[0, 0]
    np.testing.assert_allclose(found, np.linalg.inv(target.root @ target.root.T), rtol=1e-6)


def test_claims_of_the_inference_are_near_the_truth():
    """Two draw from the network alone, one is adapted; the twin, a truth of half, would be seen."""
    rng = np.random.default_rng(3)
    members = [posterior(family, 2, rng) for family in ("normal", "student-t", "banana")]
    claims = ess.claims_of(members, ["fitted", "wide", "blind"], 1, SnpeSettings())
    assert [claim.stage for claim in claims] == ["network", "network", "quick"]
    for claim in claims:
        assert ess.passes(claim)
        assert 0.8 < claim.claimed / claim.true < 1.15


def test_the_table_counts_what_passes():
    about = {"family": "normal", "network": "fitted", "dimension": 2, "stage": "network", "draws": 1000}
    good = ess.Claim(**about, khat=0.1, claimed=500.0, kish=600.0, true=500.0, true_error=0.0, rounds=0.0, seconds=0.0)
    poor = ess.Claim(**about, khat=0.9, claimed=500.0, kish=600.0, true=1.0, true_error=0.0, rounds=0.0, seconds=0.0)
    first = ess.table([good, poor]).splitlines()[2]
    assert first == "| **all** | 1 of 2 | 1.00 | 1.00 | 1.00 | 1.20 | 1.20 | 1.20 | 0 | 0 |"
