"""A whole campaign through the command line, for real: init, run, status, merge, report, show, export."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import chainsweep
from chainsweep.engines.nuts.attempts import DEFAULT_LANES
from chainsweep.errors import StoppedEarly
from chainsweep.store.shard import read_header
from tests.conftest import LINE_CONFIG, LINE_MODEL, line_data

SMALL = """
[engines.emcee]
walkers = 12
max_steps = 4000
prior_draws = 512

[engines.emcee.tuning]
check_every = 100

[engines.nuts]
warmup = 200
draws = 300

[engines.nuts.tuning]
block = 100
prior_draws = 256
descents = 4

[engines.snpe]
train_steps = 150
draws = 1000

[engines.snpe.tuning]
transforms = 3
hidden = 48
embedding = 24

[shards]
size = 4

[report]
worst = 1
"""


def command(*arguments: str | Path | int, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "chainsweep", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, **options)
    if check:
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done


def posterior_content(folder: Path) -> dict[str, np.ndarray]:
    content: dict[str, np.ndarray] = {}

    def keep(name: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind != "O":
            content[name] = node[()]

    with h5py.File(folder / "posterior.h5") as file:
        file.visititems(keep)
    return content


def assert_same_draws(one: Path, other: Path) -> None:
    first, second = posterior_content(one), posterior_content(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A campaign of ten lines (ragged, three engines) run with two workers, under a path with odd characters."""
    folder = tmp_path_factory.mktemp("it's a sweep")
    (folder / "model.py").write_text(LINE_MODEL)
    (folder / "campaign.toml").write_text(LINE_CONFIG + SMALL)
    data = line_data(10)
    for name in ("x", "y", "y_err"):
        data[name][7:, 9:] = np.nan
    data["y"][3, 2] = np.nan
    np.savez(folder / "data.npz", **data)
    command("init", folder / "campaign.toml", "--out", folder / "camp aign")
    command("run", folder / "camp aign", "--workers", "2")
    return folder / "camp aign"


def test_every_data_set_gets_a_verdict_from_every_engine(finished):
    status = json.loads(command("status", finished, "--json").stdout)
    assert status["campaign"] == "lines"
    assert status["datasets"] == 9
    assert status["quarantined"] == 1
    for engine in ("emcee", "nuts", "snpe"):
        assert sum(status["engines"][engine].values()) == 10
        assert status["engines"][engine]["bad_data"] == 1
        assert status["engines"][engine]["pending"] == 0
        assert status["engines"][engine]["failed"] == 0
        assert status["engines"][engine]["converged"] >= 8
    assert status["tasks"]["infer"] == {"total": 9, "done": 9, "failed": 0}


def test_the_catalogue_has_a_row_for_everyone_and_agrees_with_status(finished):
    status = json.loads(command("status", finished, "--json").stdout)
    catalogue = chainsweep.open(finished).catalogue()
    assert catalogue.groupby("engine")["dataset_id"].nunique().to_dict() == {"emcee": 10, "nuts": 10, "snpe": 10}
    for engine, counts in status["engines"].items():
        found = catalogue.loc[catalogue["engine"] == engine, "verdict"].value_counts()
        assert {name: int(found.get(name, 0)) for name in counts} == counts
    bad = catalogue[catalogue["verdict"] == "bad_data"]
    assert bad["dataset_id"].tolist() == ["000003"] * 3
    assert bad["reason"].str.startswith("nan: ").all()
    assert bad["mean_a"].isna().all()
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    assert "1 bad data" in page


