"""Blocks of frozen data sets: padding, masks, order, and reading only what is asked for."""

import numpy as np
import pytest

from chainsweep.data import collection as module
from chainsweep.data.collection import Collection
from chainsweep.data.ingest import Ingested, freeze
from chainsweep.errors import InputError

LENGTHS = np.array([3, 5, 4, 5, 3, 6])


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(2)
    total = LENGTHS.sum()
    n = len(LENGTHS)
    got = Ingested(
        ids=tuple("abcdef"),
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
        fields={"x": rng.normal(size=total), "y": rng.normal(size=(total, 2))},
        constants={"k": np.arange(n) * 1.5},
        truth={"l": np.array([1, np.nan, 2, 3, 4, 5]), "theta": np.array([[1, 2], [3, np.nan]] * 3)},
        quarantine=(),
    )
    freeze(got, tmp_path / "data.h5")
    return got, Collection(tmp_path / "data.h5")


@pytest.mark.parametrize("gap", [0, 4, 10**6])
def test_batch_equals_padding_by_hand(data, monkeypatch, gap):
    monkeypatch.setattr(module, "_GAP_POINTS", gap)
    for positions in ([0, 1, 2], [5, 0, 3], [2], [4, 4], []):
        equals_padding_by_hand(*data, positions)


def equals_padding_by_hand(got, view, positions):
    batch = view.batch(np.array(positions, dtype=int), 6)
    assert batch.ids == tuple("abcdef"[p] for p in positions)
    assert (len(batch), batch.width) == (len(positions), 6)
    np.testing.assert_array_equal(batch.n_points, LENGTHS[positions])
    np.testing.assert_array_equal(batch.constants["k"], np.array(positions) * 1.5)
    for row, position in enumerate(positions):
        for name in ("x", "y"):
            own = got.fields[name][got.offsets[position] : got.offsets[position + 1]]
            padded = np.concatenate([own, np.repeat(own[-1:], 6 - len(own), axis=0)])
            np.testing.assert_array_equal(batch.fields[name][row], padded)
        assert batch.mask[row].tolist() == [True] * LENGTHS[position] + [False] * (6 - LENGTHS[position])


def test_take_reorders_a_batch(data):
    _, view = data
    taken = view.batch([0, 1, 2], 5).take([2, 0])
    again = view.batch([2, 0], 5)
    assert taken.ids == again.ids == ("c", "a")
    np.testing.assert_array_equal(taken.fields["y"], again.fields["y"])
    np.testing.assert_array_equal(taken.constants["k"], again.constants["k"])
    np.testing.assert_array_equal(taken.mask, again.mask)


def test_too_narrow_and_out_of_range_are_refused(data):
    _, view = data
    with pytest.raises(ValueError, match="'f' has 6 points, more than 5"):
        view.batch([0, 5], 5)
    for positions in ([6], [-1]):
        with pytest.raises(ValueError, match=r"positions must be in 0\.\.5"):
            view.batch(positions, 6)


def test_columns_and_lookup(data):
    _, view = data
    assert view.ids == list("abcdef")
    assert len(view) == 6
    np.testing.assert_array_equal(view.lengths, LENGTHS)
    assert set(view.field_names) == {"x", "y"}
    assert view.constant_names == ("k",)
    assert view.parameters_with_truth == ("l", "theta")
    assert view.position("d") == 3
    with pytest.raises(InputError, match=r"no data set 'zz' among 6.*quarantine\.csv"):
        view.position("zz")


def test_truth_leaves_out_what_is_unknown(data):
    _, view = data
    assert set(view.truth(0)) == {"l", "theta"}
    assert view.truth(0)["theta"].tolist() == [1, 2]
    assert view.truth(1) == {}
    assert view.truth(3)["l"] == 3
    assert view.truth_table()["theta"].shape == (6, 2)
    assert np.isnan(view.truth_table()["l"][1])
