"""A campaign on a real Slurm, from submit to report with no command in between, against the same one run here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import chainsweep
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.sweeps import WARM_SITE, Sweep, assert_same_results, no_leftovers, plain_environment
from tests.conftest import LINE_CONFIG, LINE_MODEL, line_data, write_lines
from tests.contract.test_black_box import CONFIG, MODEL
from tests.contract.test_campaign import SMALL

QUICK = "array_cap = 1\n" + WARM_SITE.replace("[job]", "[job.emcee]\nranks = 2\n\n[job]")


def freeze(folder: Path, model: str, config: str, datasets: int, name: str = "campaign") -> Path:
    """A campaign of lines in ``folder / name``."""
    write_lines(folder, config, model, line_data(datasets))
    subprocess.run(
        [sys.executable, "-m", "chainsweep", "init", folder / "campaign.toml", "--out", folder / name],
        check=True,
        capture_output=True,
    )
    return folder / name


def run_here(frozen: Path, folder: Path) -> Path:
    """A copy of a frozen campaign in ``folder``, run without Slurm."""
    shutil.copytree(frozen, folder)
    subprocess.run(
        [sys.executable, "-m", "chainsweep", "run", folder, "--workers", "2"],
        check=True,
        capture_output=True,
        env=plain_environment(),
        timeout=600,
    )
    return folder


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Path:
    """A campaign of seven lines in two shards, three engines, under a path with odd characters.

    The shapes are those of `contract/test_campaign.py`, so that what either compiles serves both.
    """
    folder = tmp_path_factory.mktemp("it's a sweep")
    return freeze(folder, LINE_MODEL, LINE_CONFIG + SMALL, 7, 'camp "aign" 5%')


@pytest.fixture(scope="module")
def reference(frozen, tmp_path_factory) -> Path:
    return run_here(frozen, tmp_path_factory.mktemp("here") / "campaign")


def test_submit_runs_everything_by_dependency_and_gives_what_run_gives(slurm: PrivateSlurm, frozen, reference):
    sweep = Sweep(slurm, frozen, QUICK)
    ids = sweep.submit()
    assert set(ids) == {"train", "emcee", "nuts", "snpe", "merge", "report"}
    assert sweep.submit() == {}
    waiting = sweep.status()
    assert waiting["queue"]["elements"] > 0
    assert waiting["engines"]["nuts"]["pending"] > 0
    states = sweep.finish()
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{sweep.outputs()}"
    assert_same_results(frozen, reference)
    notes = chainsweep.open(frozen).catalogue().attrs
    assert notes["emcee_ranks_share"] == "datasets"
    assert notes["emcee_ranks_why"].startswith("the likelihood is compiled")
    assert no_leftovers(frozen) == []
    assert sweep.submit() == {}
    status = sweep.status()
    assert status["queue"]["elements"] == 0
    assert status["failed_tasks"] == status["interrupted_tasks"] == []
    assert status["tasks"]["infer"] == {"total": 6, "done": 6, "failed": 0}
    assert "rank 1 of 2" in "".join((frozen / "logs" / f"infer-0000{task}.log").read_text() for task in range(2))


def test_logs_of_a_data_set_name_its_tasks_and_slurm_s_files(slurm: PrivateSlurm, frozen, reference):
    sweep = Sweep(slurm, frozen)
    listed = json.loads(sweep.command("logs", str(frozen), "000000", "--json").stdout)
    assert [entry["task"] for entry in listed] == ["train snpe", "infer emcee 0", "infer nuts 0", "infer snpe 0"]
    assert all(any("slurm-" in path for path in entry["files"]) for entry in listed)
    assert "No task failed" in sweep.command("logs", str(frozen)).stdout


def test_simulations_of_a_black_box_and_an_ensemble_are_arrays(slurm: PrivateSlurm, tmp_path):
    config = CONFIG.replace('["emcee", "snpe"]', '["snpe"]').replace(
        "[engines.snpe]\n", "[engines.snpe]\nensemble = 2\n"
    )
    config = config.replace("train_steps = 200", "train_steps = 40").replace(
        "[engines.snpe.tuning]\n", "[engines.snpe.tuning]\nhidden = 16\ntransforms = 2\n"
    )
    frozen = freeze(tmp_path, MODEL, config, 2)
    reference = run_here(frozen, tmp_path / "here")
    sweep = Sweep(slurm, frozen, WARM_SITE)
    (tmp_path / "site.toml").write_text(sweep.site)
    planned = json.loads(sweep.command("plan", str(frozen), "--site", str(tmp_path / "site.toml"), "--json").stdout)
    assert [job["kind"] for job in planned["jobs"]] == ["simulate", "train", "snpe", "merge", "report"]
    assert set(sweep.submit()) == {"simulate", "train", "snpe", "merge", "report"}
    states = sweep.finish()
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{sweep.outputs()}"
    assert_same_results(frozen, reference)
    assert no_leftovers(frozen) == []
    status = sweep.status()
    assert status["tasks"]["simulate"] == status["tasks"]["train"] == {"total": 2, "done": 2, "failed": 0}
    assert sweep.submit() == {}
