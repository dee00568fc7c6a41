"""Causes of what is not ``converged``: planted troubles through real engines and the real judge, each found again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainsweep
from chainsweep.campaign.campaign import Campaign
from chainsweep.config.sections import VerdictSection
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.engines.snpe.inference import NOT_FINITE
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.failing import Failing
from chainsweep.numerics.seeds import Seeds
from chainsweep.tasks.failures import CAUSES, Kind, record_failure
from chainsweep.verdicts import judge as judging
from chainsweep.verdicts.causes import Cause
from chainsweep.verdicts.judge import judge
from tests.conftest import LINE_CONFIG, line_data
from tests.contract.test_campaign import command
from tests.planted import JAX_MODEL, judged_emcee, judged_nuts, planted, rows_of
from tests.snpe_lines import exact_posterior, line_batch, line_problem

EXPECTED_OF_NUTS = {
    "fine": Cause.TOO_FEW_DRAWS,
    "several modes": Cause.SEVERAL_MODES,
    "edge of the prior": Cause.PRIOR_EDGE,
    "root of a negative number": Cause.DENSITY_NOT_A_NUMBER,
    "infinite": Cause.INFINITE_DENSITY,
    "underflow": Cause.UNDERFLOW,
    "gradient": Cause.GRADIENT_NOT_A_NUMBER,
    "misfit": Cause.MISFIT,
    "funnel": Cause.DIVERGENCES,
    "NaN everywhere": Cause.DENSITY_NOT_A_NUMBER,
}
PLACES_OF_NUTS = {
    "fine": "[engines.nuts] draws",
    "several modes": "a near -",
    "edge of the prior": "a at 5:",
    "root of a negative number": "a = 0.",
    "gradient": "the gradient by a",
    "misfit": "p-value 0",
    "funnel": "divergences ",
}
EXPECTED_OF_EMCEE = {
    "fine": Cause.TOO_FEW_DRAWS,
    "noisy": Cause.NOT_A_FUNCTION,
    "state": Cause.NOT_A_FUNCTION,
    "infinite": Cause.INFINITE_DENSITY,
    "needle": Cause.UNDERFLOW,
    "NaN": Cause.DENSITY_NOT_A_NUMBER,
    "raises": Cause.MODEL_ERROR,
    "flat": Cause.TOO_FEW_DRAWS,
    "huge": Cause.INFINITE_DENSITY,
}


def test_the_causes_of_planted_jax_models_with_a_small_budget(tmp_path):
    rows = judged_nuts(tmp_path, draws=100, warmup=200)
    assert {name: row["cause"] for name, row in rows.items()} == EXPECTED_OF_NUTS
    for name, place in PLACES_OF_NUTS.items():
        assert place in rows[name]["hint"], rows[name]["hint"]
    assert [name for name, row in rows.items() if "prior_edge" in row["flags"]] == ["edge of the prior"]
    assert rows["edge of the prior"]["edge"] == "a at 5"


def test_the_causes_of_planted_black_boxes_with_a_small_budget(tmp_path):
    rows = judged_emcee(tmp_path, max_steps=400, walkers=16, prior_draws=256)
    assert {name: row["cause"] for name, row in rows.items()} == EXPECTED_OF_EMCEE
    assert "[engines.emcee] max_steps" in rows["fine"]["hint"]


def exact_draws(batch: Any, chains: int = 4, draws: int = 400) -> np.ndarray:
    """Independent draws of the exact posteriors, ``(dataset, chain, draw, 2)``."""
    noise, made = np.random.default_rng(2).standard_normal((chains * draws, 2)), []
    for position in range(len(batch)):
        mean, covariance, _ = exact_posterior(batch, position)
        made.append((mean + noise @ np.linalg.cholesky(covariance).T).reshape(chains, draws, 2))
    return np.array(made)


def test_a_mode_without_draws_and_a_chain_that_stands_still(tmp_path):
    """Exact draws of one of two modes alone; of both modes; and with a chain at one point."""
    problem = line_problem(tmp_path, JAX_MODEL)
    batch = planted({"one mode": (1, 3.0), "two modes": (1, 3.0), "still": (0, 0.0)})
    draws = np.random.default_rng(5).normal(0.0, 0.4 / np.sqrt(14), (3, 4, 400, 2))
    draws[..., 1] *= np.sqrt(14 / (batch.fields["x"][0] ** 2).sum())
    for k in range(3):
        x, y = batch.fields["x"][k], batch.fields["y"][k]
        draws[k, ..., 0] += y.mean()
        draws[k, ..., 1] += (x * y).sum() / (x**2).sum()
    draws[1, :2, :, 0] *= -1.0
    draws[2, 1] = draws[2, 1, :1]
    info = {"seconds": np.ones(3), "acceptance": np.ones((3, 4))}
    chains = Chains(DrawKind.MARKOV, draws, {}, np.full(3, 400), info, {})
    rows = rows_of(judge(chains, BatchedProblem(problem, batch), VerdictSection(), Seeds(1, "nuts")))
    assert {name: row["cause"] for name, row in rows.items()} == {
        "one mode": Cause.MASS_ELSEWHERE,
        "two modes": Cause.SEVERAL_MODES,
        "still": Cause.STUCK,
    }
    assert "all along chain 1" in rows["still"]["hint"]


WEIGHTED = {
    "good": ({}, ""),
    "uneven": ({"khat": 0.9}, Cause.POOR_PROPOSAL),
    "unlike": ({"khat": 0.9, "ood_pvalue": 1e-5}, Cause.UNLIKE_TRAINING),
    "few": ({"ess": 50.0}, Cause.TOO_FEW_DRAWS),
    "few and unlike": ({"ess": 50.0, "ood_pvalue": 1e-5}, Cause.UNLIKE_TRAINING),
    "refused": (f"{Failing.NOT_TRAINED}: design x is 0 to 9, trained on 0 to 1", Cause.UNLIKE_TRAINING),
    "infinite data": (NOT_FINITE, Cause.BAD_DATA),
    "killed": (f"log_likelihood{Failing.DIED}(signal SIGKILL)", Cause.LOST_PROCESS),
    "endless": (f"log_likelihood{Failing.OVERRAN}= 1 s for data set endless", Cause.CALL_TIMEOUT),
    "check": (f"{Failing.CHECK_RAISED}LinAlgError: singular", Cause.INTERNAL_ERROR),
    "engine": ("FloatingPointError: overflow raised", Cause.INTERNAL_ERROR),
}


def test_the_causes_of_weighted_draws_and_of_failures(tmp_path):
    """Exact draws of equal weights, with figures and failures as an engine gives them."""
    problem, batch = line_problem(tmp_path), replace(line_batch(len(WEIGHTED)), ids=tuple(WEIGHTED))
    theta = exact_draws(batch, chains=1, draws=1600)
    info = {"khat": 0.1, "ess": 1600.0, "ood_pvalue": 0.5, "miscalibration": 0.0, "seconds": 1.0}
    columns = {name: np.full(len(batch), value) for name, value in info.items()}
    failures, n_draws = {}, np.full(len(batch), 1600)
    for row, (change, _) in enumerate(WEIGHTED.values()):
        if isinstance(change, str):
            failures[row], n_draws[row] = change, 0
        else:
            for name, value in change.items():
                columns[name][row] = value
    stats = {"log_weight": np.zeros(theta.shape[:3])}
    chains = Chains(DrawKind.WEIGHTED, theta, stats, n_draws, columns, failures)
    rows = rows_of(judge(chains, BatchedProblem(problem, batch), VerdictSection(), Seeds(1, "snpe")))
    assert {name: row["cause"] for name, row in rows.items()} == {name: cause for name, (_, cause) in WEIGHTED.items()}
    assert all(bool(row["hint"]) == bool(row["cause"]) for row in rows.values())
    assert not any(row["edge"] for row in rows.values())


def test_a_check_that_proves_nothing_and_a_network_without_a_likelihood(tmp_path, monkeypatch):
    problem, batch = line_problem(tmp_path), line_batch(1)
    real = judging.check_chains

    def unsure(*arguments):
        check = real(*arguments)
        return replace(check, conclusive=check.conclusive & False)

    monkeypatch.setattr(judging, "check_chains", unsure)
    info = {"seconds": np.ones(1), "acceptance": np.ones((1, 4))}
    chains = Chains(DrawKind.MARKOV, exact_draws(batch), {}, np.full(1, 400), info, {})
    batched = BatchedProblem(problem, batch)
    (row,) = rows_of(judge(chains, batched, VerdictSection(), Seeds(1, "nuts"))).values()
    assert row["cause"] == Cause.MODE_CHECK_INCONCLUSIVE
    assert "k-hat" in row["hint"]
    dropped = {"dropped_by": np.zeros(1), "dropped_share": np.full(1, 0.3)}
    chains = replace(chains, info=info | dropped)
    (row,) = rows_of(judge(chains, batched, VerdictSection(), Seeds(1, "nuts"))).values()
    assert row["cause"] == Cause.SIMULATIONS_DROPPED


EDGES = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, centre, y=None):
    low = numpyro.sample("low", dist.Uniform(0, 10))
    flat = numpyro.sample("flat", dist.Uniform(-1, 1))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    cut = numpyro.sample("cut", dist.TruncatedNormal(0, 3, low=2))
    share = numpyro.sample("share", dist.Beta(0.5, 0.5))
    free = numpyro.sample("free", dist.Normal(0, 1))
    below = numpyro.sample("below", dist.Uniform(-3, low))
    numpyro.sample("obs", dist.Normal(low * x, y_err), obs=y)
"""


