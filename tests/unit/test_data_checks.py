"""Every reason for quarantine in array and table sources, and that a bad data set takes no other down."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from chainsweep.config.sections import DataSection
from chainsweep.data.ingest import ingest
from chainsweep.errors import ConfigError, DataError

CONFIG = DataSection(fields={"x": "x", "y": "y", "y_err": "e"}, constants=["k"])


def rectangle(n=5, width=6):
    rng = np.random.default_rng(3)
    return {
        "x": rng.normal(size=(n, width)),
        "y": rng.normal(size=(n, width)),
        "e": 1 + rng.random((n, width)),
        "k": rng.normal(size=n),
        "id": np.array([f"d{i}" for i in range(n)]),
        "truth_l": np.zeros(n),
    }


def set_at(name, index, value):
    def spoil(arrays):
        arrays[name][index] = value

    return spoil


def pad_all(row, start):
    def spoil(arrays):
        for name in ("x", "y", "e"):
            arrays[name][row, start:] = np.nan

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (set_at("y", (2, 0), np.nan), "nan"),
        (set_at("x", (2, 5), np.nan), "nan"),  # a tail in one field alone is no padding
        (set_at("y", (2, 3), -np.inf), "nan"),
        (set_at("e", (2, 4), 0.0), "non_positive_error"),
        (set_at("e", (2, 4), -1.0), "non_positive_error"),
        (pad_all(2, 2), "too_few_points"),
        (pad_all(2, 0), "nan"),
        (set_at("k", 2, np.nan), "bad_constant"),
        (set_at("k", 2, np.inf), "bad_constant"),
        (set_at("truth_l", 2, np.inf), "bad_truth"),
        (set_at("id", 2, "a/b"), "unsafe_id"),
        (set_at("id", 2, "d0"), "duplicate_id"),
    ],
)
@pytest.mark.parametrize("form", ["npz", "parquet", "fits"])
def test_one_bad_data_set_of_a_source(tmp_path, spoil, reason, form):
    arrays = rectangle()
    spoil(arrays)
    source = tmp_path / f"s.{form}"
    if form == "npz":
        np.savez(source, **arrays)
    elif form == "parquet":
        pq.write_table(pa.table({n: list(a) if a.ndim == 2 else a for n, a in arrays.items()}), source)
    else:
        kinds = {1: "D", 2: "6D"}
        columns = [fits.Column(n, "8A" if n == "id" else kinds[a.ndim], array=a) for n, a in arrays.items()]
        fits.BinTableHDU.from_columns(columns).writeto(source)
    got = ingest(CONFIG, source)
    assert got.ids == ("d0", "d1", "d3", "d4")
    assert len(got.quarantine) == 1
    entry = got.quarantine[0]
    assert (entry.dataset_id, entry.file, entry.row, entry.reason) == (
        arrays["id"][2],
        source.name,
        2,
        reason,
    )
    np.testing.assert_array_equal(got.fields["y"].reshape(4, 6), np.delete(arrays["y"], 2, axis=0))
    np.testing.assert_array_equal(got.constants["k"], np.delete(arrays["k"], 2))
    assert np.isfinite(got.fields["x"]).all()


def test_every_later_duplicate_is_quarantined_and_names_the_first(tmp_path):
    arrays = rectangle()
    arrays["id"][[1, 4]] = "d0"
    np.savez(tmp_path / "s.npz", **arrays)
    got = ingest(CONFIG, tmp_path / "s.npz")
    assert got.ids == ("d0", "d2", "d3")
    assert [(q.row, q.reason) for q in got.quarantine] == [(1, "duplicate_id"), (4, "duplicate_id")]
    assert all("s.npz, row 0" in q.detail for q in got.quarantine)


def test_empty_data_sets_next_to_bad_points_are_not_blamed_for_them(tmp_path):
    y = np.array([1.0, 2, 3, np.nan, 5, 6, 7, 8, 9])
    np.savez(tmp_path / "s.npz", y=y, offsets=np.array([0, 0, 3, 3, 3, 6, 9, 9]))
    got = ingest(DataSection(fields={"y": "y"}), tmp_path / "s.npz")
    assert got.ids == ("000001", "000005")
    assert [(q.row, q.reason) for q in got.quarantine] == [
        (0, "too_few_points"),
        (2, "too_few_points"),
        (3, "too_few_points"),
        (4, "nan"),
        (6, "too_few_points"),
    ]
    assert got.fields["y"].tolist() == [1, 2, 3, 7, 8, 9]


def test_lists_of_different_length_are_a_wrong_shape(tmp_path):
    table = pa.table({"x": [[1, 2, 3], [1, 2, 3], None], "y": [[1.0, 2, 3], [1.0, 2], [1.0, 2, 3]]})
    pq.write_table(table, tmp_path / "s.parquet")
    got = ingest(DataSection(fields={"x": "x", "y": "y"}), tmp_path / "s.parquet")
    assert got.ids == ("000000",)
    assert [(q.row, q.reason) for q in got.quarantine] == [(1, "wrong_shape"), (2, "wrong_shape")]
    assert "'x' 3, 'y' 2" in got.quarantine[0].detail
    assert "array (data set, k) of [data] constants" in got.quarantine[0].detail


def test_constants_and_truths_that_change_within_an_id_are_quarantined(tmp_path):
    table = pa.table(
        {
            "id": ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + [None],
            "y": np.arange(10.0),
            "k": [1.0, 1, 1, 2, 2, 9, 3, 3, 3, 3],
            "truth_l": [None, None, None, 1, 1, 1, 4.0, 5.0, 4.0, 1.0],
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    got = ingest(DataSection(fields={"y": "y"}, constants=["k"]), tmp_path / "s.parquet")
    assert got.ids == ("a",)
    assert np.isnan(got.truth["l"]).all()
    assert [(q.dataset_id, q.row, q.reason) for q in got.quarantine] == [
        ("b", 5, "bad_constant"),
        ("c", 7, "bad_truth"),
        (None, 9, "unsafe_id"),
    ]


def test_nan_of_a_point_table_is_found_at_its_row(tmp_path):
    table = pa.table({"id": list("abababab"), "y": [0, 1, 2, 3, 4, None, 6, 7]})
    pq.write_table(table, tmp_path / "s.parquet")
    got = ingest(DataSection(fields={"y": "y"}), tmp_path / "s.parquet")
    assert [(q.dataset_id, q.row) for q in got.quarantine] == [("b", 5)]


def test_positive_fields_can_be_chosen(tmp_path):
    arrays = rectangle()
    arrays["e"][2, 4] = -1.0
    arrays["y"] = np.abs(arrays["y"])
    np.savez(tmp_path / "s.npz", **arrays)
    chosen = CONFIG.model_copy(update={"positive": ["y"]})
    assert len(ingest(chosen, tmp_path / "s.npz").ids) == 5
    with pytest.raises(ConfigError, match="the fields are: x, y, y_err"):
        ingest(CONFIG.model_copy(update={"positive": ["z"]}), tmp_path / "s.npz")
    with pytest.raises(ConfigError, match="'fields' and 'constants'"):
        ingest(CONFIG.model_copy(update={"constants": ["x"]}), tmp_path / "s.npz")


def test_nothing_usable_is_exit_65(tmp_path):
    arrays = rectangle()
    arrays["e"][:] = 0
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError, match=r"none of 5 data sets is usable \(non_positive_error 5\)") as info:
        ingest(CONFIG, tmp_path / "s.npz")
    assert info.value.exit_code == 65


def test_twenty_thousand_data_sets_with_a_tenth_of_them_bad(tmp_path):
    n, width = 20_000, 20
    arrays = {
        "x": np.zeros((n, width)),
        "y": np.ones((n, width)),
        "e": np.ones((n, width)),
        "k": np.arange(n) * 1.0,
    }
    arrays["y"][::10, 3] = np.nan
    np.savez(tmp_path / "s.npz", **arrays)
    got = ingest(CONFIG, tmp_path / "s.npz")
    assert len(got.quarantine) == 2_000
    assert len(got.ids) == 18_000
    np.testing.assert_array_equal(got.constants["k"], np.delete(np.arange(n), np.s_[::10]))
    assert got.offsets[-1] == 18_000 * width
