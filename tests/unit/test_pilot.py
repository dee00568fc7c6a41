"""The pilot and what is predicted from it: figures for a user, nothing that a draw could depend on."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.freeze import init_campaign
from chainsweep.cli import app, planned
from chainsweep.errors import ChainsweepError, ConfigError
from chainsweep.forecast import pilot
from chainsweep.forecast.pilot import Spread, Timing, read_pilot, run_pilot, spread_of
from chainsweep.slurm import cost
from chainsweep.slurm.cost import predict_cost
from chainsweep.slurm.plan import Limits, SubmissionOrder, plan_jobs
from chainsweep.slurm.site import Site
from chainsweep.slurm.submit import Queued, Selection, missing_tasks
from tests.conftest import LINE_CONFIG, LINE_MODEL, ROOT, line_data, write_lines
from tests.engine_settings import changed

SMALL = """
[shards]
size = 5
[policy]
engines = {engines}
[engines.emcee]
spread = "{spread}"
[engines.nuts]
chains = 2
warmup = 60
draws = 60
[engines.nuts.tuning]
block = 60
attempts = 1
prior_draws = 64
descents = 1
[engines.snpe]
draws = 300
[engines.snpe.tuning]
adaptive_rounds = 1
batch = 256
hidden = 16
transforms = 2
"""
BLACK_BOX = """
import time
import numpyro.distributions as dist

prior = {{"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}}

def log_likelihood(params, x, y, y_err):
    time.sleep({seconds})
    return -0.5 * float((((y - params["a"] - params["b"] * x) / y_err) ** 2).sum())
"""
SIMULATOR = """
import time
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}

def simulate(params, rng, x, y_err):
    time.sleep(0.0005)
    return params["a"] + params["b"] * x + y_err * rng.standard_normal(x.shape)
"""
ENGINES = '["emcee", "nuts", "snpe"]'
WIDE = Limits(max_array_size=1001, max_jobs=1_000_000)
EMPTY = Site(name="s", device="cpu")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A function that gives the frozen folder of 12 lines in three shards; each is made once."""

    @cache
    def folder(engines: str, spread: str, model: str) -> Path:
        config = LINE_CONFIG + SMALL.format(engines=engines, spread=spread)
        if model != LINE_MODEL:
            config = config.replace('curve = "mu"\n', "")
        job = tmp_path_factory.mktemp("job")
        path = write_lines(job, config, model, line_data(12))
        return init_campaign(path, job / "campaign").paths.root

    return folder


@pytest.fixture
def make(frozen, tmp_path):
    """A function that gives a copy of a frozen campaign."""

    def campaign(engines: str = ENGINES, spread: str = "auto", model: str = LINE_MODEL) -> Campaign:
        shutil.copytree(frozen(engines, spread, model), tmp_path / "campaign")
        return Campaign(tmp_path / "campaign")

    return campaign


def forecast(campaign: Campaign, site: Site = EMPTY, form: str = "datasets") -> dict:
    missing = missing_tasks(campaign, Selection(campaign.engines), Queued())
    return predict_cost(
        campaign, site, plan_jobs(campaign, site, WIDE, SubmissionOrder(1, "0123abcdef", missing, Spread(form)))
    )


def note(campaign: Campaign, **timings: Timing) -> None:
    campaign.paths.pilot.write_text(json.dumps({kind: asdict(timing) for kind, timing in timings.items()}))


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


def stub(engine, batch):
    """A run of two seconds, shared evenly; weighted draws have no bulk ESS."""
    ess = {} if engine == "snpe" else {"ess_bulk_min": np.full(len(batch), 300.0)}
    return 2.0, {"seconds": np.ones(len(batch))} | ess


def nuts_for_real(run_once):
    """SNPE's weights take a minute to compile; that they get a network is what counts here."""

    def run(campaign, engine, batch, trained):
        assert (trained is not None) == (engine == "snpe")
        return run_once(campaign, engine, batch, trained) if engine == "nuts" else stub(engine, batch)

    return run


def test_a_real_pilot_times_every_kind_and_touches_nothing_else(make, monkeypatch):
    campaign = make('["nuts", "snpe"]')
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest: None if name == "squeue" else which(name, *rest))
    monkeypatch.setattr(pilot, "_run_once", nuts_for_real(pilot._run_once))
    monkeypatch.setattr(pilot, "_ess_per_second", lambda *_: 100.0)
    before = contents(campaign.paths.root)
    line = ["plan", str(campaign.paths.root), "--site", str(ROOT / "slurm" / "sites" / "local.toml"), "--json"]
    timed = CliRunner().invoke(app, [*line, "--pilot", "4"], catch_exceptions=False)
    after = contents(campaign.paths.root)
    assert after.pop(str(campaign.paths.pilot))
    assert after == before
    content = json.loads(timed.stdout)["cost"]
    assert set(content["jobs"]) == {"train", "nuts", "snpe"}
    for kind, entry in content["jobs"].items():
        assert 0 < entry["low"] < entry["hours"] < entry["high"], kind
        assert (entry["core_hours"], entry["gpu_hours"]) == (entry["hours"], 0.0)
    assert content["jobs"]["nuts"]["basis"] == "4 data sets timed"
    assert "hardly trained" in content["jobs"]["snpe"]["note"]
    assert content["complete"]
    assert content["total"]["core_hours"] == pytest.approx(sum(e["core_hours"] for e in content["jobs"].values()))
    again = CliRunner().invoke(app, line, catch_exceptions=False)
    assert json.loads(again.stdout)["cost"] == content

    from chainsweep.stages.infer import infer

    assert infer(campaign, "nuts", 0, lambda done, total, text: None, lambda: False)
    entry = forecast(campaign)["jobs"]["nuts"]
    size = campaign.shards[0].positions.size
    assert entry["basis"] == f"{size} data sets already done"
    assert entry["units"] == 12 - size


