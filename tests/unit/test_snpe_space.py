"""The maps into the working space: exact inverses, true Jacobians, and a unit-normal prior."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.engines.snpe_space import Space, fixed_space, space_of
from tests.snpe_lines import line_batch, line_problem


@pytest.fixture
def space() -> Space:
    rng = np.random.default_rng(0)
    return Space(rng.normal(0, 3, (4, 3)), rng.uniform(0.1, 5, (4, 3)))


def test_round_trip_from_the_core_into_the_tails(space):
    w = np.random.default_rng(1).normal(0, 3, (4, 200, 3))
    z, _ = space.from_working(w)
    np.testing.assert_allclose(space.to_working(z)[0], w, atol=1e-9)


def test_log_scale_is_the_derivative_and_both_directions_agree(space):
    z = space.from_working(np.random.default_rng(2).normal(0, 2, (4, 50, 3)))[0]
    step = 1e-6 * space.halfwidth[:, None]
    slope = (space.to_working(z + step)[0] - space.to_working(z - step)[0]) / (2 * step)
    w, log_scale = space.to_working(z)
    np.testing.assert_allclose(log_scale, np.log(slope).sum(axis=-1), atol=1e-5)
    np.testing.assert_allclose(space.from_working(w)[1], log_scale, atol=1e-8)


def test_prior_becomes_a_unit_normal_whatever_the_constants(tmp_path):
    problem = line_problem(tmp_path)
    batch = line_batch(3, spread=1000.0)
    space = space_of(problem, batch)
    halfwidth = space.halfwidth
    np.testing.assert_allclose(space.centre[:, 0], batch.constants["centre"], atol=0.4)
    np.testing.assert_allclose(halfwidth[0], halfwidth[1], rtol=1e-9)
    np.testing.assert_allclose(halfwidth, 2.0, rtol=0.1)


def test_fixed_space_standardises_the_draws_it_was_made_from():
    z = np.random.default_rng(5).normal([100.0, -3.0], [0.01, 40.0], (3000, 2))
    w, _ = fixed_space(z).to_working(z[None])
    np.testing.assert_allclose(w[0].std(axis=0), 1.0, atol=0.06)
