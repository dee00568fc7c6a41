"""The merged posterior: right rows, padded, deterministic, flat in memory, open to everyone."""

import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
import xarray as xr

from chainsweep.errors import ChainsweepError
from chainsweep.publish import LostOwnership
from chainsweep.store.merged import SCHEMA, merge
from chainsweep.store.shard import Shard, ShardError, ShardHeader, publish_shard, read_shard
from tests.unit.store_samples import CAMPAIGN, make_shard, publish_sample

ORDER = ["d", "a", "x", "c", "e", "b", "f"]
ATTRS = {"campaign_hash": CAMPAIGN, "seed": 1, "git_commit": "none", "chainsweep": "0.1.0"}


@pytest.fixture
def shards(tmp_path):
    """Two nuts shards of unlike lengths that interleave in campaign order; 'x' was never published."""
    return [
        publish_sample(tmp_path / "shards", make_shard(0, ("a", "b", "c"), chains=2, draws=6)),
        publish_sample(tmp_path / "shards", make_shard(1, ("d", "e", "f"), chains=3, draws=4)),
    ]


@pytest.fixture
def merged(tmp_path, shards):
    path = tmp_path / "posterior.h5"
    report = merge({"nuts": shards}, ORDER, path, ATTRS)
    assert report.datasets == {"nuts": 6}
    assert report.rejected == {}
    return path


def posterior(path, group="nuts/posterior"):
    with xr.open_dataset(path, group=group, engine="h5netcdf") as dataset:
        return dataset.load()


def test_rows_stand_in_campaign_order_with_every_draw(merged, shards):
    dataset, stats = posterior(merged), posterior(merged, "nuts/sample_stats")
    assert dataset["dataset"].values.tolist() == ["d", "a", "c", "e", "b", "f"]
    assert list(dataset.data_vars) == ["slope", "l", "theta"]
    for path in shards:
        shard = read_shard(path)
        chains, draws = shard.posterior["l"].shape[1:3]
        for row, dataset_id in enumerate(shard.ids):
            one = dataset.sel(dataset=dataset_id)
            for name, values in shard.posterior.items():
                np.testing.assert_array_equal(one[name][:chains, :draws], values[row])
                assert np.isnan(one[name][chains:]).all()
                assert np.isnan(one[name][:, draws:]).all()
            other = stats.sel(dataset=dataset_id)
            assert int(other["n_draws"]) == shard.n_draws[row]
            for name, values in shard.sample_stats.items():
                np.testing.assert_array_equal(other[name][:chains, :draws], values[row])


def test_types_and_padding(merged):
    dataset, stats = posterior(merged), posterior(merged, "nuts/sample_stats")
    assert dataset["theta"].dims == ("dataset", "chain", "draw", "theta_dim_0")
    assert dataset["theta"].shape == (6, 3, 6, 2)
    assert dataset["l"].dtype == np.float32
    assert stats["lp"].dtype == np.float64
    assert stats["diverging"].dtype == bool
    assert not stats["diverging"].sel(dataset="a")[2].any()
    assert np.isnan(stats["depth"].sel(dataset="a")[2]).all()
    assert dataset["chain"].values.tolist() == [0, 1, 2]
    assert dataset["theta_dim_0"].values.tolist() == [0, 1]


def test_root_attributes(merged):
    with h5py.File(merged) as file:
        assert file.attrs["schema"] == SCHEMA
        assert {name: file.attrs[name] for name in ATTRS} == ATTRS
        assert file["nuts"].attrs["kind"] == "markov"
        assert not file["nuts/posterior/l"].is_virtual


def test_every_axis_is_a_netcdf_dimension(merged):
    with h5py.File(merged) as file:
        for group in file["nuts"].values():
            for name, array in group.items():
                if array.is_scale:
                    assert "_Netcdf4Dimid" in array.attrs, name
                else:
                    dims = [dimension[0].name.rsplit("/", 1)[1] for dimension in array.dims]
                    assert dims[:1] == ["dataset"], name


