"""NPZ, HDF5, Parquet and FITS: every form a source may have, written and read for real."""

import builtins
from dataclasses import dataclass

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from chainsweep.config.sections import DataSection
from chainsweep.data.collection import Collection
from chainsweep.data.ingest import content_hash, freeze, ingest, with_named_truth
from chainsweep.errors import DataError, UnavailableError

CONFIG = DataSection(fields={"x": "energy", "y": "counts", "y_err": "err"}, constants=["line"])
LENGTHS = np.array([4, 6, 3, 6])
IDS = ["s1", "s10", "s2", "s-last"]


@dataclass(frozen=True)
class Known:
    """Four data sets, as flat columns of the names the sources use."""

    points: dict
    lengths: np.ndarray
    line: np.ndarray
    truth: np.ndarray

    @property
    def offsets(self):
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def rows(self, name):
        return np.split(self.points[name], self.offsets[1:-1])

    def rectangle(self, name, fill=np.nan):
        result = np.full((len(self.lengths), self.lengths.max()), fill)
        for row, values in zip(result, self.rows(name), strict=True):
            row[: len(values)] = values
        return result

    def by_point(self, values):
        return np.repeat(values, self.lengths, axis=0)


def known(lengths=LENGTHS):
    rng = np.random.default_rng(7)
    total = lengths.sum()
    points = {
        "energy": rng.normal(size=total),
        "counts": rng.normal(size=total),
        "err": 1 + rng.random(total),
    }
    return Known(points, lengths, rng.normal(size=len(lengths)), rng.normal(size=(len(lengths), 3)))


def npz_flat(path, data):
    np.savez(
        path / "s.npz",
        offsets=data.offsets,
        id=np.array(IDS),
        line=data.line,
        truth=data.truth,
        truth_names=np.array(["l", "theta[0]", "theta[1]"]),
        **data.points,
    )
    return path / "s.npz"


def npz_padded(path, data):
    rectangles = {name: data.rectangle(name) for name in data.points}
    np.savez_compressed(
        path / "s.npz",
        id=np.array([name.encode() for name in IDS]),
        line=data.line,
        truth_l=data.truth[:, 0],
        truth_theta=data.truth[:, 1:],
        **rectangles,
    )
    return path / "s.npz"


def hdf5_flat(path, data):
    with h5py.File(path / "s.hdf5", "w") as file:
        file.create_dataset("id", data=IDS)
        file["offsets"] = data.offsets
        file["line"] = data.line.astype(">f8")
        for name, values in data.points.items():
            file[name] = values.astype(">f8")
        file["truth"] = data.truth
        file["truth"].attrs["truth_names"] = ["l", "theta[0]", "theta[1]"]
    return path / "s.hdf5"


def hdf5_variable_length(path, data):
    with h5py.File(path / "s.h5", "w") as file:
        file["id"] = np.array(IDS, dtype="S")
        file["line"] = data.line
        for name in data.points:
            rows = file.create_dataset(name, (4,), dtype=h5py.vlen_dtype(np.float64))
            for i, values in enumerate(data.rows(name)):
                rows[i] = values
        file["truth"] = data.truth  # named by the caller
    return path / "s.h5"


def parquet_points(path, data):
    truth = {name: data.by_point(data.truth[:, i]) for i, name in enumerate(NAMES_OF_TRUTH_COLUMNS)}
    table = pa.table({"id": data.by_point(np.array(IDS)), "line": data.by_point(data.line), **data.points, **truth})
    pq.write_table(table, path / "s.parquet", row_group_size=5)
    return path / "s.parquet"


def parquet_lists(path, data):
    table = pa.table(
        {
            "id": pa.array(IDS).dictionary_encode(),
            "line": data.line,
            "truth": list(data.truth),
            **{name: data.rows(name) for name in data.points},
        }
    )
    pq.write_table(table, path / "s.pq", row_group_size=3)
    return path / "s.pq"


