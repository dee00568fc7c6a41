"""The frozen file: its hash follows the content alone, and it appears whole or not at all."""

import dataclasses

import h5py
import numpy as np
import pytest

from chainsweep.config.sections import DataSection
from chainsweep.data import frozen
from chainsweep.data.collection import Collection
from chainsweep.data.ingest import Ingested, content_hash, freeze, ingest
from chainsweep.errors import CampaignError, ChainsweepError

CONFIG = DataSection(fields={"x": "x", "y": "y"}, constants=["k"])


def source(path, spoil=lambda arrays: None):
    rng = np.random.default_rng(5)
    arrays = {
        "x": rng.normal(size=10),
        "y": rng.normal(size=10),
        "k": rng.normal(size=3),
        "id": np.array(["a", "b", "c"]),
        "truth_l": np.array([1.0, np.nan, 2.0]),
        "offsets": np.array([0, 3, 7, 10]),
    }
    spoil(arrays)
    np.savez(path, **arrays)
    return ingest(CONFIG, path)


def change(name, index, value):
    def spoil(arrays):
        arrays[name][index] = value

    return spoil


def test_same_content_same_hash_and_same_bytes(tmp_path):
    first = freeze(source(tmp_path / "s.npz"), tmp_path / "a.h5")
    second = freeze(source(tmp_path / "t.npz"), tmp_path / "b.h5")
    assert first == second == content_hash(tmp_path / "a.h5") == content_hash(Collection(tmp_path / "b.h5"))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert Collection(tmp_path / "a.h5").sha256 == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5", "s.npz", "t.npz"]


@pytest.mark.parametrize(
    "spoil",
    [
        change("x", 4, 0.5),
        change("y", 9, np.nextafter(1.0, 2.0)),
        change("k", 0, 0.0),
        change("id", 1, "B"),
        change("truth_l", 1, 0.0),
        change("truth_l", 0, np.nan),
        change("offsets", 1, 4),
    ],
)
def test_one_changed_value_changes_the_hash(tmp_path, spoil):
    before = freeze(source(tmp_path / "s.npz"), tmp_path / "a.h5")
    assert freeze(source(tmp_path / "t.npz", spoil), tmp_path / "b.h5") != before


def test_names_order_and_bits_of_nan(tmp_path):
    got = source(tmp_path / "s.npz")
    before = freeze(got, tmp_path / "a.h5")
    reordered = dataclasses.replace(got, fields=dict(reversed(got.fields.items())))
    assert freeze(reordered, tmp_path / "b.h5") == before
    odd_nan = np.array([1.0, np.nan, 2.0])
    odd_nan.view(np.uint64)[1] |= np.uint64(1)
    assert freeze(dataclasses.replace(got, truth={"l": odd_nan}), tmp_path / "c.h5") == before
    swapped = {"x": got.fields["y"], "y": got.fields["x"]}
    assert freeze(dataclasses.replace(got, fields=swapped), tmp_path / "d.h5") != before


def test_a_value_changed_in_the_file_is_found(tmp_path):
    digest = freeze(source(tmp_path / "s.npz"), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["fields/y"][3] += 1e-12
    assert content_hash(tmp_path / "a.h5") != digest


def test_layout_of_the_file(tmp_path):
    freeze(source(tmp_path / "s.npz"), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["schema"] == "chainsweep-data/1"
        assert file["id"].asstr()[()].tolist() == ["a", "b", "c"]
        assert file["offsets"].dtype == np.int64
        assert file["fields/x"].shape == (10,)
        assert file["constants/k"].shape == file["truth/l"].shape == (3,)


def test_a_write_that_does_not_read_back_leaves_nothing(tmp_path, monkeypatch):
    got = source(tmp_path / "s.npz")
    real_write = frozen._write

    def lossy(columns, digest, path):
        real_write(columns, digest, path)
        with h5py.File(path, "r+") as file:
            file["fields/x"][0] = 0.0

    monkeypatch.setattr(frozen, "_write", lossy)
    with pytest.raises(ChainsweepError, match="does not read back"):
        freeze(got, tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_truncated_and_foreign_files_are_refused(tmp_path):
    freeze(source(tmp_path / "s.npz"), tmp_path / "a.h5")
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    for name in ("short.h5", "foreign.h5", "absent.h5"):
        with pytest.raises(CampaignError, match=name):
            Collection(tmp_path / name)
        with pytest.raises(CampaignError, match=name):
            content_hash(tmp_path / name)


def test_empty_constants_and_truth_round_trip(tmp_path):
    got = Ingested(("a",), np.array([0, 3]), {"y": np.ones((3, 2))}, {}, {}, ())
    freeze(got, tmp_path / "a.h5")
    view = Collection(tmp_path / "a.h5")
    assert (view.constant_names, view.parameters_with_truth, view.truth(0), view.truth_table()) == (
        (),
        (),
        {},
        {},
    )


def test_floats_have_the_hash_that_earlier_versions_gave_them(tmp_path):
    """Frozen files of campaigns made before integers were kept stay whole."""
    fields, truth = {"x": np.array([0.5, 1.0, np.pi])}, {"l": np.array([np.nan, 0.0])}
    got = Ingested(("a", "b"), np.array([0, 2, 3]), fields, {"k": np.array([1.0, 2.0])}, truth, ())
    known = "d12a3b6432b9d2796613b4a5467d6ef1312ab330a71e87c82d127efcf536f8b5"
    assert freeze(got, tmp_path / "a.h5") == known == content_hash(tmp_path / "a.h5")
    as_integers = dataclasses.replace(got, fields={"x": np.array([0, 1, 3])})
    as_floats = dataclasses.replace(got, fields={"x": np.array([0.0, 1.0, 3.0])})
    assert freeze(as_integers, tmp_path / "b.h5") != freeze(as_floats, tmp_path / "c.h5")
