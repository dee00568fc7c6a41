"""CSV folders: manifests, single files, globs, and every way one data set can be unusable."""

import csv
import os

import numpy as np
import pytest

from chainsweep.config.sections import DataSection
from chainsweep.data.ingest import ingest, write_quarantine
from chainsweep.errors import DataError

CONFIG = DataSection(fields={"x": "energy", "y": "counts", "y_err": "err"}, constants=["line"])
PLAIN = DataSection(fields={"x": "energy", "y": "counts", "y_err": "err"})
GOOD = "energy,counts,err\n1,10,3\n2,20.5,4\n3,30,5\n"


@pytest.fixture
def folder(tmp_path):
    """A folder whose name has a blank, a quote and brackets, as real ones have."""
    path = tmp_path / "it's [my] data"
    path.mkdir()
    return path


def fill(folder, rows, files, header="id,file,line"):
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    for name, text in files.items():
        (folder / name).write_text(text)


def only_quarantined(ingested):
    assert len(ingested.quarantine) == 1
    return ingested.quarantine[0]


def test_manifest_gives_ids_constants_truth_and_leaves_other_columns(folder):
    fill(
        folder,
        ["b,one.csv,5.5,lab,1.5,7,", "a,two.csv,6.5,lab,,8,9"],
        {"one.csv": GOOD, "two.csv": "err, counts ,energy,note\n1,2,3,x\n1,2,4,y\n1,2,5,\n1,2,6,z\n"},
        header="id,file,line,site,truth_l,truth_theta[0],truth_theta[1]",
    )
    got = ingest(CONFIG, folder)
    assert got.ids == ("b", "a")
    assert got.offsets.tolist() == [0, 3, 7]
    assert got.fields["x"].tolist() == [1, 2, 3, 3, 4, 5, 6]
    assert got.fields["y"].tolist() == [10, 20.5, 30, 2, 2, 2, 2]
    assert got.constants["line"].tolist() == [5.5, 6.5]
    np.testing.assert_array_equal(got.truth["l"], [1.5, np.nan])
    np.testing.assert_array_equal(got.truth["theta"], [[7, np.nan], [8, 9]])
    assert got.quarantine == ()


@pytest.mark.parametrize(
    ("text", "reason", "row", "in_detail"),
    [
        ("energy,counts,err\n1,10,3\n\n2,nan,4\n3,30,5\n", "nan", 4, "'y' (column 'counts') is nan"),
        ("energy,counts,err\n1,10,3\n2,,4\n3,30,5\n", "nan", 3, "point 1"),
        ("energy,counts,err\n1,10,3\n2,inf,4\n3,30,5\n", "nan", 3, "is inf"),
        ("energy,counts,err\n1,10,3\n2,20,0\n3,30,5\n", "non_positive_error", 3, "must be > 0, got 0.0"),
        ("energy,counts,err\n1,10,3\n2,20,4\n3,30,-5\n", "non_positive_error", 4, "got -5.0"),
        (
            "energy,counts,err\n1,10,3\n2,20,4\n",
            "too_few_points",
            3,
            "has 2 points, fewer than min_points = 3",
        ),
        ("energy,counts,err\n", "too_few_points", 1, "has 0 points"),
        ("energy,counts,err\n1,10,3\n2,20\n3,30,5\n", "wrong_shape", 3, "3 cells, this row 2"),
        ("energy,counts,err\n1,10,3\n2,20,4,9\n3,30,5\n", "wrong_shape", 3, "3 cells, this row 4"),
        ("energy,counts,err\n1,10,3\n2,2O,4\n3,30,5\n", "not_a_number", 3, "'2O'"),
        ("energy,counts,err\n1,10,3\n2,1_0,4\n3,30,5\n", "not_a_number", 3, "'1_0'"),
        ("energy,counts\n1,10\n2,20\n3,30\n", "missing_column", 1, "no column 'err'"),
        ("energy,err,counts,err\n1,1,1,1\n1,1,1,1\n1,1,1,1\n", "missing_column", 1, "more than one"),
        ("", "unreadable", None, "cannot be parsed"),
        ("\x00\x01", "unreadable", None, "cannot be parsed"),
    ],
)
def test_one_bad_file_is_quarantined_and_the_rest_goes_on(folder, text, reason, row, in_detail):
    fill(folder, ["good,good.csv,1", "bad,bad.csv,2", "last,last.csv,3"], {"good.csv": GOOD, "last.csv": GOOD})
    (folder / "bad.csv").write_text(text)
    got = ingest(CONFIG, folder)
    entry = only_quarantined(got)
    assert (got.ids, entry.dataset_id, entry.reason) == (("good", "last"), "bad", reason)
    assert entry.row == row
    assert in_detail in entry.detail
    assert entry.file == "bad.csv"
    assert got.constants["line"].tolist() == [1, 3]


