"""Weighted draws against the exact posterior of a linear-Gaussian problem, and twins that must fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.calibration import most_overconfident
from chainsweep.engines.snpe.engine import calibrate, findings_of
from chainsweep.errors import InputError
from tests.snpe_lines import LEARNING, MODEL, draws, errors, exact_posterior, line_batch, line_problem, train

BATCH = line_batch(12, seed=8)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return line_problem(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def trained(problem):
    return train(problem, BATCH)


@pytest.fixture(scope="module")
def chains(problem, trained):
    return draws(problem, trained, BATCH)


def test_weighted_draws_are_the_exact_posterior(chains):
    assert (chains.info["khat"] < 0.7).all()
    assert np.median(chains.info["proposal_efficiency"]) > 0.5
    assert errors(chains, BATCH).max() < 4


def test_a_good_network_needs_a_part_of_the_draws(chains):
    assert np.median(chains.n_draws) < 1000
    assert chains.n_draws.max() <= 2000
    assert (chains.info["ess"] > 400).all()
    for row, count in enumerate(chains.n_draws):
        for name, values in {"theta": chains.theta, **chains.sample_stats}.items():
            assert np.isfinite(values[row, 0, :count]).all(), name
            assert np.isnan(values[row, 0, count:]).all(), name


def test_evidence_is_exact(chains):
    exact = np.array([exact_posterior(BATCH, i)[2] for i in range(len(BATCH))])
    deviation = np.abs(chains.info["log_evidence"] - exact) / chains.info["log_evidence_se"]
    assert deviation.max() < 4


def test_lp_is_the_constrained_log_density(problem, chains):
    theta = chains.theta[0, 0]
    real = BATCH.mask[0]
    x, y, sigma = (BATCH.fields[name][0][real] for name in ("x", "y", "y_err"))
    residual = (y - theta[:, :1] - theta[:, 1:] * x) / sigma
    likelihood = -0.5 * (residual**2 + np.log(2 * np.pi * sigma**2)).sum(axis=1)
    prior = -0.5 * (theta**2 / 4 + np.log(2 * np.pi * 4)).sum(axis=1)
    np.testing.assert_allclose(chains.sample_stats["lp"][0, 0], likelihood + prior, atol=1e-9)


def assert_found_out_and_repaired(problem, misled, chains):
    """Its weights show a misled network next to a good one's ``chains``, and adaptation repairs them."""
    twin = draws(problem, misled, BATCH)
    assert np.median(twin.info["proposal_efficiency"]) < 0.2 * np.median(chains.info["proposal_efficiency"])
    assert np.mean((twin.info["khat"] > 0.7) | (twin.info["ess"] < 400)) > 0.5
    repaired = draws(problem, misled, BATCH, adaptive_rounds=10)
    assert (repaired.info["khat"] < 0.7).all()
    assert errors(repaired, BATCH).max() < 4.5


def test_twin_trained_on_a_wrong_simulator_is_found_out_and_adaptation_repairs_it(problem, chains, tmp_path_factory):
    wrong = line_problem(tmp_path_factory.mktemp("wrong"), curve="-2.5 * a + b * x + 1")
    misled = train(wrong, BATCH)
    assert_found_out_and_repaired(problem, misled, chains)


def test_twin_trained_under_another_prior_is_found_out_by_calibration_and_by_weights(
    problem, trained, chains, tmp_path_factory
):
    text = MODEL.format(curve="a + b * x").replace("dist.Normal(centre, 2)", "dist.Normal(centre, 0.3)")
    misled = train(line_problem(tmp_path_factory.mktemp("narrow"), text), BATCH)
    with pytest.raises(InputError, match="trained for none of these data sets"):
        calibrate(problem, [BATCH], misled, LEARNING, 3)
    misled = replace(misled, coverage=trained.coverage)  # as if it did not say so itself
    limit = VerdictSection().overconfidence
    claims = [
        most_overconfident(findings_of(problem, calibrate(problem, [BATCH], network, LEARNING, 3))).sure_overconfidence
        for network in (trained, misled)
    ]
    assert claims[0] < limit < claims[1]
    assert_found_out_and_repaired(problem, misled, chains)


def test_twin_without_its_weights_is_not_the_posterior(problem, trained):
    """A shifted network whose weights are thrown away: the comparison above must notice."""
    shifted = draws(problem, trained, BATCH)
    shifted.theta[:] += 0.2
    assert errors(shifted, BATCH).max() > 4