def fits_points(path, data):
    columns = [
        fits.Column("id", "8A", array=data.by_point(np.array(IDS))),
        fits.Column("line", "D", array=data.by_point(data.line)),
        *(fits.Column(name, "D", array=values) for name, values in data.points.items()),
        *(
            fits.Column(name, "D", array=data.by_point(data.truth[:, i]))
            for i, name in enumerate(NAMES_OF_TRUTH_COLUMNS)
        ),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path / "s.fits")
    return path / "s.fits"


def fits_variable_length(path, data):
    columns = [
        fits.Column("id", "8A", array=np.array(IDS)),
        fits.Column("line", "D", array=data.line),
        fits.Column("truth_l", "D", array=data.truth[:, 0]),
        fits.Column("truth_theta", "2D", array=data.truth[:, 1:]),
        *(fits.Column(n, "PD()", array=np.array(data.rows(n), dtype=object)) for n in data.points),
    ]
    # an unrelated table in front must not be taken for the data
    other = fits.BinTableHDU.from_columns([fits.Column("other", "D", array=np.zeros(2))])
    table = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(), other, table]).writeto(path / "s.fits")
    return path / "s.fits"


def fits_padded(path, data):
    columns = [
        fits.Column("id", "8A", array=np.array(IDS)),
        fits.Column("line", "D", array=data.line),
        fits.Column("truth", "3D", array=data.truth),
        *(fits.Column(n, f"{data.lengths.max()}D", array=data.rectangle(n)) for n in data.points),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path / "s.fit")
    return path / "s.fit"


NAMES_OF_TRUTH_COLUMNS = ["truth_l", "truth_theta[0]", "truth_theta[1]"]
FORMS = [
    npz_flat,
    npz_padded,
    hdf5_flat,
    hdf5_variable_length,
    parquet_points,
    parquet_lists,
    fits_points,
    fits_variable_length,
    fits_padded,
]


@pytest.mark.parametrize("write", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_the_same_data_sets_and_the_same_hash(tmp_path, write):
    data = known()
    source = write(tmp_path, data)
    got = with_named_truth(ingest(CONFIG, source), ("l", "theta[0]", "theta[1]"), source)
    assert got.quarantine == ()
    assert got.ids == tuple(IDS)
    np.testing.assert_array_equal(got.lengths, LENGTHS)
    for name, column in CONFIG.fields.items():
        assert got.fields[name].dtype == np.float64
        assert got.fields[name].dtype.isnative
        np.testing.assert_array_equal(got.fields[name], data.points[column])
    np.testing.assert_array_equal(got.constants["line"], data.line)
    np.testing.assert_array_equal(got.truth["l"], data.truth[:, 0])
    np.testing.assert_array_equal(got.truth["theta"], data.truth[:, 1:])
    reference = ingest(CONFIG, npz_flat(tmp_path, data))
    assert freeze(got, tmp_path / "a.h5") == freeze(reference, tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("suffix", ["npz", "h5", "parquet", "fits"])
def test_rectangles_without_ids_get_padded_row_numbers(tmp_path, suffix):
    values = np.arange(12.0).reshape(3, 4)
    source = tmp_path / f"plain.{suffix}"
    if suffix == "npz":
        np.savez(source, v=values)
    elif suffix == "h5":
        with h5py.File(source, "w") as file:
            file["v"] = values
    elif suffix == "parquet":
        fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)
        pq.write_table(pa.table({"v": fixed}), source)
    else:
        fits.BinTableHDU.from_columns([fits.Column("v", "4D", array=values)]).writeto(source)
    got = ingest(DataSection(fields={"y": "v"}), source)
    assert got.ids == ("000000", "000001", "000002")
    np.testing.assert_array_equal(got.fields["y"], values.ravel())
    assert got.truth == {}


def test_fields_with_trailing_dims_and_hdf5_paths(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5, 2))
    values[1, 3:] = np.nan
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["spectra/y"] = values
    got = ingest(DataSection(fields={"y": "spectra/y"}), tmp_path / "s.h5")
    assert got.lengths.tolist() == [5, 3, 5]
    np.testing.assert_array_equal(got.fields["y"], np.concatenate([values[0], values[1, :3], values[2]]))


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_constant_may_be_a_vector(tmp_path, suffix):
    vectors = np.arange(12.0).reshape(4, 3)
    vectors[2, 1] = np.nan
    source, arrays = tmp_path / f"s.{suffix}", {"y": np.ones((4, 5)), "v": vectors}
    if suffix == "npz":
        np.savez(source, **arrays)
    else:
        with h5py.File(source, "w") as file:
            file.update(arrays)
    got = ingest(DataSection(fields={"y": "y"}, constants=["v"]), source)
    assert [(q.reason, q.row) for q in got.quarantine] == [("bad_constant", 2)]
    digest = freeze(got, tmp_path / "data.h5")
    assert digest == content_hash(tmp_path / "data.h5")
    batch = Collection(tmp_path / "data.h5").batch([2, 0], 5)
    assert batch.constants["v"].tolist() == [[9, 10, 11], [0, 1, 2]]


