"""The maps into the working space: exact inverses, true Jacobians, and a unit-normal prior."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.engines.snpe.standardisation import Space, fixed_space, space_of
from chainsweep.model.batched import BatchedProblem
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


PRIOR_OF = """
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

@jax.jit
def nested(x):
    return jax.lax.cond(x.sum() > 0, lambda: 1.0, lambda: 2.0)

def model(x, y_err, centre, y=None):
    a = numpyro.sample("a", {prior})
    numpyro.sample("obs", dist.Normal(a * x + centre, y_err), obs=y)
"""
OF_THE_DESIGN = (
    "dist.Normal(centre, 2)",
    "dist.Uniform(0, jnp.abs(x).max())",
    "dist.Normal(0, nested(x))",
    "dist.Normal(0, x.shape[0] + jnp.where(y_err[0] > 1e9, 1.0, 0.0))",
)


@pytest.mark.parametrize(
    ("prior", "one"),
    [("dist.Normal(0, 2)", True), ("dist.Uniform(-1, 3)", True), *((prior, False) for prior in OF_THE_DESIGN)],
)
def test_a_prior_is_drawn_once_where_it_uses_nothing_of_the_data_set(tmp_path, prior, one):
    problem = line_problem(tmp_path, PRIOR_OF.replace("{prior}", prior))
    batch = line_batch(70, spread=10.0)
    assert BatchedProblem(problem, batch).one_prior is one
    alone = [space_of(problem, batch.take(np.array([k]))) for k in (0, 69)]
    together = space_of(problem, batch)
    for name in ("centre", "halfwidth"):
        found = getattr(together, name)
        assert found.shape == (70, 1)
        assert [found[0, 0], found[69, 0]] == [getattr(space, name)[0, 0] for space in alone]
    if prior in OF_THE_DESIGN[::2]:
        assert np.ptp(np.stack([together.centre, together.halfwidth]), axis=1).any()
