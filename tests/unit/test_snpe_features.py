"""What the network sees does not depend on the order of points, on padding, or on units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.designs import usable_designs
from chainsweep.engines.snpe.encoder import Encoder, encoder_from_arrays, fit_standardisation
from chainsweep.engines.snpe.features import layout_of
from chainsweep.engines.snpe.network import fit_encoder
from chainsweep.engines.snpe.simulator import Rows, Simulator, stacked_rows
from chainsweep.engines.snpe.standardisation import Space
from chainsweep.model.problem import Problem, observation
from tests.snpe_lines import line_batch, line_problem

COUNTS = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

def model(x, y_err, centre, y=None):
    level = numpyro.sample("level", dist.LogNormal(jnp.log(300.0), 2))
    numpyro.sample("obs", dist.Poisson(level * jnp.exp(-0.1 * (x - centre) ** 2) + 1), obs=y)
"""


def simulated(problem: Problem, batch: Batch) -> tuple[Encoder, Space, Rows]:
    """An encoder with the simulations that it was fitted to."""
    batches, spaces = usable_designs(problem, [batch])
    rows = Simulator(problem, batch, 1).rows(1, 512)
    return fit_encoder(problem, batches, spaces, [rows], grid=8), spaces[0], rows


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    return line_problem(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def encoder(problem) -> Encoder:
    return simulated(problem, line_batch(6, spread=1.0))[0]


def encode(encoder: Encoder, batch: Batch) -> np.ndarray:
    space = np.zeros((len(batch), 2)), np.ones((len(batch), 2))
    return encoder.encode(observation(batch.fields, batch.constants, batch.mask), *space)


def split(encoder: Encoder, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Summary and points of packed features."""
    size = len(encoder.summary_mean)
    return packed[:, :size], packed[:, size : -encoder.width].reshape(len(packed), encoder.width, -1)


def test_order_of_points_changes_nothing_but_the_order_of_their_rows(encoder):
    batch = line_batch(6, spread=1.0)
    order = np.arange(batch.width)
    order[:8] = np.random.default_rng(5).permutation(8)
    shuffled = replace(batch, fields={name: values[:, order] for name, values in batch.fields.items()})
    before, after = encode(encoder, batch), encode(encoder, shuffled)
    np.testing.assert_allclose(split(encoder, before)[0], split(encoder, after)[0], atol=1e-6)
    np.testing.assert_allclose(split(encoder, before)[1][:, order], split(encoder, after)[1], atol=1e-6)


def test_padding_content_does_not_matter_and_real_points_do(encoder):
    batch = line_batch(6)
    padding = np.where(batch.mask, 0.0, 7.5)
    elsewhere = replace(batch, fields={name: values + padding for name, values in batch.fields.items()})
    assert not batch.mask.all()
    np.testing.assert_allclose(encode(encoder, batch), encode(encoder, elsewhere), atol=1e-6)
    moved = replace(batch, fields={**batch.fields, "y": batch.fields["y"] + 0.1 * batch.mask})
    assert np.abs(encode(encoder, batch) - encode(encoder, moved)).max() > 1e-2


def test_a_wider_bucket_gives_the_same_features(encoder):
    batch = line_batch(6)
    encoder = replace(encoder, width=20)
    index = np.minimum(np.arange(20), batch.n_points[:, None] - 1)
    wide = Batch(
        batch.ids,
        {name: np.take_along_axis(values, index, 1) for name, values in batch.fields.items()},
        batch.constants,
        np.arange(20) < batch.n_points[:, None],
    )
    np.testing.assert_allclose(encode(encoder, batch), encode(encoder, wide), atol=1e-6)


def assert_within_a_few_units(encoder: Encoder, batch: Batch, space: Space, rows: Rows) -> None:
    where = space.centre[rows.index], space.halfwidth[rows.index]
    packed = encoder.encode(stacked_rows(batch, rows), *where)
    size = len(encoder.summary_mean)
    assert np.isfinite(packed).all()
    assert np.quantile(np.abs(packed[:, :size]), 0.99) < 6
    assert 0.5 < packed[:, :size].std() < 1.5


def test_a_coordinate_of_any_unit_and_offset_stays_within_a_few_units(problem):
    batch = line_batch(6, spread=1.0)
    batch = replace(batch, fields={**batch.fields, "x": 5e7 + 1e5 * batch.fields["x"]})
    encoder, space, rows = simulated(problem, batch)
    assert_within_a_few_units(encoder, batch, space, rows)


def test_counts_over_five_decades_stay_within_a_few_units(tmp_path):
    batch = line_batch(6)
    encoder, space, rows = simulated(line_problem(tmp_path, COUNTS), batch)
    assert rows.observed["y"].max() > 1e4
    assert encoder.features.scales.counts == (True,)
    assert_within_a_few_units(encoder, batch, space, rows)


def test_features_that_never_vary_are_dropped():
    values = np.stack([np.full(50, 3.0), np.arange(50.0)], axis=1)
    mean, inverse_sd = fit_standardisation(values)
    assert inverse_sd[0] == 0
    np.testing.assert_allclose(((values - mean) * inverse_sd)[:, 1].std(), 1.0)


def test_encoder_survives_its_arrays(problem, encoder):
    batch = line_batch(6, spread=1.0)
    layout = layout_of(problem, batch, grid=8)
    again = encoder_from_arrays(layout, encoder.arrays())
    np.testing.assert_array_equal(encode(encoder, batch), encode(again, batch))


def test_nan_in_one_data_set_stays_there(encoder):
    batch = line_batch(6)
    broken = batch.fields["y"].copy()
    broken[1, 2] = np.nan
    packed = encode(encoder, replace(batch, fields={**batch.fields, "y": broken}))
    np.testing.assert_array_equal(np.isfinite(packed).all(axis=1), [True, False, True, True, True, True])