@pytest.mark.parametrize("shape", [(3,), (4, 0), (4, 2, 2)])
def test_a_constant_of_another_shape_is_refused(tmp_path, shape):
    np.savez(tmp_path / "s.npz", y=np.ones((4, 5)), v=np.ones(shape))
    with pytest.raises(DataError, match=r"'v' must have shape \(4,\), one value a data set, or \(4, k\)"):
        ingest(DataSection(fields={"y": "y"}, constants=["v"]), tmp_path / "s.npz")


def test_integers_are_int64_and_single_precision_becomes_float64(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.arange(8, dtype=">i2").reshape(2, 4), y=np.ones((2, 4), dtype=np.float32))
    got = ingest(DataSection(fields={"x": "x", "y": "y"}), tmp_path / "s.npz")
    assert got.fields["x"].dtype == np.int64
    assert got.fields["y"].dtype == np.float64
    assert got.fields["x"].tolist() == list(range(8))


def test_scattered_rows_of_a_point_table_are_gathered_in_their_order(tmp_path):
    table = pa.table({"id": pa.array([5, 3, 5, 3, 5, 3, 3]), "y": pa.array([1, 2, 3, 4, 5, 6, 7])})
    pq.write_table(table, tmp_path / "s.parquet")
    got = ingest(DataSection(fields={"y": "y"}), tmp_path / "s.parquet")
    assert got.ids == ("5", "3")
    assert got.fields["y"].tolist() == [1, 3, 5, 2, 4, 6, 7]


def test_fits_integer_that_means_missing_is_nan(tmp_path):
    column = fits.Column("v", "3J", array=np.array([[1, 2, 3], [4, -99, 6]]), null=-99)
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "s.fits")
    got = ingest(DataSection(fields={"y": "v"}), tmp_path / "s.fits")
    assert got.ids == ("000000",)
    assert [(q.reason, q.row) for q in got.quarantine] == [("nan", 1)]


def test_truth_matrix_without_names_waits_for_the_models(tmp_path):
    truth = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "s.npz", v=np.ones((2, 4)), truth=truth)
    ingested = ingest(DataSection(fields={"y": "v"}), tmp_path / "s.npz")
    named = with_named_truth(ingested, ("l", "theta[0]", "theta[1]"), tmp_path).truth
    np.testing.assert_array_equal(named["l"], truth[:, 0])
    np.testing.assert_array_equal(named["theta"], truth[:, 1:])
    with pytest.raises(DataError, match="3 columns, but the 2 names known are l, m"):
        with_named_truth(ingested, ("l", "m"), tmp_path)