def test_what_has_no_shard_is_pending_in_catalogue_and_report(finished, tmp_path):
    sweep = Path(shutil.copytree(finished, tmp_path / "sweep"))
    campaign = chainsweep.open(sweep)
    campaign.paths.shard("nuts", 0).unlink()
    lost = [campaign.collection.ids[position] for position in campaign.shards[0].positions.tolist()]
    assert command("merge", sweep, check=False).returncode == StoppedEarly.exit_code
    catalogue = campaign.catalogue()
    pending = catalogue[catalogue["verdict"] == "pending"]
    assert pending["dataset_id"].tolist() == lost
    assert set(pending["engine"]) == {"nuts"}
    assert set(pending["reason"]) == {"not done yet"}
    assert catalogue.groupby("engine")["dataset_id"].nunique().to_dict() == {"emcee": 10, "nuts": 10, "snpe": 10}
    command("report", sweep)
    assert f"{len(lost)} pending" in (sweep / "report" / "index.html").read_text(encoding="utf-8")


def tried(folder: Path) -> pd.DataFrame:
    """The rows of the catalogue that an engine has judged."""
    catalogue = chainsweep.open(folder).catalogue()
    return catalogue[~catalogue["verdict"].isin(["bad_data", "pending"])]


def exact_posterior(folder: Path, dataset_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of intercept and slope: a linear model with Gaussian prior and errors."""
    fields, _ = chainsweep.open(folder).dataset(dataset_id)
    design = np.stack([np.ones_like(fields["x"]), fields["x"]], axis=1)
    precision = design.T @ (design / fields["y_err"][:, None] ** 2) + np.eye(2) / 4
    mean = np.linalg.solve(precision, design.T @ (fields["y"] / fields["y_err"] ** 2))
    return mean, np.sqrt(np.diag(np.linalg.inv(precision)))


def test_the_three_posteriors_are_the_exact_one(finished):
    catalogue = chainsweep.open(finished).catalogue()
    converged = catalogue[catalogue["verdict"] == "converged"]
    assert len(converged) >= 24
    for _, row in converged.iterrows():
        mean, sd = exact_posterior(finished, row["dataset_id"])
        found = np.array([row["mean_a"], row["mean_b"]])
        assert np.all(np.abs(found - mean) < 0.2 * sd), row["engine"]
        np.testing.assert_allclose([row["sd_a"], row["sd_b"]], sd, rtol=0.15, err_msg=row["engine"])


@pytest.mark.parametrize("engine", ["emcee", "nuts", "snpe"])
def test_a_wrong_posterior_would_be_seen(finished, engine):
    """The twin: the exact posterior of another data set is far off."""
    campaign = chainsweep.open(finished)
    row = campaign.catalogue().set_index(["engine", "dataset_id"]).loc[(engine, campaign.collection.ids[0])]
    mean, sd = exact_posterior(finished, campaign.collection.ids[-1])
    assert np.any(np.abs(np.array([row["mean_a"], row["mean_b"]]) - mean) > 0.5 * sd)


def test_log_evidence_is_exact(finished):
    campaign = chainsweep.open(finished)
    catalogue = campaign.catalogue()
    rows = catalogue[(catalogue["engine"] == "snpe") & (catalogue["verdict"] == "converged")]
    for _, row in rows.iterrows():
        fields, _ = campaign.dataset(row["dataset_id"])
        design = np.stack([np.ones_like(fields["x"]), fields["x"]], axis=1)
        covariance = np.diag(fields["y_err"] ** 2) + 4 * design @ design.T
        _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        exact = -0.5 * (log_det + fields["y"] @ np.linalg.solve(covariance, fields["y"]))
        assert row["log_evidence"] == pytest.approx(exact, abs=0.1)


def test_figures_that_an_engine_has_not_are_null(finished):
    catalogue = tried(finished).set_index("engine")
    assert catalogue.loc["nuts", "tau_max"].isna().all()
    assert catalogue.loc["emcee", "divergences"].isna().all()
    assert catalogue.loc["snpe", "rhat_max"].isna().all()
    assert catalogue.loc["snpe", "khat"].notna().all()


def test_a_shard_says_what_it_was_computed_on(finished):
    made = read_header(finished / "shards" / "nuts" / "00000.h5").provenance
    assert made["device"].startswith("cpu")
    assert made["precision"] == "float64"
    assert made["programs"] > made["cache_hits"] or made["load_seconds"] > 0
    assert made["trace_seconds"] > 0.1
    catalogue = tried(finished).set_index("engine")
    assert (catalogue.loc["nuts", "lanes"] == DEFAULT_LANES).all()
    assert catalogue.loc["emcee", "lanes"].isna().all()


def test_chains_start_from_another_campaigns_draws(finished, tmp_path):
    """``init`` freezes them, so that a change over there changes nothing here."""
    for name in ("model.py", "data.npz"):
        shutil.copy(finished.parent / name, tmp_path)
    named = SMALL.replace("[engines.nuts]", f"[engines.nuts]\nstarts_from = {json.dumps(str(finished))}")
    (tmp_path / "campaign.toml").write_text(LINE_CONFIG + named + '\n[policy]\nengines = ["nuts"]\n')
    command("init", tmp_path / "campaign.toml", "--out", tmp_path / "next")
    made, theirs = chainsweep.open(tmp_path / "next"), chainsweep.open(finished).draws("snpe")
    assert "starts.h5" in made.resolved["files"]
    with h5py.File(tmp_path / "next" / "starts.h5") as file:
        frozen = file["draws"][...]
    for row, name in enumerate(made.collection.ids):
        assert np.isin(frozen[row, :, 0], theirs["a"].sel(dataset=name).values.ravel()).all()
    computed(tmp_path / "next")
    assert (tried(tmp_path / "next")["verdict"] == "converged").all()


def computed(folder: Path, backwards: bool = False) -> None:
    """Do all inference tasks in one process, and merge."""
    campaign = chainsweep.open(folder)
    tasks = range(len(campaign.engines) * len(campaign.shards))
    command("task", folder, "infer", *(reversed(tasks) if backwards else tasks))
    command("merge", folder)


def served(finished: Path, folder: Path, data: dict[str, np.ndarray], model: str = LINE_MODEL) -> Path:
    """A campaign of SNPE alone whose network is that of ``finished``."""
    (folder / "model.py").write_text(model)
    np.savez(folder / "data.npz", **data)
    named = SMALL.replace("[engines.snpe]", f"[engines.snpe]\nmodel = {json.dumps(str(finished))}")
    (folder / "campaign.toml").write_text(LINE_CONFIG + named + '\n[policy]\nengines = ["snpe"]\n')
    return folder / "next"


def test_a_trained_network_serves_another_campaign(finished, tmp_path):
    """Nothing is trained; data sets unlike those it was trained for have no draws, and say why."""
    data = line_data(6, seed=5)
    data["y_err"][2] *= 10.0
    data["x"][4] += 7.0
    campaign = served(finished, tmp_path, data)
    command("init", tmp_path / "campaign.toml", "--out", campaign)
    assert "network.safetensors" in chainsweep.open(campaign).resolved["files"]
    computed(campaign)
    status = json.loads(command("status", campaign, "--json").stdout)
    assert "train" not in status["tasks"] or status["tasks"]["train"]["total"] == 0
    assert not (campaign / "models").exists()
    catalogue = chainsweep.open(campaign).catalogue().set_index("dataset_id")
    ids = chainsweep.open(campaign).collection.ids
    for row, name in enumerate(ids):
        verdict, reason = catalogue.loc[name, ["verdict", "reason"]]
        if row in (2, 4):
            assert verdict == "failed"
            assert f"not trained for it: design {'y_err' if row == 2 else 'x'} is" in reason
        else:
            assert verdict == "converged"
            mean, sd = exact_posterior(campaign, name)
            assert np.all(np.abs(catalogue.loc[name, ["mean_a", "mean_b"]] - mean) < 0.25 * sd)


def test_a_network_of_another_prior_serves_no_data_set(finished, tmp_path):
    campaign = served(
        finished, tmp_path, line_data(3), LINE_MODEL.replace('"b", dist.Normal(0, 2)', '"b", dist.Normal(0, 4)')
    )
    command("init", tmp_path / "campaign.toml", "--out", campaign)
    computed(campaign)
    catalogue = chainsweep.open(campaign).catalogue()
    assert (catalogue["verdict"] == "failed").all()
    assert catalogue["reason"].str.contains("prior b is").all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('sample("a"', 'sample("other"'), "prior other"),
        (lambda text: text.replace("x, y_err, y=None", "x, y_err, offset, y=None"), "constant offset"),
    ],
)
def test_a_network_of_another_model_is_refused_at_once(finished, tmp_path, change, words):
    data = line_data(3)
    campaign = served(finished, tmp_path, data, change(LINE_MODEL))
    if "constant" in words:
        np.savez(tmp_path / "data.npz", **data, offset=np.ones(3))
        text = (tmp_path / "campaign.toml").read_text()
        (tmp_path / "campaign.toml").write_text(text.replace("[data]", '[data]\nconstants = ["offset"]'))
    refused = command("init", tmp_path / "campaign.toml", "--out", campaign, check=False)
    assert refused.returncode == 65
    assert words in refused.stderr
    assert not campaign.exists()


def test_a_folder_without_a_network_is_named(finished, tmp_path):
    campaign = served(tmp_path / "nowhere", tmp_path, line_data(3))
    refused = command("init", tmp_path / "campaign.toml", "--out", campaign, check=False)
    assert refused.returncode == 65
    assert "nowhere: expected one trained network" in refused.stderr


def test_draws_of_another_model_are_no_start(finished, tmp_path):
    for name in ("model.py", "data.npz"):
        shutil.copy(finished.parent / name, tmp_path)
    model = (tmp_path / "model.py").read_text()
    (tmp_path / "model.py").write_text(model.replace('sample("a"', 'sample("other"'))
    named = SMALL.replace("[engines.nuts]", f"[engines.nuts]\nstarts_from = {json.dumps(str(finished))}")
    (tmp_path / "campaign.toml").write_text(LINE_CONFIG + named)
    refused = command("init", tmp_path / "campaign.toml", "--out", tmp_path / "next", check=False)
    assert refused.returncode == 65
    assert "'other'" in refused.stderr
    assert not (tmp_path / "next").exists()


def test_python_interface(finished):
    campaign = chainsweep.open(finished)
    with campaign.draws("emcee") as draws:
        assert draws["a"].dims == ("dataset", "chain", "draw")
        assert list(draws["dataset"].values) == campaign.collection.ids
        given = campaign.posterior(campaign.collection.ids[0], "nuts")
    assert given["posterior"]["a"].dims == ("chain", "draw")
    assert "diverging" in given["sample_stats"]
    row = campaign.catalogue().set_index(["engine", "dataset_id"]).loc["nuts"].iloc[0]
    summary = pytest.importorskip("arviz").summary(given, round_to="none")
    assert summary.loc["a", "mean"] == pytest.approx(row["mean_a"], abs=0.1 * row["sd_a"])


def test_show_and_export(finished, tmp_path):
    shown = json.loads(command("show", finished, "000000", "--json").stdout)
    assert shown["engines"]["nuts"]["verdict"] == "converged"
    assert shown["truth"].keys() == {"a", "b"}
    assert shown["figures"]
    assert all(Path(path).is_file() for path in shown["figures"])
    assert "converged" in command("show", finished, "000000").stdout
    for fmt, name in (("netcdf", "draws.nc"), ("emcee", "chain.h5"), ("getdist", "root")):
        arguments = ("export", finished, "--id", "000000", "--engine", "snpe", "--format", fmt, "--out")
        written = command(*arguments, tmp_path / name).stdout.split("\n")
        assert Path(written[0]).is_file()
        assert command(*arguments, tmp_path / name, check=False).returncode == 65
    unknown = command("show", finished, "nobody", check=False)
    assert unknown.returncode == 65
    assert "nobody" in unknown.stderr


def test_the_report_stands_alone(finished):
    page = (finished / "report" / "index.html").read_text()
    assert "lines" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_a_second_run_changes_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in (finished / "shards").rglob("*.h5")}
    command("run", finished, "--workers", "1")
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "shards").rglob("*.h5")}


def copy_of(finished: Path, to: Path) -> Path:
    """The same frozen campaign with nothing computed yet."""
    shutil.copytree(finished, to, ignore=shutil.ignore_patterns("shards", "models", "posterior.h5", "*.parquet"))
    return to


def test_tasks_by_hand_in_reverse_order_give_the_same_bits(finished, tmp_path):
    again = copy_of(finished, tmp_path / "again")
    command("task", again, "train", "0")
    computed(again, backwards=True)
    assert_same_draws(finished, again)
    # what the first campaign compiled serves the second, wherever that lies
    made = [read_header(path).provenance for path in (again / "shards").rglob("0*.h5")]
    assert [each["cache_hits"] for each in made] == [each["programs"] for each in made]
    assert sum(each["programs"] for each in made) > 10


def until_a_task_runs(folder: Path, since: float) -> None:
    """Wait until a worker has claimed a task after the time ``since``, and a little longer."""
    given_up = time.monotonic() + 120
    while not any(path.stat().st_mtime > since for path in folder.rglob(".attempt-*.json")):
        assert time.monotonic() < given_up, "no task was claimed within two minutes"
        time.sleep(0.1)
    time.sleep(2.0)


def test_a_kill_and_ctrl_c_in_mid_run_change_no_bit(finished, tmp_path):
    """A kill leaves no word; Ctrl-C saves the state and exits with 75; ``status`` says what runs and what stopped."""
    again = copy_of(finished, tmp_path / "again")
    line = [sys.executable, "-m", "chainsweep", "run", str(again), "--workers", "2"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until_a_task_runs(again, 0.0)
    status = json.loads(command("status", again, "--json").stdout)
    assert all(task["here"] for task in status["running_tasks"])
    assert status["running_tasks"]
    assert status["interrupted_tasks"] == []
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 75, stderr
    ended = json.loads(command("status", again, "--json").stdout)["interrupted_tasks"]
    assert {entry["kind"] for entry in ended} == {"stopped, its state is saved"}
    assert "Continue with" in stderr

    stopped = time.time()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until_a_task_runs(again, stopped)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads(command("status", again, "--json").stdout)["running_tasks"] == []
    command("run", again)
    assert_same_draws(finished, again)
    assert not list(again.rglob(".state-*"))


def test_another_shard_size_agrees_within_monte_carlo_error(finished, tmp_path):
    job = finished.parent
    config = (job / "campaign.toml").read_text().replace("size = 4", "size = 9")
    (job / "other.toml").write_text(config + '\n[policy]\nengines = ["emcee", "nuts"]\n')
    command("init", job / "other.toml", "--out", tmp_path / "other")
    computed(tmp_path / "other")
    one, other = tried(finished), tried(tmp_path / "other")
    both = one.merge(other, on=["dataset_id", "engine"], suffixes=("", "_other"))
    assert len(both) == 18
    for name in ("a", "b"):
        difference = np.abs(both[f"mean_{name}"] - both[f"mean_{name}_other"]) / both[f"sd_{name}"]
        error = np.sqrt(1 / both["ess_bulk_min"] + 1 / both["ess_bulk_min_other"])
        assert (difference < 5 * error).all()


@pytest.mark.parametrize(
    ("name", "change"),
    [("model.py", "\n# touched\n"), ("data.h5", "x"), ("campaign.toml", "\n"), ("resolved.json", " ")],
)
def test_a_changed_campaign_refuses_and_says_what(finished, tmp_path, name, change):
    again = copy_of(finished, tmp_path / "again")
    path = again / name
    if name == "resolved.json":
        path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    else:
        with path.open("a") as handle:
            handle.write(change)
    done = command("run", again, check=False)
    assert done.returncode == 65
    assert name in done.stderr
    assert not (again / "shards").exists()
