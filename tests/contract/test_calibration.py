"""Networks that claim more than they know are refused; without a likelihood calibration and the OOD test decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import chainsweep
from tests.conftest import LINE_CONFIG, LINE_MODEL, line_data
from tests.contract.test_campaign import command, exact_posterior

NETWORK = """
[policy]
engines = ["snpe"]

[engines.snpe]
train_steps = 400
bank_simulations = 4000
draws = 1000

[engines.snpe.tuning]
hidden = 32
transforms = 2

[report]
worst = 0
"""
SERVED = """
[policy]
engines = ["snpe"]

[engines.snpe]
model = "{network}"
draws = 1000

[report]
worst = 0
"""
SIMULATOR = """
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}

def simulate(params, rng, x, y_err):
    return params["a"] + params["b"] * x + y_err * rng.standard_normal(x.shape)
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function that writes a job and freezes its campaign."""

    def frozen(engine: str, model: str = LINE_MODEL, data: dict | None = None) -> Path:
        folder = tmp_path_factory.mktemp("job")
        (folder / "model.py").write_text(model)
        config = LINE_CONFIG if "numpyro.sample" in model else LINE_CONFIG.replace('curve = "mu"\n', "")
        (folder / "campaign.toml").write_text(config + engine)
        np.savez(folder / "data.npz", **(data if data is not None else line_data(40)))
        command("init", folder / "campaign.toml", "--out", folder / "campaign")
        return folder / "campaign"

    return frozen


@pytest.fixture(scope="module")
def overconfident(make) -> Path:
    """A campaign whose simulator makes a third of the noise that its errors say, trained."""
    folder = make(NETWORK, LINE_MODEL.replace("dist.Normal(mu, y_err)", "dist.Normal(mu, 0.33 * y_err)"))
    command("task", folder, "train", 0)
    return folder


@pytest.fixture(scope="module")
def trained(make) -> Path:
    """A campaign with the right model, some of whose data sets are like no simulation; run."""
    data = line_data(40)
    data["y"][7, ::2] += 40
    data["y"][8] = 3.0
    data["y"][9, 3] += 50 * data["y_err"][9, 3]
    data["y"][10, 2] = np.nan
    folder = make(NETWORK, data=data)
    command("run", folder)
    return folder


def weights_folder(campaign: Path) -> Path:
    return next(campaign.glob("models/snpe-*"))


def test_calibration_stands_beside_the_weights_and_passes(trained):
    record = json.loads((weights_folder(trained) / "calibration.json").read_text())
    assert record["passed"] is record["usable"] is True
    assert {figure["figure"] for figure in record["figures"]} == {"a", "b", "density", "tarp"}
    assert {figure["stratum"] for figure in record["figures"]} == {"all", "little", "more", "most"}
    again = json.loads(command("calibrate", trained, "--json").stdout)
    assert again["passed"] is again["usable"] is True
    assert again["figures"] != record["figures"]
    shown = command("calibrate", trained).stdout
    assert "passed" in shown
    assert "90%" in shown


def test_a_data_set_like_no_simulation_is_flagged_and_its_exact_verdict_stays(trained):
    catalogue = chainsweep.open(trained).catalogue().set_index("dataset_id")
    odd, others = catalogue.loc["000007"], catalogue.drop(["000007", "000009", "000010"])
    assert odd["ood_pvalue"] < 0.001
    assert odd["ood_distance"] > 2
    assert "unlike_simulations" in odd["flags"]
    assert (others["ood_pvalue"] > 0.001).all()
    assert not others["flags"].str.contains("unlike").any()
    assert (others["verdict"] == "converged").all()


def test_outliers_constant_data_and_nan_have_typed_verdicts(trained):
    campaign = chainsweep.open(trained)
    catalogue = campaign.catalogue().set_index("dataset_id")
    assert len(catalogue) == 40
    assert catalogue.loc["000010", "verdict"] == "bad_data"
    assert campaign.quarantine()["dataset_id"].tolist() == ["000010"]
    outlier, constant = catalogue.loc["000009"], catalogue.loc["000008"]
    assert outlier["verdict"] == constant["verdict"] == "converged"
    assert "misfit" in outlier["flags"]
    for dataset in ("000008", "000009"):
        mean, sd = exact_posterior(trained, dataset)
        row = catalogue.loc[dataset]
        assert np.all(np.abs(row[["mean_a", "mean_b"]].to_numpy(float) - mean) < 0.2 * sd)


def test_its_own_simulations_do_not_show_a_wrong_simulator_but_another_campaigns_do(make, overconfident):
    own = json.loads((weights_folder(overconfident) / "calibration.json").read_text())
    assert own["usable"]
    folder = make(SERVED.format(network=overconfident))
    tried = command("calibrate", folder, check=False)
    assert tried.returncode == 65
    assert "claims more than it knows" in tried.stderr
    assert not json.loads((folder / "calibration.json").read_text())["usable"]
    refused = command("run", folder, check=False)
    assert refused.returncode == 65
    assert "failed its calibration" in refused.stderr
    assert "--uncalibrated" in refused.stderr
    assert not list((folder / "shards").rglob("*.h5"))
    task = command("task", folder, "infer", 0, check=False)
    assert task.returncode == 65
    command("run", folder, "--uncalibrated")
    catalogue = chainsweep.open(folder).catalogue()
    # exact weights show it as well: the wide kernel, a fifth of the proposal, does most of the work
    assert catalogue["proposal_efficiency"].median() < 0.3
    assert (catalogue["verdict"] == "converged").all()
    command("run", folder)


def test_without_a_likelihood_calibration_and_the_ood_test_decide(make):
    data = line_data(6)
    data["y"][2, ::2] += 40
    folder = make(NETWORK, SIMULATOR, data)
    command("run", folder)
    catalogue = chainsweep.open(folder).catalogue().set_index("dataset_id")
    odd, others = catalogue.loc["000002"], catalogue.drop("000002")
    assert odd["verdict"] == "not_converged"
    assert "out of distribution" in odd["reason"]
    assert (others["verdict"] == "converged").all(), others["reason"].tolist()
    assert others["reason"].str.contains("no likelihood").all()
    assert catalogue["khat"].isna().all()


def test_there_must_be_a_network_to_calibrate(make):
    folder = make('[policy]\nengines = ["emcee"]\n')
    done = command("calibrate", folder, check=False)
    assert done.returncode == 2
    assert "no amortised network" in done.stderr
    folder = make(NETWORK)
    done = command("calibrate", folder, check=False)
    assert done.returncode == 75
    assert "not trained yet" in done.stderr