def test_a_black_box_has_its_simulations_timed_apart_from_the_training(make, monkeypatch):
    campaign = make('["snpe"]', model=SIMULATOR)
    monkeypatch.setattr(pilot, "_run_once", lambda campaign, engine, batch, trained: stub(engine, batch))
    # Training takes the bank that was made, and makes none whose time would be taken for its own.
    monkeypatch.setattr("chainsweep.engines.snpe.amortised.fill_bank", None)
    said: list[str] = []
    run_pilot(campaign, ("snpe",), 2, said.append)
    assert [line.split(",")[0] for line in said] == ["pilot: SNPE simulations", "pilot: SNPE training", "pilot: snpe"]
    timings, jobs = read_pilot(campaign), forecast(campaign)["jobs"]
    assert set(timings) == set(jobs) == {"simulate", "train", "snpe"}
    made = timings["simulate"]
    assert min(made.seconds) >= 0.0005
    snpe = campaign.config.engines.snpe
    assert jobs["simulate"]["units"] == snpe.bank_simulations
    assert jobs["simulate"]["basis"] == "1000 simulations timed"
    parts = -(-snpe.bank_simulations // snpe.tuning.simulations_per_task)
    hours = (parts * made.setup_s + snpe.bank_simulations * np.mean(made.seconds)) / 3600
    assert jobs["simulate"]["hours"] == pytest.approx(hours)
    assert forecast(campaign)["complete"]


def test_the_last_part_of_a_bank_may_be_smaller(make, monkeypatch):
    campaign = make('["snpe"]', model=SIMULATOR)
    snpe = changed(campaign.config.engines.snpe, bank_simulations=2500, simulations_per_task=1000)
    engines = campaign.config.engines.model_copy(update={"snpe": snpe})
    monkeypatch.setattr(campaign, "config", campaign.config.model_copy(update={"engines": engines}))
    note(campaign, simulate=Timing(10.0, (2.0, 2.0), 1000, "here"))
    entry = forecast(campaign)["jobs"]["simulate"]
    assert entry["units"] == 2500
    assert entry["hours"] == pytest.approx((3 * 10 + 2500 * 2) / 3600)
    assert entry["element_hours"] == pytest.approx((10 + 1000 * 2) / 3600)


def test_nothing_known_is_null_and_not_zero(make):
    content = forecast(make())
    assert not content["complete"]
    assert content["total"] == {"core_hours": None, "gpu_hours": None}
    for entry in content["jobs"].values():
        assert entry["units"] > 0
        assert {entry[name] for name in ("hours", "low", "high", "core_hours", "gpu_hours")} == {None}
        assert "--pilot" in entry["basis"]


def test_hours_are_starts_and_data_sets_and_a_gpu_only_where_one_is_asked_for(make):
    campaign = make()
    note(campaign, nuts=Timing(60.0, (10.0, 20.0, 30.0, 40.0), 4, "no GPU, 2 CPU cores"))
    entry = forecast(campaign)["jobs"]["nuts"]
    assert entry["hours"] == pytest.approx((3 * 60 + 12 * 25) / 3600)
    assert entry["element_hours"] == pytest.approx((60 + campaign.shards[0].positions.size * 25) / 3600)
    assert entry["note"] == ""
    site = Site(name="s", device="gpu", job={"nuts": {"cpus": 8, "tasks_per_element": 3, "walltime_min": 30}})
    packed = forecast(campaign, site)["jobs"]["nuts"]
    assert packed["hours"] == pytest.approx((60 + 12 * 25) / 3600)
    assert packed["gpu_hours"] == packed["hours"] == packed["element_hours"]
    assert packed["core_hours"] == pytest.approx(8 * packed["hours"])
    assert packed["walltime_hours"] == 0.5
    assert packed["note"] == "will differ on a GPU"


def test_the_range_holds_the_truth_as_often_as_it_says(make):
    """Data sets of unequal cost: the range of 4 timed ones holds the sum of all in about 90 %; a naive one does not."""
    campaign = make()
    rng = np.random.default_rng(1)
    held = naive = 0
    for _ in range(400):
        everything = rng.normal(100, 60, 12)
        timed = rng.normal(100, 60, 4)
        mean_error = cost._mean_error(timed, 12)
        truth = everything.mean()
        held += abs(timed.mean() - truth) < mean_error
        naive += abs(timed.mean() - truth) < 1.645 * timed.std() / 2
    assert 0.86 < held / 400 < 0.96
    assert naive / 400 < 0.8
    note(campaign, nuts=Timing(0.0, (5.0, 5.0, 5.0), 3, "here"))
    equal = forecast(campaign)["jobs"]["nuts"]
    assert equal["low"] < 0.95 * equal["hours"]


def test_one_data_set_gives_a_figure_without_a_range(make):
    campaign = make()
    note(campaign, nuts=Timing(0.0, (36.0,), 1, "here"))
    entry = forecast(campaign)["jobs"]["nuts"]
    assert (entry["hours"], entry["low"], entry["high"]) == (pytest.approx(0.12), None, None)
    assert entry["basis"] == "1 data set timed"


def test_ranks_over_walkers_work_together_and_rank_0_hands_out(make):
    campaign = make()
    note(campaign, emcee=Timing(0.0, (300.0, 300.0), 2, "here"))
    site = Site(name="s", device="cpu", job={"emcee": {"ranks": 4}})
    over_data, over_walkers = (forecast(campaign, site, form)["jobs"]["emcee"] for form in ("datasets", "walkers"))
    assert over_data["hours"] == pytest.approx(1.0)
    assert over_walkers["hours"] == pytest.approx(4 / 3)
    size = campaign.shards[0].positions.size
    assert over_data["element_hours"] == pytest.approx(size * 300 / 3600)
    assert over_walkers["element_hours"] == pytest.approx(size * 100 / 3600)


def test_what_a_user_sees_is_short_and_names_what_is_not_known(make, capsys, monkeypatch):
    campaign = make()
    note(campaign, nuts=Timing(0.0, (720_000.0, 720_000.0), 2, "no GPU, 2 CPU cores"))
    monkeypatch.setattr(planned, "out", Console(width=100, highlight=False))
    planned.print_cost(forecast(campaign, Site(name="s", device="gpu", job={"nuts": {"cpus": 2}})))
    shown = capsys.readouterr().out
    lines = {line.split()[0]: " ".join(line.split()) for line in shown.splitlines()}
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert lines["emcee"] == "emcee ? ? ? not timed: plan --pilot N"
    assert lines["nuts"].startswith("nuts 4,800 (")
    assert ") 2,400 (" in lines["nuts"]
    assert lines["nuts"].endswith("800 of 1 h 2 data sets timed")
    assert lines["total"] == "total 4,800 2,400 only of what is known"
    assert lines["nuts:"] == "nuts: will differ on a GPU."
    assert "no GPU, 2 CPU cores" in lines["Timed"]


def test_training_that_ends_by_the_clock_costs_no_more(make, monkeypatch):
    campaign = make()
    note(campaign, train=Timing(0.0, (3.6, 3.6), 16, "here"))
    assert forecast(campaign)["jobs"]["train"]["hours"] == pytest.approx(1.5)
    engines = campaign.config.engines
    short = engines.model_copy(update={"snpe": engines.snpe.model_copy(update={"train_minutes": 30.0})})
    monkeypatch.setattr(campaign, "config", campaign.config.model_copy(update={"engines": short}))
    entry = forecast(campaign)["jobs"]["train"]
    assert (entry["hours"], entry["high"]) == (0.5, 0.5)


@pytest.mark.parametrize(("wanted", "got"), [(1, 1), (4, 4), (1000, 12)])
def test_any_number_of_data_sets_can_be_asked_for(make, wanted, got):
    batch = pilot._pilot_batch(make(), wanted)
    assert len(batch) == len(set(batch.ids)) == got


def test_a_pilot_of_one_engine_keeps_the_figures_of_the_others(make, monkeypatch):
    campaign = make()
    kept = Timing(1.0, (2.0, 3.0), 2, "here")
    note(campaign, emcee=kept, nuts=kept)
    monkeypatch.setattr(pilot, "_run_once", lambda campaign, engine, batch, trained: stub(engine, batch))
    said: list[str] = []
    run_pilot(campaign, ("nuts",), 2, said.append)
    timings = read_pilot(campaign)
    assert timings["emcee"] == kept
    assert timings["nuts"].seconds == (1.0, 1.0)
    rates = "hmc 300, nuts 300, auto 300"
    assert said == [
        "pilot: nuts, 2 data sets, three times",
        f"pilot: nuts, effective draws a second by algorithm: {rates}",
    ]
    assert "up to" in timings["nuts"].note
    assert rates in timings["nuts"].note


def test_a_pilot_that_fails_says_whose_fault_it_is_and_keeps_nothing(make, monkeypatch):
    campaign = make()

    def broken(*arguments, **keywords):
        raise ValueError("no such line")

    monkeypatch.setattr("chainsweep.stages.infer.sample", broken)
    with pytest.raises(ChainsweepError, match=r"pilot of nuts failed on every data set: .*no such line"):
        run_pilot(campaign, ("nuts",), 2, lambda text: None)
    assert not campaign.paths.pilot.exists()


@pytest.mark.parametrize(("seconds", "form"), [(0.02, "walkers"), (0.0, "datasets")])
def test_a_slow_black_box_has_its_walkers_spread_and_a_fast_one_its_data_sets(make, monkeypatch, seconds, form):
    model = BLACK_BOX.format(seconds=seconds)
    for_this_process = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    for name in for_this_process:
        monkeypatch.delenv(name)
    spread = spread_of(make('["emcee"]', model=model), "emcee")
    assert not set(for_this_process) & set(os.environ), "submit hands them on to jobs on other processors"
    assert spread.form == form
    milliseconds = float(
        re.fullmatch(r"a call of log_likelihood takes ([\d.e-]+) ms, .*than 5 ms", spread.why).group(1)
    )
    assert (milliseconds > 5) == (form == "walkers") == ("not more" not in spread.why)
    assert milliseconds >= 1e3 * seconds


@pytest.mark.parametrize(("seconds", "form"), [(0.0, "walkers"), (0.02, "datasets")])
def test_what_the_campaign_says_wins_over_the_clock(make, seconds, form):
    model = BLACK_BOX.format(seconds=seconds)
    spread = spread_of(make('["emcee"]', spread=form, model=model), "emcee")
    assert spread == (form, "[engines.emcee] spread says so")


def test_a_numpyro_model_is_never_timed(make, monkeypatch):
    monkeypatch.setattr(pilot, "_call_seconds", None)
    form, why = spread_of(make(), "emcee")
    assert form == "datasets"
    assert "compiled" in why


def test_walkers_of_a_numpyro_model_cannot_be_shared_out(make):
    with pytest.raises(ConfigError, match="black-box likelihoods"):
        spread_of(make(spread="walkers"), "emcee")
