"""The catalogue: exact columns, null where an engine has no figure, the same bytes each time."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.publish import LostOwnership
from chainsweep.store.catalogue import catalogue_table, columns, read_catalogue, write_catalogue
from chainsweep.store.shard import read_summary
from tests.unit.store_samples import make_shard, publish_sample

PARAMETERS = ["l", "theta[0]"]
CONTRACT = [
    *("dataset_id", "engine", "verdict", "reason", "cause", "hint", "rung"),
    *("mean_l", "mean_theta[0]", "sd_l", "sd_theta[0]"),
    *("q05_l", "q05_theta[0]", "q50_l", "q50_theta[0]", "q95_l", "q95_theta[0]"),
    *("rhat_max", "ess_bulk_min", "ess_tail_min", "divergences", "tau_max", "acceptance", "khat"),
    *("is_efficiency", "log_evidence", "ppc_pvalue", "draws", "seconds", "attempt"),
]


def summary(engine, ids, **figures):
    constant = {"engine": engine, "verdict": "converged", "reason": ""}
    text = {name: np.array([value] * len(ids), dtype=object) for name, value in constant.items()}
    return {"dataset_id": np.array(ids, dtype=object), **text, **figures}


@pytest.fixture
def table():
    nuts = summary("nuts", ["b", "a"], divergences=np.array([0, 3]), rhat_max=np.array([1.0, np.nan]))
    snpe = summary("snpe", ["a", "b"], khat=np.array([0.5, 0.6]), draws=np.array([1000.0, np.nan]))
    return catalogue_table([nuts, snpe], PARAMETERS, ids_in_order=["a", "b"])


def test_columns_are_those_of_the_contract(table):
    assert table.column_names == CONTRACT
    assert columns(PARAMETERS) == tuple(CONTRACT)


def test_types(table):
    types = {field.name: field.type for field in table.schema}
    text, whole = (
        {"dataset_id", "engine", "verdict", "reason", "cause", "hint"},
        {"rung", "divergences", "draws", "attempt"},
    )
    for name, kind in types.items():
        expected = pa.string() if name in text else pa.int64() if name in whole else pa.float64()
        assert kind == expected, name


def test_figure_an_engine_has_not_is_null_and_never_zero(table):
    rows = {(row["engine"], row["dataset_id"]): row for row in table.to_pylist()}
    assert list(rows) == [("nuts", "a"), ("nuts", "b"), ("snpe", "a"), ("snpe", "b")]
    assert rows["nuts", "a"]["divergences"] == 3
    assert rows["nuts", "b"]["divergences"] == 0
    assert rows["nuts", "a"]["rhat_max"] is None
    assert rows["snpe", "a"]["divergences"] is None
    assert rows["snpe", "a"]["draws"] == 1000
    assert rows["snpe", "b"]["draws"] is None
    assert rows["nuts", "a"]["khat"] is None
    assert rows["nuts", "a"]["reason"] == ""


def test_without_an_order_rows_stay_as_they_came():
    table = catalogue_table([summary("nuts", ["b", "a"]), summary("nuts", ["c"])], [])
    assert table["dataset_id"].to_pylist() == ["b", "a", "c"]


def test_further_columns_follow_with_their_types():
    first = summary("nuts", ["a"], flags=np.array(["misfit"]), is_modal=np.array([True]), extra=np.array([1]))
    second = summary("snpe", ["a"], extra=np.array([0.5]))
    table = catalogue_table([first, second], PARAMETERS)
    assert table.column_names == [*CONTRACT, "extra", "flags", "is_modal"]
    assert table["extra"].to_pylist() == [1.0, 0.5]
    assert table["flags"].to_pylist() == ["misfit", None]
    assert table["is_modal"].to_pylist() == [True, None]


def test_no_summaries_give_an_empty_table_with_all_columns(tmp_path):
    table = catalogue_table([], PARAMETERS, ids_in_order=["a"])
    write_catalogue(tmp_path / "c.parquet", table)
    assert list(read_catalogue(tmp_path / "c.parquet")) == CONTRACT


def test_round_trip_is_deterministic_and_pandas_reads_it(tmp_path, table):
    for name in ("one", "two"):
        write_catalogue(tmp_path / name, table)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert pq.read_table(tmp_path / "one").equals(table)
    frame = read_catalogue(tmp_path / "one")
    assert frame["rung"].isna().all()
    assert frame["divergences"].tolist()[:2] == [3, 0]
    assert np.isnan(frame["divergences"].iloc[2])


def test_notes_on_the_whole_come_back(tmp_path, table):
    write_catalogue(tmp_path / "one", table, notes={"emcee_ranks_share": "walkers"})
    assert read_catalogue(tmp_path / "one").attrs == {"emcee_ranks_share": "walkers"}
    write_catalogue(tmp_path / "two", table)
    assert read_catalogue(tmp_path / "two").attrs == {}


def test_summaries_of_shards_fit(tmp_path):
    summaries = [read_summary(publish_sample(tmp_path, make_shard(0, ("a", "b", "c"))))]
    table = catalogue_table(summaries, PARAMETERS, ids_in_order=["c", "b", "a"])
    assert table["dataset_id"].to_pylist() == ["c", "b", "a"]
    assert table["attempt"].to_pylist() == [1, 1, 1]
    assert table["khat"].null_count == 3


@pytest.mark.parametrize(
    ("part", "order", "message"),
    [
        ({"dataset_id": np.array(["a"])}, None, r"lacks \['engine', 'verdict'\]"),
        (summary("nuts", ["a"], draws=np.array([1.5])), None, "'draws': expected whole numbers"),
        (summary("nuts", ["a"], khat=np.array(["bad"])), None, "'khat': expected double"),
        (summary("nuts", ["a", "z"]), ["a"], "data set 'z'"),
    ],
)
def test_summary_that_breaks_the_contract_is_refused(part, order, message):
    with pytest.raises(ChainsweepError, match=message):
        catalogue_table([part], PARAMETERS, order)


def test_missing_or_damaged_catalogue_says_what_to_do(tmp_path, table):
    path = tmp_path / "c.parquet"
    with pytest.raises(CampaignError, match="chainsweep merge"):
        read_catalogue(path)
    write_catalogue(path, table)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CampaignError, match="chainsweep merge"):
        read_catalogue(path)


def test_not_owner_does_not_publish(tmp_path, table):
    with pytest.raises(LostOwnership):
        write_catalogue(tmp_path / "c.parquet", table, still_owner=lambda: False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_cause_is_null_and_so_is_that_of_an_older_shard():
    words = {"cause": np.array(["misfit", ""], dtype=object), "hint": np.array(["look", ""], dtype=object)}
    newer = summary("nuts", ["a", "b"], edge=np.array(["", "a at 5"], dtype=object), **words)
    table = catalogue_table([newer, summary("snpe", ["a", "b"])], PARAMETERS)
    assert table["cause"].to_pylist() == ["misfit", None, None, None]
    assert table["hint"].to_pylist() == ["look", None, None, None]
    assert table["edge"].to_pylist() == [None, "a at 5", None, None]
    assert table["reason"].to_pylist() == [""] * 4