def test_text_of_another_encoding_is_unreadable(folder):
    fill(folder, ["good,good.csv,1", "bad,bad.csv,2"], {"good.csv": GOOD})
    (folder / "bad.csv").write_bytes("énergie,counts,err\n1,2,3\n".encode("latin-1"))
    assert only_quarantined(ingest(CONFIG, folder)).reason == "unreadable"


@pytest.mark.parametrize(
    ("row", "reason", "dataset_id"),
    [
        ("../x,good.csv,1", "unsafe_id", "../x"),
        ("a..b,good.csv,1", "unsafe_id", "a..b"),
        (",good.csv,1", "unsafe_id", ""),
        ("-x,good.csv,1", "unsafe_id", "-x"),
        ("a b,good.csv,1", "unsafe_id", "a b"),
        ('"a\nb",good.csv,1', "unsafe_id", "a\nb"),
        ("x" * 129 + ",good.csv,1", "unsafe_id", "x" * 129),
        ("good,good.csv,1", "duplicate_id", "good"),
        ("bad,/etc/passwd,1", "unsafe_file", "bad"),
        ("bad,sub/../../good.csv,1", "unsafe_file", "bad"),
        ("bad,,1", "unsafe_file", "bad"),
        ("bad,absent.csv,1", "unreadable", "bad"),
        ("bad,.,1", "unreadable", "bad"),
        ("bad,good.csv,", "bad_constant", "bad"),
        ("bad,good.csv,high", "bad_constant", "bad"),
        ("bad,good.csv,inf", "bad_constant", "bad"),
        ("bad,good.csv,nan", "bad_constant", "bad"),
        ("bad,good.csv", "wrong_shape", "bad"),
        ("bad,good.csv,1,2", "wrong_shape", "bad"),
    ],
)
def test_one_bad_manifest_row_is_quarantined(folder, row, reason, dataset_id):
    fill(folder, ["good,good.csv,1", row, "last,good.csv,3"], {"good.csv": GOOD})
    got = ingest(CONFIG, folder)
    entry = only_quarantined(got)
    assert got.ids == ("good", "last")
    assert (entry.dataset_id, entry.reason) == (dataset_id, reason)
    if reason == "unreadable":
        assert (entry.file, entry.row) == (row.split(",")[1], None)
    else:
        assert (entry.file, entry.row) == ("manifest.csv", 4 if "\n" in row else 3)
    if reason == "duplicate_id":
        assert "manifest.csv, row 2" in entry.detail


@pytest.mark.parametrize("cell", ["maybe", "inf"])
def test_a_truth_that_is_no_finite_number_is_quarantined(folder, cell):
    fill(
        folder,
        ["good,good.csv,1,", f"bad,good.csv,1,{cell}"],
        {"good.csv": GOOD},
        header="id,file,line,truth_l",
    )
    assert only_quarantined(ingest(CONFIG, folder)).reason == "bad_truth"


def test_largest_safe_id_and_byte_order_mark_are_taken(folder):
    fill(folder, [f"{'x' * 128},bom.csv,1"], {"bom.csv": "\ufeff" + GOOD.replace("\n", "\r\n")})
    assert ingest(CONFIG, folder).fields["y"].tolist() == [10, 20.5, 30]


def test_fast_and_full_parser_agree_to_the_last_bit(folder):
    values = np.random.default_rng(1).normal(size=(50, 3)) * 10.0 ** np.arange(-3, 6, 3)
    values[:, 2] = np.abs(values[:, 2])
    lines = [",".join(repr(float(cell)) for cell in row) for row in values]
    (folder / "fast.csv").write_text("energy,counts,err\n" + "\n".join(lines) + "\n")
    (folder / "full.csv").write_text("energy,counts,err,note\n" + ",a\n".join(lines) + ",a\n")
    got = ingest(PLAIN, folder)
    np.testing.assert_array_equal(got.fields["x"], np.tile(values[:, 0], 2))
    np.testing.assert_array_equal(got.fields["y_err"], np.tile(values[:, 2], 2))


