"""Sources that cannot be read at all: each error names the file, what was expected and what is there."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from chainsweep.config.sections import DataSection
from chainsweep.data.ingest import ingest
from chainsweep.errors import DataError

CONFIG = DataSection(fields={"y": "v"})


def refuses(source, message, config=CONFIG):
    with pytest.raises(DataError, match=message) as info:
        ingest(config, source)
    assert str(source.name) in str(info.value)


def test_absent_empty_and_unknown_sources(tmp_path):
    refuses(tmp_path / "absent.npz", "does not exist")
    refuses(tmp_path / "*.npz", "matches no file")
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "the folder is empty")
    (tmp_path / "data.xyz").write_text("1")
    refuses(tmp_path / "data.xyz", r"cannot be told.*found \.xyz")
    refuses(tmp_path, "no .csv file", CONFIG.model_copy(update={"format": "csv"}))


def test_mixed_folders_need_a_format_and_array_formats_one_file(tmp_path):
    np.savez(tmp_path / "a.npz", v=np.ones((2, 4)))
    assert len(ingest(CONFIG, tmp_path).ids) == 2
    (tmp_path / "b.csv").write_text("v\n1\n2\n3\n")
    refuses(tmp_path, "cannot be told")
    assert len(ingest(CONFIG.model_copy(update={"format": "npz"}), tmp_path).ids) == 2
    assert ingest(CONFIG.model_copy(update={"format": "csv"}), tmp_path).ids == ("b",)
    np.savez(tmp_path / "c.npz", v=np.ones((2, 4)))
    refuses(tmp_path / "*.npz", r"expected one npz file, got 2 \(a\.npz, c\.npz\)")


def test_explicit_format_trusts_a_file_of_any_suffix(tmp_path):
    with (tmp_path / "data.bin").open("wb") as file:
        np.savez(file, v=np.ones((2, 4)))
    assert len(ingest(CONFIG.model_copy(update={"format": "npz"}), tmp_path / "data.bin").ids) == 2


def test_manifest_beside_an_array_source_is_an_error(tmp_path):
    np.savez(tmp_path / "a.npz", v=np.ones((2, 4)))
    refuses(tmp_path / "a.npz", "manifest goes with CSV", CONFIG.model_copy(update={"manifest": "manifest.csv"}))


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet", "fits"])
def test_missing_column_or_constant_is_named_with_what_is_there(tmp_path, suffix):
    source = tmp_path / f"s.{suffix}"
    write(source, {"w": np.ones((2, 4)), "k": np.ones(2)})
    refuses(source, r"no (array|column) 'v'.*\[data\] fields; the file has: 'w', 'k'|'k', 'w'")
    config = DataSection(fields={"y": "w"}, constants=["line"])
    refuses(source, r"no (array|column) 'line'.*\[data\] constants", config)


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet", "fits"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_files_are_errors(tmp_path, suffix, share):
    source = tmp_path / f"s.{suffix}"
    write(source, {"v": np.random.default_rng(0).normal(size=(500, 8))})
    whole = source.read_bytes()
    source.write_bytes(whole[: int(share * len(whole))])
    refuses(source, "not a readable|cannot be read")


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet", "fits"])
def test_text_where_numbers_belong_is_an_error(tmp_path, suffix):
    source = tmp_path / f"s.{suffix}"
    if suffix == "h5":
        with h5py.File(source, "w") as file:
            file["v"] = [["a", "b", "c"]]
    elif suffix == "parquet":
        pq.write_table(pa.table({"v": [["a", "b", "c"]]}), source)
    else:
        write(source, {"v": np.array(["a", "b", "c"])})
    refuses(source, "'v' must ha?o?[vl][ed]")


def write(source, arrays):
    if source.suffix == ".npz":
        np.savez(source, **arrays)
    elif source.suffix == ".h5":
        with h5py.File(source, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    elif source.suffix == ".parquet":
        pq.write_table(pa.table({n: list(a) if a.ndim > 1 else a for n, a in arrays.items()}), source)
    else:
        kind = {"f": "D", "U": "8A"}
        columns = [
            fits.Column(n, f"{a.shape[1] if a.ndim > 1 else ''}{kind[a.dtype.kind]}", array=a)
            for n, a in arrays.items()
        ]
        fits.BinTableHDU.from_columns(columns).writeto(source)


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "s.npz", v=np.array([[1, 2, 3], [4, 5]], dtype=object))
    refuses(tmp_path / "s.npz", "'v' cannot be read.*allow_pickle=False")
    np.save(tmp_path / "t.npy", np.ones(3))
    refuses(tmp_path / "t.npy", "single array", CONFIG.model_copy(update={"format": "npz"}))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"v": np.ones(4)}, r"must have shape \(data set, point\)"),
        ({"v": np.ones(4), "offsets": np.array([0, 3])}, "flat with 3 points"),
        ({"v": np.ones(4), "offsets": np.array([1, 4])}, "start at 0"),
        ({"v": np.ones(4), "offsets": np.array([0, 5, 4])}, "never fall"),
        ({"v": np.ones(4), "offsets": np.array([0.0, 4])}, "n \\+ 1 integers"),
        ({"v": np.ones((2, 4)), "id": np.array(["a"])}, "'id' has 1 entries for 2 data sets"),
        ({"v": np.ones((2, 4)), "id": np.array([0.5, 1])}, "texts or integers"),
        ({"v": np.ones((2, 4)), "truth_l": np.ones(3)}, "3 entries for 2"),
        ({"v": np.ones((2, 4), dtype=complex)}, "real numbers"),
        ({"v": np.ones((0, 4))}, "holds no data set"),
    ],
)
def test_arrays_that_contradict_each_other(tmp_path, arrays, message):
    np.savez(tmp_path / "s.npz", **arrays)
    refuses(tmp_path / "s.npz", message)


def test_constants_and_fields_of_a_wrong_shape(tmp_path):
    np.savez(tmp_path / "s.npz", v=np.ones((2, 4)), w=np.ones((3, 4)), k=np.ones((2, 4, 1)))
    refuses(tmp_path / "s.npz", r"'k' must have shape \(2,\)", DataSection(fields={"y": "v"}, constants=["k"]))
    refuses(tmp_path / "s.npz", "number of data sets: 'v' 2, 'w' 3", DataSection(fields={"y": "v", "x": "w"}))


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"v": [1.0, 2.0]}, CONFIG, "no column 'id'.*one row a point"),
        (
            {"v": [1.0], "w": [[1.0]]},
            DataSection(fields={"y": "v", "x": "w"}),
            "w hold lists but v hold numbers",
        ),
        ({"id": ["a"], "v": [1.0], "truth": [[1.0]]}, CONFIG, "columns 'truth_<parameter>'"),
        ({"id": [0.5], "v": [[1.0]]}, CONFIG, "texts or integers"),
        ({"v": [[1.0]], "k": [[1.0]]}, DataSection(fields={"y": "v"}, constants=["k"]), "one number a row"),
        ({"v": [[1.0], [1.0]], "truth_l": [[1.0], [1.0, 2.0]]}, CONFIG, "differ in length"),
    ],
)
def test_tables_that_cannot_be_understood(tmp_path, columns, config, message):
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    refuses(tmp_path / "s.parquet", message, config)


def test_fits_without_a_table(tmp_path):
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "s.fits")
    refuses(tmp_path / "s.fits", "no table extension")