def test_merging_twice_gives_the_same_bytes_in_another_process(merged, shards, tmp_path):
    again = tmp_path / "again.h5"
    code = f"""
from pathlib import Path
from chainsweep.store.merged import merge
shards = [Path(path) for path in {[str(path) for path in reversed(shards)]}]
merge({{"nuts": shards}}, {ORDER}, Path({str(again)!r}), {ATTRS})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert again.read_bytes() == merged.read_bytes()


def test_missing_and_damaged_shards_are_left_out_and_reported(tmp_path, shards, merged):
    bad = publish_sample(tmp_path / "bad", make_shard(2, ("x",)))
    with h5py.File(bad) as file:
        offset = file["posterior/l"].id.get_offset()
    content = bytearray(bad.read_bytes())
    content[offset] ^= 1
    bad.write_bytes(content)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(shards[0].read_bytes()[:-9])
    missing = tmp_path / "none.h5"
    path = tmp_path / "partial.h5"
    report = merge({"nuts": [*shards, bad, cut, missing], "snpe": [missing]}, ORDER, path, ATTRS)
    assert report.datasets == {"nuts": 6, "snpe": 0}
    reasons = {bad: "checksum", cut: "truncated", missing: "missing"}
    assert set(report.rejected) == set(reasons)
    for file, reason in reasons.items():
        assert reason in report.rejected[file]
    assert path.read_bytes() == merged.read_bytes()


def test_shards_of_another_campaign_engine_or_layout_are_reported(tmp_path, shards):
    other = publish_sample(tmp_path / "other", make_shard(2, ("x",), engine="emcee"))
    unlike = publish_sample(tmp_path / "unlike", make_shard(3, ("x",), weighted=True))
    report = merge({"nuts": [*shards, other, unlike]}, ORDER, tmp_path / "p.h5", ATTRS)
    assert "engine 'nuts'" in report.rejected[other]
    assert "log_weight" in report.rejected[unlike]
    assert merge({"nuts": shards}, ORDER, tmp_path / "q.h5", ATTRS | {"campaign_hash": "z"}).datasets == {"nuts": 0}


def test_data_set_in_two_shards_is_refused(tmp_path, shards):
    twin = publish_sample(tmp_path / "twin", make_shard(2, ("x", "a")))
    with pytest.raises(ShardError, match="data set 'a'"):
        merge({"nuts": [*shards, twin]}, ORDER, tmp_path / "p.h5", ATTRS)


def test_data_set_the_campaign_has_not_is_refused(tmp_path, shards):
    with pytest.raises(ShardError, match="the campaign has not"):
        merge({"nuts": shards}, ["a", "b", "c"], tmp_path / "p.h5", ATTRS)


def test_campaign_hash_must_be_given_and_ownership_kept(tmp_path, shards):
    with pytest.raises(ChainsweepError, match="campaign_hash"):
        merge({"nuts": shards}, ORDER, tmp_path / "p.h5", {"seed": 1})
    with pytest.raises(LostOwnership):
        merge({"nuts": shards}, ORDER, tmp_path / "p.h5", ATTRS, still_owner=lambda: False)
    assert not (tmp_path / "p.h5").exists()


def test_engines_with_unlike_chains_share_the_file(tmp_path, shards):
    weighted = publish_sample(tmp_path, make_shard(0, ("a", "d"), engine="snpe", chains=1, draws=9, weighted=True))
    report = merge({"nuts": shards, "snpe": [weighted]}, ORDER, tmp_path / "p.h5", ATTRS)
    assert report.datasets == {"nuts": 6, "snpe": 2}
    snpe = posterior(tmp_path / "p.h5", "snpe/sample_stats")
    assert snpe["log_weight"].shape == (2, 1, 9)
    assert snpe["dataset"].values.tolist() == ["d", "a"]


def test_float64_of_one_shard_is_kept_for_all(tmp_path, shards):
    sharp = make_shard(2, ("x",))
    sharp.posterior["l"] = 59000.123 + 1e-3 * sharp.posterior["l"]
    merge({"nuts": [*shards, publish_sample(tmp_path, sharp)]}, ORDER, tmp_path / "p.h5", ATTRS)
    dataset = posterior(tmp_path / "p.h5")
    assert dataset["l"].dtype == np.float64
    np.testing.assert_array_equal(dataset["l"].sel(dataset="x")[:2, :6], sharp.posterior["l"][0])


def test_memory_does_not_grow_with_the_campaign(tmp_path):
    rng, count, lead = np.random.default_rng(0), 10, (100, 4, 250)
    ids = np.array([f"{number:05d}" for number in range(count * lead[0])])
    paths = []
    for number, own in enumerate(np.array_split(rng.permutation(ids), count)):
        draws = {"l": rng.normal(size=lead), "a": rng.normal(size=lead), "b": rng.normal(size=lead)}
        header = ShardHeader("nuts", "markov", number, CAMPAIGN, 1, {})
        shard = Shard(header, tuple(own.tolist()), draws, {"lp": draws["l"]}, np.full(lead[0], 250), {})
        paths.append(tmp_path / f"{number}.h5")
        publish_shard(paths[-1], shard)
    tracemalloc.start()
    merge({"nuts": paths}, ids.tolist(), tmp_path / "p.h5", {"campaign_hash": CAMPAIGN})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "p.h5").stat().st_size > 20e6
    assert peak < 5e6


READER = """
import sys
sys.modules["chainsweep"] = None
import arviz as az, xarray as xr
path = sys.argv[1]
one = xr.open_dataset(path, group="nuts/posterior", engine="h5netcdf").sel(dataset="a")
assert one["theta"].dims == ("chain", "draw", "theta_dim_0"), one
tree = xr.open_datatree(path, group="nuts", engine="h5netcdf")
assert set(tree.children) == {"posterior", "sample_stats"}, tree
idata = az.InferenceData.from_netcdf(path, base_group="nuts").sel(dataset="a").isel(chain=[0, 1])
for source in (idata, az.convert_to_inference_data(one.isel(chain=[0, 1]))):
    table = az.summary(source)
    assert list(table.index) == ["slope", "l", "theta[0]", "theta[1]"], table
    assert table["r_hat"].notna().all(), table
"""


def test_xarray_and_arviz_read_it_without_chainsweep(merged):
    command = [sys.executable, "-W", "ignore", "-I", "-c", READER, str(merged)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
