"""A shard file comes back as written, and whatever is wrong with one is told apart."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from chainsweep.publish import LostOwnership
from chainsweep.store.content import ContentHash
from chainsweep.store.shard import (
    ShardError,
    publish_shard,
    read_header,
    read_shard,
    read_summary,
    stream_shard,
    validate_shard,
)
from tests.unit.store_samples import CAMPAIGN, make_shard, publish_sample

IDS = ("a", "b", "c")
EXPECTED = {"campaign_hash": CAMPAIGN, "engine": "nuts", "shard": 0, "ids": IDS}


@pytest.fixture
def path(tmp_path):
    return publish_sample(tmp_path, make_shard())


def test_round_trip(path):
    shard, back = make_shard(), read_shard(path)
    assert back.header == shard.header
    assert {type(value) for value in back.header.provenance.values()} == {str, float, bool, int}
    assert back.ids == IDS
    assert list(back.posterior) == ["slope", "l", "theta"]
    for name, values in shard.posterior.items():
        assert back.posterior[name].dtype == np.float32
        np.testing.assert_allclose(back.posterior[name], values, rtol=1e-6)
    for name, values in shard.sample_stats.items():
        assert back.sample_stats[name].dtype == values.dtype
        np.testing.assert_array_equal(back.sample_stats[name], values)
    np.testing.assert_array_equal(back.n_draws, [6, 6, 3])
    for name, column in shard.summary.items():
        np.testing.assert_array_equal(back.summary[name], column)


def test_log_weight_and_lp_stay_float64_and_other_stats_do_not(tmp_path):
    shard = make_shard(weighted=True)
    shard.sample_stats["energy"] = np.ones((3, 2, 6))
    stats = read_shard(publish_sample(tmp_path, shard)).sample_stats
    assert stats["lp"].dtype == stats["log_weight"].dtype == np.float64
    assert stats["energy"].dtype == np.float32


def test_parameter_that_float32_would_blur_is_kept_in_float64(tmp_path):
    shard = make_shard()
    shard.posterior["l"] = 59000.123 + 1e-3 * shard.posterior["l"]
    back = read_shard(publish_sample(tmp_path, shard)).posterior
    assert back["slope"].dtype == np.float32
    np.testing.assert_array_equal(back["l"], shard.posterior["l"])


def test_overflow_of_float32_is_kept_in_float64(tmp_path):
    shard = make_shard()
    shard.posterior["l"] = 1e300 * shard.posterior["l"]
    np.testing.assert_array_equal(read_shard(publish_sample(tmp_path, shard)).posterior["l"], shard.posterior["l"])


def test_shard_without_any_draw_is_valid(tmp_path):
    shard = make_shard(draws=0)
    shard.summary["verdict"][:] = ["bad_data"] * 3
    path = publish_sample(tmp_path, shard)
    validate_shard(path, **EXPECTED)
    assert read_shard(path).posterior["theta"].shape == (3, 2, 0, 2)


def test_read_summary_adds_whose_rows_they_are(path):
    summary = read_summary(path)
    assert list(summary["dataset_id"]) == list(IDS)
    assert set(summary["engine"]) == {"nuts"}
    assert summary["attempt"].tolist() == [1, 1, 1]
    assert np.isnan(summary["khat"]).all()
    assert set(read_summary(path, ["verdict", "absent"])) == {"dataset_id", "engine", "attempt", "verdict"}


def test_valid_shard_passes_deep_and_shallow(path):
    assert validate_shard(path, **EXPECTED) == make_shard().header
    assert validate_shard(path, **EXPECTED, deep=False) == read_header(path)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"campaign_hash": "other"}, "wrong campaign_hash: expected 'other', got 'c0ffee'"),
        ({"engine": "emcee"}, "wrong engine"),
        ({"shard": 7}, "wrong shard"),
        ({"ids": ("a", "c", "b")}, "same ids in another order"),
        ({"ids": ("a", "b")}, "wrong ids"),
        ({"ids": ("a", "b", "d")}, r"1 of them missing \['d'\], 1 others \['c'\]"),
    ],
)
def test_shard_of_something_else_is_refused(path, change, message, deep):
    with pytest.raises(ShardError, match=message):
        validate_shard(path, **{**EXPECTED, **change}, deep=deep)


@pytest.mark.parametrize("deep", [True, False])
def test_missing_and_empty_files_are_told_apart(tmp_path, deep):
    with pytest.raises(ShardError, match="missing"):
        validate_shard(tmp_path / "none.h5", **EXPECTED, deep=deep)
    (tmp_path / "empty.h5").touch()
    with pytest.raises(ShardError, match="zero bytes"):
        validate_shard(tmp_path / "empty.h5", **EXPECTED, deep=deep)


@pytest.mark.parametrize("deep", [True, False])
def test_truncated_file_is_refused(path, deep):
    content = path.read_bytes()
    for fraction in (0.0005, 0.01, 0.3, 0.6, 0.9, 0.9999):
        path.write_bytes(content[: max(1, int(fraction * len(content)))])
        with pytest.raises(ShardError, match=r"truncated|unreadable"):
            validate_shard(path, **EXPECTED, deep=deep)


def test_file_that_is_no_hdf5_is_refused(path):
    path.write_text("chain 1, chain 2")
    with pytest.raises(ShardError, match="unreadable"):
        validate_shard(path, **EXPECTED)


def test_zeroed_tail_of_the_right_length_is_refused(path):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(ShardError):
        validate_shard(path, **EXPECTED)


@pytest.mark.parametrize("name", ["posterior/l", "posterior/theta", "sample_stats/lp", "summary/mean_l", "n_draws"])
def test_flipped_byte_in_any_array_is_found_by_its_checksum(path, name):
    with h5py.File(path) as file:
        offset = file[name].id.get_offset() + 5
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ShardError, match="checksum mismatch"):
        validate_shard(path, **EXPECTED)
    with pytest.raises(ShardError, match="checksum mismatch"):
        read_shard(path)
    with pytest.raises(ShardError, match="checksum mismatch"):
        list(stream_shard(path))


def test_no_flipped_byte_anywhere_changes_what_is_read_unnoticed(path):
    content, honest = path.read_bytes(), read_shard(path)
    for offset in np.random.default_rng(0).integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[offset] ^= 0x41
        path.write_bytes(damaged)
        try:
            found = read_shard(path)
        except ShardError:
            continue
        assert (found.header, found.ids) == (honest.header, honest.ids), offset
        for part in ("posterior", "sample_stats", "summary"):
            for name, values in getattr(honest, part).items():
                np.testing.assert_array_equal(getattr(found, part)[name], values)


def test_changed_provenance_breaks_the_checksum(path):
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = '{"numpy": "3"}'
    with pytest.raises(ShardError, match="checksum mismatch"):
        validate_shard(path, **EXPECTED)


def test_array_added_later_breaks_the_checksum(path):
    with h5py.File(path, "r+") as file:
        file["posterior/extra"] = np.zeros((3, 2, 6))
    with pytest.raises(ShardError, match="checksum mismatch"):
        validate_shard(path, **EXPECTED)


@pytest.mark.parametrize(
    ("name", "message"),
    [("complete", "incomplete"), ("schema", "schema"), ("sha256", "checksum"), ("kind", "unread")],
)
def test_lost_attribute_is_refused(path, name, message):
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    with pytest.raises(ShardError, match=message):
        validate_shard(path, **EXPECTED)


def test_not_owner_does_not_publish(path):
    before = path.read_bytes()
    with pytest.raises(LostOwnership):
        publish_shard(path, make_shard(), still_owner=lambda: False)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["0.h5"]


def bad_shards():
    shard = make_shard()
    narrow = {"l": shard.posterior["l"][:, :1]}
    yield "one shape", replace(shard, posterior=shard.posterior | narrow)
    yield "columns of shape", replace(shard, summary={"verdict": ["converged"]})
    yield "n_draws must lie in", replace(shard, n_draws=np.array([6, 6, 7]))
    yield "cannot be stored", replace(shard, posterior={"scope/l": shard.posterior["l"]})
    yield "cannot be stored", replace(shard, posterior={"draw": shard.posterior["l"]})
    yield "repeated ids", replace(shard, ids=("a", "a", "b"))
    yield "expected float, int, bool or str", replace(shard, summary={"verdict": [None, "x", "y"]})
    yield "provenance", replace(shard, header=replace(shard.header, provenance={"x": None}))


@pytest.mark.parametrize(("message", "shard"), list(bad_shards()))
def test_shard_that_does_not_fit_together_is_not_written(tmp_path, message, shard):
    with pytest.raises(ShardError, match=message):
        publish_shard(tmp_path / "0.h5", shard)
    assert list(tmp_path.iterdir()) == []


def test_checksum_does_not_depend_on_blocks_or_layout(tmp_path):
    values = np.arange(60.0).reshape(10, 6)
    with h5py.File(tmp_path / "chunked.h5", "w") as file:
        stored = file.create_dataset("x", data=values, chunks=(3, 2), compression="gzip")
        digests = set()
        for source in (values, np.asfortranarray(values), stored):
            for block_bytes in (1, 100, 10**6):
                digest = ContentHash({"k": 1})
                list(digest.blocks({"x": source}, block_bytes))
                digests.add(digest.hexdigest())
    assert len(digests) == 1
    assert ContentHash({"k": 1}).feed({"x": values.reshape(6, 10)}).hexdigest() not in digests
    assert ContentHash({"k": 1}).feed({"y": values}).hexdigest() not in digests


def test_checksum_separates_texts():
    lists = [["ab", "c"], ["a", "bc"], ["abc", ""]]
    digests = {ContentHash({}).feed({"id": np.array(one, dtype=object)}).hexdigest() for one in lists}
    assert len(digests) == 3
