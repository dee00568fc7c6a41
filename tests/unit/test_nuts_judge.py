"""Chains of NUTS between blocks: which are good, how much longer the others should be, metric and step size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.convergence import ess_bulk, ess_tail, rhat_rank
from chainsweep.engines.nuts.engine import _Run
from chainsweep.engines.nuts.kernels import with_pooled_steps
from chainsweep.engines.nuts.lanes import whitening

CHAINS, DRAWS = 4, 300


def judged(z: np.ndarray, diverging: np.ndarray | None = None, **limits: float):
    none = np.zeros(z.shape[:3])
    return _Run._judge(
        SimpleNamespace(limits=VerdictSection().model_copy(update=limits)), z, none if diverging is None else diverging
    )


def draws(datasets: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((datasets, CHAINS, DRAWS, 2))


def test_chains_that_diverged_are_not_good_and_longer_ones_would_not_be():
    diverging = np.zeros((3, CHAINS, DRAWS))
    diverging[1, 2, 7] = diverging[2, 0, :2] = 1.0
    longer, good = judged(draws(), diverging)
    assert good.tolist() == [True, False, False]
    assert longer.tolist() == [1.0, 1.0, 1.0]
    assert judged(draws(), diverging, divergences=1)[1].tolist() == [True, True, False]


def test_chains_that_disagree_are_not_good_in_whichever_parameter():
    z = draws()
    z[1, 0, :, 1] += 1.0
    longer, good = judged(z, ess=1.0)
    assert good.tolist() == [True, False, True]
    assert longer[1] == pytest.approx(1.3)
    z[2] = z[2, :1, :1]
    assert judged(z)[1].tolist() == [True, False, False], "what does not move has no R-hat"


def slow() -> np.ndarray:
    z = draws(1)
    for step in range(1, DRAWS):
        z[:, :, step, 0] = 0.7 * z[:, :, step - 1, 0] + np.sqrt(1 - 0.49) * z[:, :, step, 0]
    return z


def test_chains_with_few_effective_draws_are_wanted_longer_by_what_they_lack():
    z = slow()
    series = np.moveaxis(z, -1, 1)
    least = float(min(ess_bulk(series).min(), ess_tail(series).min()))
    assert float(rhat_rank(series).max()) < 1.05
    for target, good in ((0.999 * least, True), (1.001 * least, False), (3.0 * least, False)):
        longer, passed = judged(z, ess=target, rhat=1.05)
        assert passed.tolist() == [good]
        assert longer[0] == pytest.approx(1.0 if good else max(1.05, target / least))


@pytest.mark.parametrize(("factor", "good"), [(1.0 + 1e-6, True), (1.0 - 1e-6, False)])
def test_the_largest_rhat_is_compared_with_its_target(factor, good):
    z = slow()
    largest = float(rhat_rank(np.moveaxis(z, -1, 1)).max())
    assert judged(z, rhat=factor * largest, ess=1.0)[1].tolist() == [good]


class Adapted(NamedTuple):
    step_size: Any


class State(NamedTuple):
    adapt_state: Any


def test_chains_of_a_lane_get_the_geometric_mean_of_their_step_sizes():
    own = np.array([[0.1, 0.4], [0.1, 0.4], [0.1, 0.4]])
    state = with_pooled_steps(State(Adapted(own)), np.array([True, False, True]), np.array([1.0, 1.0, 0.02]))
    np.testing.assert_allclose(state.adapt_state.step_size, [[0.2, 0.2], [0.1, 0.4], [0.004, 0.004]])


def test_the_metric_is_the_covariance_of_the_points_and_a_little_of_the_one_before():
    points = np.random.default_rng(1).standard_normal((400, 2)) * [3.0, 0.1] + [5.0, -1.0]
    before = np.array([[2.0, 0.0], [1.0, 3.0]])
    center, factor = whitening(points, before)
    np.testing.assert_allclose(center, points.mean(axis=0))
    np.testing.assert_allclose(factor @ factor.T, 0.95 * np.cov(points.T) + 0.05 * before @ before.T)
    points[-2] = np.nan
    assert whitening(points, before)[1] is before