def test_large_file_goes_through_the_full_parser(folder):
    (folder / "a.csv").write_text("energy,counts,err\n" + "".join(f"{i},1,2\n" for i in range(60_000)))
    assert ingest(PLAIN, folder).fields["x"].sum() == 60_000 * 59_999 / 2


def test_folder_without_manifest_takes_ids_from_file_names(folder):
    for name in ("b.csv", "a.csv", "README.md", ".hidden.csv"):
        (folder / name).write_text(GOOD)
    got = ingest(PLAIN, folder)
    assert got.ids == ("a", "b")
    assert got.constants == {}


def test_single_file_and_glob(folder):
    for name in ("b1.csv", "b2.csv", "c.csv"):
        (folder / name).write_text(GOOD)
    assert ingest(PLAIN, folder / "c.csv").ids == ("c",)
    assert ingest(PLAIN, folder / "b*.csv").ids == ("b1", "b2")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.csv").write_text(GOOD)
    got = ingest(PLAIN, folder / "**" / "c.csv")
    assert got.ids == ("c",)
    assert only_quarantined(got).reason == "duplicate_id"


def test_constants_without_manifest_are_an_error(folder):
    (folder / "a.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"constants = \['line'\] needs a manifest"):
        ingest(CONFIG, folder)


def test_manifest_without_a_constant_column_names_it_and_what_is_there(folder):
    fill(folder, ["a,good.csv"], {"good.csv": GOOD}, header="id,file")
    with pytest.raises(DataError, match=r"no column 'line'.*the file has: 'id', 'file'"):
        ingest(CONFIG, folder)


@pytest.mark.parametrize(
    ("header", "message"), [("name,file,line", "no column 'id'"), ("id,file,line,line", "column twice: line")]
)
def test_manifest_with_a_wrong_header_is_an_error(folder, header, message):
    fill(folder, [], {"good.csv": GOOD}, header=header)
    with pytest.raises(DataError, match=message):
        ingest(CONFIG, folder)


def test_named_manifest_must_exist_and_needs_a_folder(folder):
    (folder / "good.csv").write_text(GOOD)
    named = CONFIG.model_copy(update={"manifest": "list.csv"})
    with pytest.raises(DataError, match=r"list\.csv: the manifest cannot be read"):
        ingest(named, folder)
    with pytest.raises(DataError, match="needs a folder as source"):
        ingest(named, folder / "good.csv")


def test_incomplete_vector_truth_is_an_error(folder):
    fill(folder, ["a,good.csv,1,2"], {"good.csv": GOOD}, header="id,file,line,truth_theta[1]")
    with pytest.raises(DataError, match=r"'truth_theta\[0\]' is missing"):
        ingest(CONFIG, folder)


def test_nothing_usable_counts_the_reasons(folder):
    fill(folder, [f"d{i},absent{i}.csv,1" for i in range(7)] + ["../e,good.csv,1"], {"good.csv": GOOD})
    with pytest.raises(DataError, match=r"none of 8 .*unreadable 7, unsafe_id 1(.|\n)*absent4(.|\n)*3 more") as info:
        ingest(CONFIG, folder)
    assert info.value.exit_code == 65


def test_empty_manifest_holds_no_data_set(folder):
    fill(folder, [], {"good.csv": GOOD})
    with pytest.raises(DataError, match="holds no data set"):
        ingest(CONFIG, folder)


def test_quarantine_file_round_trips_awkward_ids_and_is_written_when_empty(folder, tmp_path):
    fill(folder, ["good,good.csv,1", '"a,""b\nc",good.csv,2', "m,missing.csv,3"], {"good.csv": GOOD})
    got = ingest(CONFIG, folder)
    path = tmp_path / "quarantine.csv"
    write_quarantine(got.quarantine, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["dataset_id"] for row in rows] == ['a,"b\nc', "m"]
    assert (rows[1]["file"], rows[1]["row"], rows[1]["reason"]) == ("missing.csv", "", "unreadable")
    write_quarantine((), path)
    assert path.read_text().strip() == "dataset_id,file,row,reason,detail"


def test_a_file_outside_the_folder_is_never_opened(folder):
    secret = folder.parent / "secret.csv"
    fill(folder, ["good,good.csv,1", "bad,../secret.csv,1"], {"good.csv": GOOD})
    os.mkfifo(secret)  # opening it would wait for ever
    assert only_quarantined(ingest(CONFIG, folder)).reason == "unsafe_file"
