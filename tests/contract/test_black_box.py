"""Black-box models through the engines that they can serve; one data set that breaks the user's function."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load_file

import chainsweep
from tests.conftest import LINE_CONFIG, line_data
from tests.contract.test_campaign import command, exact_posterior
from tests.snpe_lines import differing

MODEL = """
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}

def log_likelihood(params, x, y, y_err):
    if y[0] > 50:
        raise ValueError("detector saturated")
    residual = (y - params["a"] - params["b"] * x) / y_err
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * y_err**2))

def simulate(params, rng, x, y_err):
    return params["a"] + params["b"] * x + y_err * rng.standard_normal(x.shape)
"""

CONFIG = (
    LINE_CONFIG.replace('curve = "mu"\n', "")
    + """
[policy]
engines = ["emcee", "snpe"]

[engines.emcee]
walkers = 12
max_steps = 3000
prior_draws = 256

[engines.emcee.tuning]
check_every = 100

[engines.snpe]
train_steps = 200
bank_simulations = 2000
draws = 1000

[engines.snpe.tuning]
simulations_per_task = 1000

[report]
worst = 0
"""
)


def test_black_box_models_get_exact_posteriors_and_their_errors_stay_with_their_data_set(write_job, tmp_path):
    data = line_data(3)
    data["y"][1] += 100
    folder = tmp_path / "campaign"
    command("init", write_job(model=MODEL, config=CONFIG, data=data), "--out", folder)
    command("run", folder)
    campaign = chainsweep.open(folder)
    catalogue = campaign.catalogue().set_index(["dataset_id", "engine"])
    for engine in ("emcee", "snpe"):
        for dataset in ("000000", "000002"):
            row = catalogue.loc[(dataset, engine)]
            assert row["verdict"] == "converged", row["reason"]
            mean, sd = exact_posterior(folder, dataset)
            assert np.all(np.abs(row[["mean_a", "mean_b"]].to_numpy(float) - mean) < 0.2 * sd)
        broken = catalogue.loc[("000001", engine)]
        assert broken["verdict"] == "failed"
        assert "detector saturated" in broken["reason"]
    status = json.loads(command("status", folder, "--json").stdout)
    assert status["engines"]["emcee"]["failed"] == 1
    assert status["tasks"]["simulate"] == {"total": 2, "done": 2, "failed": 0}
    assert len(list(folder.glob("models/snpe-*/simulations/*.h5"))) == 2


def test_an_ensemble_is_trained_by_a_task_each_and_lost_work_is_not_done_again(write_job, tmp_path):
    config = CONFIG.replace('["emcee", "snpe"]', '["snpe"]').replace(
        "train_steps = 200", "train_steps = 60\nensemble = 2"
    )
    folder = tmp_path / "campaign"
    command("init", write_job(model=MODEL, config=config, data=line_data(3)), "--out", folder)
    command("run", folder)
    assert json.loads(command("status", folder, "--json").stdout)["tasks"]["train"] == {
        "total": 2,
        "done": 2,
        "failed": 0,
    }
    (network,) = folder.glob("models/snpe-*/network.safetensors")
    members = sorted(network.parent.glob("member-*.safetensors"))
    assert [path.name for path in members] == ["member-00.safetensors", "member-01.safetensors"]
    assert differing(*map(load_file, members))
    assert {path.name for path in network.parent.glob("*.csv")} >= {"history.csv", "history-member-01.csv"}
    whole, made = load_file(network), [path.stat().st_mtime_ns for path in members]
    for dataset in ("000000", "000001", "000002"):
        mean, _ = exact_posterior(folder, dataset)
        row = chainsweep.open(folder).catalogue().set_index("dataset_id").loc[dataset]
        assert row["verdict"] == "converged", row["reason"]
        assert np.all(
            np.abs(row[["mean_a", "mean_b"]].to_numpy(float) - mean) < 0.2 * row[["sd_a", "sd_b"]].to_numpy(float)
        )

    network.unlink()
    assert json.loads(command("status", folder, "--json").stdout)["tasks"]["train"]["done"] == 0
    command("run", folder)
    assert not differing(load_file(network), whole)
    assert [path.stat().st_mtime_ns for path in members] == made
    members[1].unlink()
    network.unlink()
    assert json.loads(command("status", folder, "--json").stdout)["tasks"]["train"]["done"] == 1
    command("task", folder, "train", 1)
    assert not differing(load_file(network), whole)
    assert members[0].stat().st_mtime_ns == made[0]


def test_without_a_likelihood_a_network_that_is_not_calibrated_verifies_nothing(write_job, tmp_path):
    model = MODEL[: MODEL.index("def log_likelihood")] + MODEL[MODEL.index("def simulate") :]
    config = CONFIG.replace('["emcee", "snpe"]', '["snpe"]').replace("train_steps = 200", "train_steps = 10")
    folder = tmp_path / "campaign"
    command("init", write_job(model=model, config=config, data=line_data(2)), "--out", folder)
    waits = command("task", folder, "train", 0, check=False)
    assert waits.returncode == 75
    assert "2 of 2 parts of the simulations are not made yet" in waits.stderr
    command("run", folder)
    catalogue = chainsweep.open(folder).catalogue()
    assert set(catalogue["verdict"]) == {"not_converged"}
    assert catalogue["reason"].str.contains("no likelihood").all()
    assert catalogue["reason"].str.contains("limit 0.05").all()
    assert catalogue["khat"].isna().all()
    assert catalogue["mean_a"].notna().all()