def test_only_piles_at_chosen_ends_of_a_prior_are_flagged(tmp_path):
    """A pile, a flat posterior, a scale near 0, a truncated half-line, a prior that piles up itself, a moving bound."""
    from chainsweep.verdicts.prior_edge import piled_up

    problem, batch = line_problem(tmp_path, EDGES), line_batch(3)
    rng, shape = np.random.default_rng(0), (3, 4, 250)
    theta = np.empty((*shape, 7))
    theta[..., 0] = np.abs(rng.normal(0, 0.3, shape))
    theta[1, ..., 0] = np.abs(rng.normal(2.0, 0.3, shape[1:]))
    theta[2, ..., 0] = 10 - np.abs(rng.normal(0, 1.0, shape[1:]))
    theta[..., 1] = rng.uniform(-1, 1, shape)
    theta[..., 2] = np.abs(rng.normal(0, 0.1, shape))
    theta[..., 3] = 2 + np.abs(rng.normal(0, 0.1, shape))
    theta[1, ..., 3] = rng.normal(4, 0.1, shape[1:])
    theta[..., 4] = rng.beta(0.5, 0.5, shape)
    theta[..., 5] = rng.normal(0, 0.1, shape)
    theta[..., 6] = theta[..., 0] - np.abs(rng.normal(0, 0.01, shape))
    chains = Chains(DrawKind.MARKOV, theta, {}, np.full(3, 250))
    found = piled_up(BatchedProblem(problem, batch), chains, Seeds(1, "nuts"))
    assert found == {0: "low at 0, cut at 2", 2: "low at 10, cut at 2"}


