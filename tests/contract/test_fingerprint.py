"""A density that is another than at init is refused when a task starts, by name; one that is the same is let be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.freeze import init_campaign
from chainsweep.errors import CampaignError
from chainsweep.stages.fingerprint import check_density
from tests.conftest import LINE_CONFIG, LINE_MODEL, line_data
from tests.contract.test_campaign import command

OF_THE_ENVIRONMENT = LINE_MODEL.replace("import numpyro\n", "import os\nimport numpyro\n", 1).replace(
    "dist.Normal(mu, y_err)", "dist.Normal(mu + float(os.environ['OFFSET']), y_err)"
)
HOST = """
import os
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}
calls = [0]

def log_likelihood(params, x, y, y_err):
    calls[0] += 1
    ACT
    residual = (y - params["a"] - params["b"] * x - float(os.environ["OFFSET"])) / y_err
    return -0.5 * np.sum(residual**2)
"""


@pytest.fixture
def frozen(write_job, tmp_path, monkeypatch):
    """A function that makes a campaign of data sets of several lengths, where the variable OFFSET is 0."""
    monkeypatch.setenv("OFFSET", "0")

    def make(model: str) -> Path:
        black_box = "log_likelihood" in model
        config = LINE_CONFIG.replace('curve = "mu"\n', "") if black_box else LINE_CONFIG
        path = write_job(model=model, config=config + '[policy]\nengines = ["emcee"]\n', data=line_data(3))
        init_campaign(path, tmp_path / "frozen")
        return tmp_path / "frozen"

    return make


@pytest.mark.parametrize("model", [OF_THE_ENVIRONMENT, HOST.replace("ACT", "pass")], ids=["numpyro", "black box"])
def test_a_density_that_changed_since_init_is_refused_by_name(frozen, monkeypatch, model):
    folder = frozen(model)
    campaign = Campaign(folder)
    (entry,) = campaign.resolved["density"]
    fields = campaign.dataset(entry["dataset"])[0]
    a, b = entry["at"][0]
    residual = (fields["y"] - a - b * fields["x"]) / fields["y_err"]
    exact = -0.5 * np.sum(residual**2) - (a**2 + b**2) / 8 - np.log(2 * np.pi * 4)
    if model is OF_THE_ENVIRONMENT:
        exact -= np.sum(np.log(np.sqrt(2 * np.pi) * fields["y_err"]))
    assert entry["log_density"][0] == pytest.approx(exact)
    check_density(campaign, 12)
    monkeypatch.setenv("OFFSET", "0.001")
    with pytest.raises(CampaignError, match="density changed since init: data set 000000: expected the log density"):
        check_density(Campaign(folder), 12)


def test_a_task_refuses_with_the_exit_code_of_a_changed_model(frozen, monkeypatch):
    folder = frozen(OF_THE_ENVIRONMENT)
    monkeypatch.setenv("OFFSET", "0.5")
    done = command("task", folder, "infer", 0, check=False)
    assert done.returncode == 65
    assert "the model's density changed since init: data set 000000" in done.stdout + done.stderr
    assert not list(folder.glob("shards/emcee/*.h5"))


def test_a_folder_without_a_fingerprint_is_let_be(frozen, monkeypatch):
    folder = frozen(OF_THE_ENVIRONMENT)
    resolved = json.loads((folder / "resolved.json").read_text())
    del resolved["density"]
    (folder / "resolved.json").write_text(json.dumps(resolved))
    monkeypatch.setenv("OFFSET", "0.5")
    campaign = Campaign(folder)
    campaign.verify()
    check_density(campaign, 12)


@pytest.mark.parametrize("act", ["os._exit(3)", "raise ValueError('no')", "x = x + calls[0]"])
def test_a_black_box_that_dies_fails_or_counts_its_calls_leaves_no_fingerprint_and_init_goes_on(frozen, act):
    folder = frozen(HOST.replace("ACT", act))
    assert "density" not in Campaign(folder).resolved
    assert not (folder / "density.json").exists()
    assert os.environ["OFFSET"] == "0"