def test_truth_given_twice_is_an_error(tmp_path):
    np.savez(tmp_path / "s.npz", v=np.ones((2, 4)), truth=np.ones((2, 1)), truth_a=np.ones(2))
    without_names = ingest(DataSection(fields={"y": "v"}), tmp_path / "s.npz")
    with pytest.raises(DataError, match="'a' is given twice"):
        with_named_truth(without_names, ("a",), tmp_path)
    np.savez(tmp_path / "t.npz", v=np.ones((2, 4)), truth=np.ones((2, 1)), truth_a=np.ones(2), truth_names=["a"])
    with pytest.raises(DataError, match="'a' is given twice"):
        ingest(DataSection(fields={"y": "v"}), tmp_path / "t.npz")


def test_missing_astropy_names_the_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_astropy(name, *args):
        if name.startswith("astropy"):
            raise ImportError(name)
        return real_import(name, *args)

    source = fits_padded(tmp_path, known())
    monkeypatch.setattr(builtins, "__import__", without_astropy)
    with pytest.raises(UnavailableError, match=r"chainsweep\[fits\]") as info:
        ingest(CONFIG, source)
    assert info.value.exit_code == 69


WHOLE = {"x": np.array([[0.0, 0.5], [1.0, 2.0]]), "y": np.array([[3, 0], [2, 1]])}


def whole_npz(path):
    np.savez(path / "s.npz", **WHOLE)
    return path / "s.npz"


def whole_hdf5(path):
    with h5py.File(path / "s.h5", "w") as file:
        file["x"] = WHOLE["x"]
        rows = file.create_dataset("y", (2,), dtype=h5py.vlen_dtype(np.uint8))
        rows[0], rows[1] = WHOLE["y"]
    return path / "s.h5"


def whole_parquet(path):
    pq.write_table(pa.table({name: values.tolist() for name, values in WHOLE.items()}), path / "s.parquet")
    return path / "s.parquet"


def whole_points(path):
    """A row a point; a missing integer sets its data set aside, and the others keep their integers."""
    columns = {"id": [0, 0, 1, 1, 2], "x": [*WHOLE["x"].ravel(), 0.0], "y": [*WHOLE["y"].ravel().tolist(), None]}
    pq.write_table(pa.table(columns), path / "s.parquet")
    return path / "s.parquet"


def whole_fits(path):
    columns = [fits.Column("x", "2D", array=WHOLE["x"]), fits.Column("y", "2I", array=WHOLE["y"])]
    fits.BinTableHDU.from_columns(columns).writeto(path / "s.fits")
    return path / "s.fits"


def whole_csv(path):
    (path / "s").mkdir()
    for number in range(2):
        rows = zip(WHOLE["x"][number], WHOLE["y"][number], strict=True)
        (path / "s" / f"{number}.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in rows))
    (path / "s" / "gap.csv").write_text("x,y\n0.5,1\n1.5,\n")
    return path / "s"


@pytest.mark.parametrize("write", [whole_npz, whole_hdf5, whole_parquet, whole_points, whole_fits, whole_csv])
def test_integers_stay_integers_through_freezing(tmp_path, write):
    """Labels of a Categorical must; a column of floats stays one, whole numbers among it or not."""
    got = ingest(DataSection(fields={"x": "x", "y": "y"}, min_points=1), write(tmp_path))
    assert {name: values.dtype.kind for name, values in got.fields.items()} == {"x": "f", "y": "i"}
    digest = freeze(got, tmp_path / "data.h5")
    batch = Collection(tmp_path / "data.h5").batch([0, 1], 2)
    assert {name: values.dtype for name, values in batch.fields.items()} == {"x": np.float64, "y": np.int64}
    for name, values in WHOLE.items():
        np.testing.assert_array_equal(batch.fields[name], values)
    assert content_hash(tmp_path / "data.h5") == digest


def test_whole_numbers_written_as_decimals_are_floats(tmp_path):
    """The twin: in one file of the folder a cell is 3.0."""
    folder = whole_csv(tmp_path)
    (folder / "1.csv").write_text("x,y\n1.0,2\n2.0,1.0\n")
    got = ingest(DataSection(fields={"x": "x", "y": "y"}, min_points=1), folder)
    assert got.fields["y"].dtype == np.float64
