"""Copies of designs are a little different, and none is unlike all that the campaign has."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.designs import JITTERED, jittered, usable_designs
from chainsweep.errors import InputError
from tests.snpe_lines import line_batch, line_problem


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return line_problem(tmp_path_factory.mktemp("line"))


def test_copies_differ_a_little_and_stay_within_the_range(problem):
    batch = line_batch(8, spread=1.0)
    (whole,) = jittered(problem, [batch], 0.1, seed=3)
    assert len(whole) == JITTERED
    for name in ("x", "y_err"):
        np.testing.assert_array_equal(whole.fields[name][:8], batch.fields[name])
        low, high = batch.fields[name].min(), batch.fields[name].max()
        assert whole.fields[name].min() >= low - 1e-12
        assert whole.fields[name].max() <= high + 1e-12
    ratio = whole.fields["y_err"] / np.tile(batch.fields["y_err"], (JITTERED // 8, 1))
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(ratio.shape[1]), rtol=1e-12)
    spread = np.log(ratio[8:, 0]).std()
    assert 0.02 < spread < 0.12
    assert np.unique(whole.constants["centre"]).size > 500
    assert np.abs(whole.constants["centre"]).max() <= np.abs(batch.constants["centre"]).max() + 1e-12
    steps = np.diff(whole.fields["x"], axis=1)
    np.testing.assert_allclose(steps, np.tile(np.diff(batch.fields["x"], axis=1), (JITTERED // 8, 1)), atol=1e-12)
    np.testing.assert_array_equal(whole.mask, np.tile(batch.mask, (JITTERED // 8, 1)))


def test_the_seed_decides_and_none_is_none(problem):
    batch = line_batch(5, spread=1.0)
    first, again, other = (jittered(problem, [batch], 0.1, seed)[0].fields["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    (same,) = jittered(problem, [batch], 0.0, 1)
    assert same is batch


def test_many_designs_have_no_copies(problem):
    many = line_batch(JITTERED // 2 + 1, spread=1.0)
    (same,) = jittered(problem, [many], 0.1, 4)
    assert same is many


def test_what_all_have_in_common_and_whole_numbers_stay(problem):
    batch = line_batch(6)
    grid = np.tile(np.linspace(1.0, 2.0, batch.width), (6, 1))
    counted = Batch(batch.ids, {**batch.fields, "x": grid}, {"centre": np.arange(6.0)}, batch.mask)
    (whole,) = jittered(problem, [counted], 0.2, 4)
    np.testing.assert_array_equal(whole.fields["x"], np.tile(grid, (len(whole) // 6, 1)))
    np.testing.assert_array_equal(whole.constants["centre"], np.tile(np.arange(6.0), len(whole) // 6))
    assert np.unique(whole.fields["y_err"]).size > batch.fields["y_err"].size
    alike = {**batch.fields, "x": grid, "y_err": np.full(grid.shape, 0.5)}
    (alone,) = jittered(problem, [Batch(batch.ids, alike, {"centre": np.zeros(6)}, batch.mask)], 0.2, 4)
    assert len(alone) == 6


def test_data_sets_that_are_no_numbers_hide_no_others_and_are_left_out(problem):
    batch = line_batch(6, spread=1.0)
    batch.fields["y_err"][2, 3] = np.nan
    batch.constants["centre"][4] = np.nan
    (whole,) = jittered(problem, [batch], 0.1, 4)
    assert np.unique(whole.fields["x"][0::6, 0]).size > 100
    (kept,), (space,) = usable_designs(problem, [whole])
    assert len(kept) == len(whole) // 6 * 4
    assert np.isfinite(space.centre).all()
    batch.fields["x"][:] = np.nan
    with pytest.raises(InputError, match="no data set has a finite design"):
        usable_designs(problem, jittered(problem, [batch], 0.1, 4))
