"""One data set in other tools' formats, opened by those tools."""

import h5py
import numpy as np
import pytest
import xarray as xr

from chainsweep.errors import CampaignError, InputError
from chainsweep.store import export
from chainsweep.store.draws import DatasetDraws, equal_weights, flat_columns, read_draws
from chainsweep.store.export import ExportExtras, draws_tree, export_dataset, for_arviz
from chainsweep.store.merged import merge
from chainsweep.store.shard import read_shard
from tests.unit.store_samples import CAMPAIGN, make_shard, publish_sample

NAMES = ["slope", "l", "theta[0]", "theta[1]"]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A merged file: nuts shards of unlike lengths, and weighted snpe draws."""
    folder = tmp_path_factory.mktemp("campaign")
    empty = make_shard(2, ("none",), draws=0)
    nuts = [make_shard(0, ("a", "b"), draws=40), make_shard(1, ("c", "d"), chains=3, draws=50), empty]
    paths = {"nuts": [publish_sample(folder, shard) for shard in nuts]}
    weighted = make_shard(0, ("a", "b"), engine="snpe", chains=1, draws=400, weighted=True)
    paths["snpe"] = [publish_sample(folder, weighted)]
    merge(paths, ["a", "b", "c", "d", "none"], folder / "posterior.h5", {"campaign_hash": CAMPAIGN})
    return folder


@pytest.fixture
def source(campaign):
    return campaign / "posterior.h5"


def test_read_draws_cuts_the_padding(campaign, source):
    whole, short = read_draws(source, "a", "nuts"), read_draws(source, "b", "nuts")
    shard = read_shard(campaign / "nuts" / "0.h5")
    assert list(whole.posterior) == ["slope", "l", "theta"]
    np.testing.assert_array_equal(whole.posterior["theta"], shard.posterior["theta"][0])
    np.testing.assert_array_equal(whole.sample_stats["diverging"], shard.sample_stats["diverging"][0])
    assert whole.sample_stats["diverging"].dtype == bool
    assert short.posterior["l"].shape == (2, 20)
    assert np.isfinite(short.posterior["l"]).all()
    assert (whole.kind, read_draws(source, "a", "snpe").kind) == ("markov", "weighted")


def test_netcdf_opens_in_arviz(source, tmp_path):
    az = pytest.importorskip("arviz")
    out = tmp_path / "b.nc"
    extras = ExportExtras(observed_data={"y": np.arange(5.0)}, constant_data={"x": np.arange(5.0)})
    assert export_dataset(source, "b", "nuts", "netcdf", out, extras) == (out,)
    idata = az.from_netcdf(out)
    assert set(idata.groups()) == {"posterior", "sample_stats", "observed_data", "constant_data"}
    np.testing.assert_array_equal(idata.posterior["l"], read_draws(source, "b", "nuts").posterior["l"])
    assert idata.posterior.attrs["dataset_id"] == "b"
    assert idata.sample_stats["diverging"].dtype == bool
    np.testing.assert_array_equal(idata.observed_data["y"], np.arange(5.0))
    assert list(az.summary(idata).index) == NAMES


def test_arviz_takes_what_it_is_given(source, monkeypatch):
    """The installed one, and by its version one that takes trees, or none at all; the groups are the same."""
    az = pytest.importorskip("arviz")
    tree = draws_tree(read_draws(source, "b", "nuts"))
    given = for_arviz(tree)
    assert list(az.summary(given).index) == NAMES
    assert float(az.rhat(given)["l"]) < 1.1
    assert given.sample_stats["diverging"].dims == ("chain", "draw")
    np.testing.assert_array_equal(given["posterior"]["theta"], tree["posterior"]["theta"])
    for known in ({"arviz": "1.3.0"}, {"arviz": "10.0.0rc1"}, {}):
        monkeypatch.setattr(export, "versions", lambda name, known=known: known)
        given = for_arviz(tree)
        assert given is tree
        assert given.sample_stats["diverging"].dims == ("chain", "draw")
    if int(az.__version__.partition(".")[0]) < 1:
        with pytest.raises(TypeError, match="DataTree"):
            az.summary(tree)


@pytest.mark.parametrize("opened", ["xarray", True, False, "best-effort"])
def test_draws_are_read_while_the_file_is_held_open(source, opened):
    """HDF5 refuses a second open with other locking; the last check shows that it does."""
    if opened == "xarray":
        held = xr.open_dataset(source, group="nuts/posterior", engine="h5netcdf")
    else:
        held = h5py.File(source, "r", locking=opened)
    with held:
        assert read_draws(source, "a", "nuts").posterior["l"].shape == (2, 40)
        with pytest.raises(OSError, match="file locking flag values don't match"):
            h5py.File(source, "r", locking=opened is False)
    read_draws(source, "a", "nuts")


def test_draws_tree_has_the_groups_of_arviz_and_no_padding(source):
    tree = draws_tree(read_draws(source, "b", "nuts"))
    assert set(tree.children) == {"posterior", "sample_stats"}
    assert tree["posterior"].sizes == {"chain": 2, "draw": 20, "theta_dim_0": 2}
    assert list(tree["posterior"].data_vars) == ["slope", "l", "theta"]


def test_netcdf_of_weighted_draws_keeps_and_announces_the_weights(source, tmp_path):
    az = pytest.importorskip("arviz")
    export_dataset(source, "a", "snpe", "netcdf", tmp_path / "a.nc")
    idata = az.from_netcdf(tmp_path / "a.nc")
    assert idata.sample_stats["log_weight"].shape == (1, 400)
    assert "log_weight" in idata.posterior.attrs["weights"]


def test_emcee_opens_its_backend(source, tmp_path):
    emcee = pytest.importorskip("emcee")
    out = tmp_path / "c.h5"
    export_dataset(source, "c", "nuts", "emcee", out)
    backend, draws = emcee.backends.HDFBackend(out, read_only=True), read_draws(source, "c", "nuts")
    assert backend.iteration == 50
    assert backend.shape == (3, 4)
    assert not backend.has_blobs()
    expected = np.stack(list(flat_columns(draws.posterior).values()), axis=-1).swapaxes(0, 1)
    np.testing.assert_array_equal(backend.get_chain(), expected)
    np.testing.assert_array_equal(backend.get_log_prob(), draws.sample_stats["lp"].T)
    assert backend.get_chain(flat=True, discard=10, thin=2).shape == (60, 4)
    assert np.isnan(backend.accepted).all()
    with h5py.File(out) as file:
        assert list(file["mcmc"].attrs["parameters"]) == NAMES
        assert "resampled" not in file["mcmc"].attrs


def test_emcee_gets_weighted_draws_with_equal_weights(source, tmp_path):
    emcee = pytest.importorskip("emcee")
    for name in ("one", "two"):
        export_dataset(source, "a", "snpe", "emcee", tmp_path / name)
    chains = [emcee.backends.HDFBackend(tmp_path / name).get_chain() for name in ("one", "two")]
    np.testing.assert_array_equal(*chains)
    draws = read_draws(source, "a", "snpe")
    weights = np.exp(draws.sample_stats["log_weight"][0])
    expected = np.average(draws.posterior["l"][0], weights=weights)
    assert chains[0].shape == (400, 1, 4)
    assert abs(chains[0][:, 0, 1].mean() - expected) < 0.02
    assert abs(draws.posterior["l"].mean() - expected) > 0.02
    with h5py.File(tmp_path / "one") as file:
        assert "seed 0" in file["mcmc"].attrs["resampled"]


def test_resampling_takes_each_draw_floor_or_ceil_of_its_share():
    weights = np.array([0.5, 0.26, 0.24, 0.0])
    with np.errstate(divide="ignore"):
        stats = {"log_weight": np.log(weights)[None]}
    draws = DatasetDraws("a", "snpe", "weighted", {"l": np.arange(4.0)[None]}, stats)
    equal = equal_weights(draws)
    counts = np.bincount(equal.posterior["l"][0].astype(int), minlength=4)
    assert counts[0] == 2
    assert set(counts[1:3]) <= {0, 1, 2}
    assert counts[3] == 0
    assert "log_weight" not in equal.sample_stats


def test_resampling_refuses_draws_without_any_weight():
    stats = {"log_weight": np.full((1, 4), -np.inf)}
    draws = DatasetDraws("a", "snpe", "weighted", {"l": np.arange(4.0)[None]}, stats)
    with pytest.raises(InputError, match="finite weight"):
        equal_weights(draws)


@pytest.mark.parametrize("out", ["chain", "chain.txt"])
def test_getdist_columns(source, tmp_path, out):
    files = export_dataset(source, "a", "nuts", "getdist", tmp_path / out, ExportExtras(labels={"l": r"\ell"}))
    assert files == (tmp_path / "chain.txt", tmp_path / "chain.paramnames")
    rows, draws = np.loadtxt(files[0]), read_draws(source, "a", "nuts")
    assert rows.shape == (80, 6)
    assert (rows[:, 0] == 1).all()
    np.testing.assert_allclose(rows[:, 1], -draws.sample_stats["lp"].ravel(), rtol=1e-8)
    np.testing.assert_allclose(rows[:, 5], draws.posterior["theta"][..., 1].ravel(), rtol=1e-8)
    lines = [line.split("\t") for line in files[1].read_text().splitlines()]
    assert lines == [["slope", "slope"], ["l", r"\ell"], *([name, name] for name in NAMES[2:])]


def test_getdist_keeps_weights(source, tmp_path):
    rows = np.loadtxt(export_dataset(source, "a", "snpe", "getdist", tmp_path / "w")[0])
    log_weight = read_draws(source, "a", "snpe").sample_stats["log_weight"][0]
    np.testing.assert_allclose(rows[:, 0], np.exp(log_weight - log_weight.max()), rtol=1e-8)


@pytest.mark.parametrize(("fmt", "taken"), [("netcdf", "x"), ("emcee", "x"), ("getdist", "x.paramnames")])
def test_existing_file_is_not_overwritten(source, tmp_path, fmt, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_dataset(source, "a", "nuts", fmt, tmp_path / "x")
    assert (tmp_path / taken).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("dataset_id", "engine", "fmt", "message"),
    [
        ("zzz", "nuts", "netcdf", "no data set 'zzz'"),
        ("a", "emcee", "netcdf", "no engine 'emcee'; it has nuts, snpe"),
        ("none", "nuts", "emcee", "has no draws"),
        ("a", "nuts", "csv", "expected one of netcdf, emcee, getdist"),
    ],
)
def test_what_cannot_be_exported_says_why(source, tmp_path, dataset_id, engine, fmt, message):
    with pytest.raises(InputError, match=message):
        export_dataset(source, dataset_id, engine, fmt, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_missing_or_damaged_posterior_is_a_campaign_error(source, tmp_path):
    with pytest.raises(CampaignError, match="chainsweep merge"):
        export_dataset(tmp_path / "none.h5", "a", "nuts", "netcdf", tmp_path / "out")
    (tmp_path / "cut.h5").write_bytes(source.read_bytes()[:-100])
    with pytest.raises(CampaignError, match="chainsweep merge"):
        export_dataset(tmp_path / "cut.h5", "a", "nuts", "netcdf", tmp_path / "out")
