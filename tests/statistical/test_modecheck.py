"""The mode check against a bimodal posterior known by quadrature, and on peaks with right and with spoiled chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from chainsweep.campaign.config import parse_config
from chainsweep.data.collection import Batch
from chainsweep.importance.adaptive import adapt
from chainsweep.importance.modes import find_modes, prior_pool
from chainsweep.importance.target import Start, from_modes, from_prior, target_of
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.load import example_observation, load_problem
from chainsweep.numerics.resampling import systematic
from chainsweep.verdicts.mode_check import PASSES, mode_check
from tests.mode_checks import lacks_mass
from tests.statistical.test_importance import QUICK, SEEDS, bound, keys, peaks

SQUARES = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, y=None):
    u = numpyro.sample("u", dist.Normal(0.1, 1.0))
    v = numpyro.sample("v", dist.Uniform(-1, 1))
    numpyro.sample("obs", dist.Normal(u**2 + 0.1 * v * x, y_err), obs=y)
"""
"""Two modes of u, the one above 0 a little heavier; v is all but unconstrained."""


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> BatchedProblem:
    path = Path(tmp_path_factory.mktemp("squares")) / "model.py"
    path.write_text(SQUARES)
    names = ("x", "y_err", "y")
    config = parse_config({"model": {"file": "model.py"}, "data": {"fields": {n: n for n in names}}}, "test")
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, (4, 10))
    y = np.array([[0.8], [1.2], [1.7], [2.2]]) ** 2 + 0.3 * rng.standard_normal(x.shape)
    fields = {"x": x, "y_err": np.full_like(x, 0.3), "y": y}
    example = example_observation({name: values[0] for name, values in fields.items()}, {})
    batch = Batch(("a", "b", "c", "d"), fields, {}, np.ones(x.shape, dtype=bool))
    return BatchedProblem(load_problem(path, config, example), batch)


def quadrature(batched: BatchedProblem, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior draws ``(dataset, draws, 2)`` from a fine grid, and the mass of the mode below 0."""
    u, v = np.linspace(-4, 4, 1601), np.linspace(-0.99, 0.99, 34)
    grid = np.stack(np.meshgrid(u, v, indexing="ij"), axis=-1).reshape(-1, 2)
    log_density = batched.log_density(np.broadcast_to(grid, (4, *grid.shape)))
    below = np.where(grid[:, 0] < 0, np.exp(log_density - log_density.max(axis=1, keepdims=True)), 0.0).sum(axis=1)
    total = np.exp(log_density - log_density.max(axis=1, keepdims=True)).sum(axis=1)
    return grid[np.stack([systematic(each, draws, 0.5) for each in log_density])], below / total


def outside(batched: BatchedProblem, with_modes: bool, draws: int = 2048) -> Start:
    ids = batched.batch.ids
    pool = prior_pool(batched, keys(ids, "prior"), draws)
    start = from_prior(target_of(batched), pool)
    if not with_modes:
        return start
    modes = find_modes(batched, pool, 8, [SEEDS.generator(dataset_id, "descents") for dataset_id in ids])
    return start._replace(mode_components=from_modes(modes))


@pytest.mark.parametrize("with_modes", [True, False])
def test_a_withheld_mode_is_found_and_weighed(squares, with_modes):
    theta, below = quadrature(squares, 20_000)
    rng = np.random.default_rng(1)
    shuffled = np.stack([draws[rng.permutation(20_000)] for draws in theta])
    half = np.stack([draws[draws[:, 0] > 0][:400] for draws in shuffled])
    start, seeds = outside(squares, with_modes), keys(squares.batch.ids, "check")

    right = mode_check(squares, squares.unconstrain(shuffled[:, :400]), start, seeds)
    assert right.conclusive.all()
    assert not lacks_mass(right).any()
    assert (right.mass_outside < 0.01).all()

    wrong = mode_check(squares, squares.unconstrain(half), start, seeds)
    assert wrong.conclusive.all()
    assert lacks_mass(wrong).all()
    assert (np.abs(wrong.mass_outside - below) / wrong.mass_outside_se < 4.0).all()
    shift = np.abs(half[..., 0].mean(axis=1) - theta[..., 0].mean(axis=1)) / theta[..., 0].std(axis=1)
    assert (np.abs(wrong.shift - shift) / wrong.shift_se < 4.0).all()
    assert (wrong.sd_ratio < 0.3).all()


def test_a_data_set_without_chain_draws_proves_nothing_and_disturbs_no_other(squares):
    theta, _ = quadrature(squares, 400)
    z = np.array(squares.unconstrain(theta))
    start, seeds = outside(squares, with_modes=False), keys(squares.batch.ids, "check")
    whole = mode_check(squares, z, start, seeds)
    z[1] = np.nan
    z[2, 300:] = np.nan
    check = mode_check(squares, z, start, seeds)
    assert_array_equal(check.conclusive, [True, False, True, True])
    assert np.isnan(check.shift[1])
    assert not lacks_mass(check).any()
    assert_allclose(check.log_evidence[[0, 3]], whole.log_evidence[[0, 3]], atol=1e-6)


def test_an_inconclusive_check_never_says_that_mass_is_missing(squares):
    theta, _ = quadrature(squares, 400)
    half = squares.unconstrain(np.abs(theta))
    check = mode_check(squares, half, outside(squares, with_modes=False), keys(squares.batch.ids, "check"), passes=())
    assert not check.conclusive.any()
    assert not lacks_mass(check).any()
    assert np.isnan(check.mass_outside).all()


def test_right_chains_of_peaks_raise_no_alarm_and_halved_ones_do():
    batched = bound(peaks(12, (0, 0, 0.05, -1, 0), (2, 1, 0.5, 1, 1), seed=51), prior="narrow")
    start, seeds = outside(batched, with_modes=True), keys(batched.batch.ids, "check")
    exact = adapt(target_of(batched), start, keys(batched.batch.ids, "exact"), QUICK)
    assert (exact.khat < 0.7).all()
    rng = np.random.default_rng(2)
    index = rng.permuted(np.stack([systematic(each, 400, 0.5) for each in exact.log_weight]), axis=1)
    z = np.take_along_axis(exact.z, index[..., None], axis=1)

    right = mode_check(batched, z, start, seeds, PASSES[:1])
    assert right.conclusive.mean() > 0.9
    assert lacks_mass(right).sum() <= 1

    spread = np.argmax(z.std(axis=1), axis=1)
    order = np.argsort(z[np.arange(12), :, spread], axis=1)[:, :200]
    spoiled = mode_check(batched, np.take_along_axis(z, order[..., None], axis=1), start, seeds, PASSES[:1])
    assert lacks_mass(spoiled).mean() > 0.8
