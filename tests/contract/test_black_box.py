"""Black-box models through the engines that they can serve; one data set that breaks the user's function."""

from __future__ import annotations

import json

import numpy as np

import chainsweep
from tests.conftest import LINE_CONFIG, line_data
from tests.contract.test_campaign import command, exact_posterior

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
check_every = 100
max_steps = 3000
prior_draws = 256

[engines.snpe]
train_steps = 200
bank_simulations = 2000
checkpoint_steps = 100
draws = 1000

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


def test_without_a_likelihood_nothing_is_called_converged(write_job, tmp_path):
    model = MODEL[: MODEL.index("def log_likelihood")] + MODEL[MODEL.index("def simulate") :]
    config = CONFIG.replace('["emcee", "snpe"]', '["snpe"]')
    folder = tmp_path / "campaign"
    command("init", write_job(model=model, config=config, data=line_data(2)), "--out", folder)
    command("run", folder)
    catalogue = chainsweep.open(folder).catalogue()
    assert set(catalogue["verdict"]) == {"not_converged"}
    assert catalogue["reason"].str.contains("no likelihood").all()
    assert catalogue["khat"].isna().all()
    assert catalogue["mean_a"].notna().all()