@pytest.fixture
def swept(write_job, tmp_path) -> Path:
    """A campaign of two data sets by two engines, one of them quarantined; nothing is run."""
    data = line_data(3)
    data["y"][2, 0] = np.nan
    config = LINE_CONFIG + '[policy]\nengines = ["emcee", "nuts"]\n[shards]\nsize = 1\n[report]\nworst = 0\n'
    folder = tmp_path / "sweep"
    command("init", write_job(config=config, data=data), "--out", folder)
    return folder


def test_what_a_task_ends_with_is_the_cause_of_its_data_sets(swept):
    campaign = Campaign(swept)
    command("task", swept, "infer", 0)
    merged = {}
    for kind in Kind:
        record_failure(campaign.paths.shard("nuts", 1), kind, "the reason", 70)
        command("merge", swept, check=False)
        catalogue = chainsweep.open(swept).catalogue().set_index(["engine", "dataset_id"])
        merged[kind] = catalogue.loc[("nuts", "000001")]
        if len(merged) == 3:
            break
    for kind, row in merged.items():
        assert (row["verdict"], row["cause"]) == ("failed", CAUSES[kind])
        assert row["hint"].startswith(f"{kind}: ")
    assert catalogue.loc[("nuts", "000002"), "cause"] == "bad_data"
    pending = catalogue[catalogue["verdict"] == "pending"]
    good = catalogue[catalogue["verdict"] == "converged"]
    assert len(pending)
    assert len(good)
    assert pending["cause"].isna().all()
    assert good["cause"].isna().all()
    told = json.loads(command("status", swept, "--json").stdout)
    assert told["causes"]["nuts"] == {str(CAUSES[kind]): 1, "bad_data": 1}
