"""Faults on a real Slurm, each made in mid-chain: the results are those of a run without any, bit for bit.

`benchmarks/faults.py` does the same with every engine on the worked example, and with real time limits.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import chainsweep as chainsweep_package
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.sweeps import (
    SITE,
    Sweep,
    assert_same_results,
    no_leftovers,
    plain_environment,
    write_slow_job,
)

CALL_S = 0.0005
"""One likelihood call; a task makes some 20,000 of them."""


def chainsweep(*arguments: str | Path) -> None:
    line = [sys.executable, "-m", "chainsweep", *map(str, arguments)]
    subprocess.run(line, check=True, capture_output=True, env=plain_environment(), timeout=300)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    chainsweep("init", write_slow_job(folder / "job", CALL_S), "--out", folder / "campaign")
    return folder / "campaign"


@pytest.fixture(scope="module")
def reference(frozen, tmp_path_factory) -> Path:
    """The same campaign run here, without a fault."""
    folder = tmp_path_factory.mktemp("reference") / "campaign"
    shutil.copytree(frozen, folder)
    chainsweep("run", folder, "--workers", "2")
    return folder


@pytest.fixture
def sweep(slurm: PrivateSlurm, frozen, tmp_path) -> Sweep:
    folder = tmp_path / "it's a campaign"
    shutil.copytree(frozen, folder)
    yield Sweep(slurm, folder)
    slurm.run("scancel", "--user", "root", check=False)
    slurm.wait_for_jobs(timeout_s=60)


def assert_recovered(sweep: Sweep, reference: Path, *attempts: int) -> None:
    """All is done as without a fault; ``attempts`` that each shard took, where the fault decides it."""
    states = sweep.finish()
    assert set(states.values()) <= {"COMPLETED"}, f"{states}\n{sweep.outputs()}"
    assert_same_results(sweep.folder, reference)
    assert not attempts or tuple(sweep.attempts().values()) == attempts
    assert no_leftovers(sweep.folder) == []


def said(sweep: Sweep, words: str, times: int) -> bool:
    """Whether Slurm's files of the campaign say these words so many times; requeued elements start meanwhile."""
    sweep.slurm.hasten_requeues()
    return sweep.outputs().count(words) == times


def started(sweep: Sweep, log: Path, times: int) -> bool:
    sweep.slurm.hasten_requeues()
    return log.exists() and log.read_text().count("started by") == times


def saved_after(state: Path, moment: int) -> bool:
    return state.stat().st_mtime_ns > moment


def test_the_time_limit_s_signal_in_mid_chain(sweep, reference):
    ids = sweep.submit()
    sweep.wait_for_state()
    sweep.slurm.run("scancel", "--signal=USR2", "--batch", f"{ids['emcee']}_0")
    sweep.slurm.wait_until(lambda: "ended with 75" in sweep.outputs(), 60, "the element stops")
    assert_recovered(sweep, reference, 2, 1)


def test_preemption_without_grace(sweep, reference):
    sweep.submit()
    sweep.wait_for_state()
    urgent = ["--partition=urgent", "--nodes=4", "--exclusive", "--mem=100", "--output=/dev/null"]
    sweep.slurm.sbatch(*urgent, "--wrap", "sleep 2")
    sweep.slurm.wait_until(lambda: "DUE TO PREEMPTION" in sweep.outputs(), 60, "the elements are preempted")
    assert_recovered(sweep, reference, 2, 2)


def test_killed_again_and_again(sweep, reference):
    """Each kill is a real -9 to the task's process; the host script requeues the element."""
    ids = sweep.submit()
    for kill in range(3):
        state = sweep.wait_for_state()
        seen = state.stat().st_mtime_ns if kill else 0
        sweep.slurm.wait_until(partial(saved_after, state, seen), 60, "the attempt gets on")
        sweep.slurm.run("scancel", "--signal=KILL", f"{ids['emcee']}_0.0")
        sweep.slurm.wait_until(partial(said, sweep, "ended with 137", kill + 1), 60, "the step dies")
        again = f"{ids['emcee']}_0 on {os.uname().nodename}, restart {kill + 1}"
        sweep.slurm.wait_until(partial(said, sweep, again, 1), 60, "the element starts again")
    assert_recovered(sweep, reference, 4, 1)


def test_a_lost_node_whose_old_process_comes_back(sweep, reference):
    ids = sweep.submit()
    sweep.wait_for_state()
    element = f"{ids['emcee']}_0"
    node = sweep.slurm.job(element)["NodeList"]
    sweep.slurm.node_freeze(node)
    shard = sweep.folder / "shards" / "emcee" / "00000.h5"
    try:
        sweep.slurm.wait_until(lambda: sweep.slurm.hasten_requeues() or shard.exists(), 120, "published elsewhere")
        published = hashlib.sha256(shard.read_bytes()).hexdigest()
        assert sweep.slurm.thaw_tasks(node)
        log = sweep.folder / "logs" / "infer-00000.log"
        sweep.slurm.wait_until(lambda: "not published" in log.read_text(), 60, "the old process is refused")
    finally:
        sweep.slurm.node_up(node)
    assert hashlib.sha256(shard.read_bytes()).hexdigest() == published
    assert_recovered(sweep, reference)
    assert sweep.attempts()["emcee/00000"] == 2


def test_the_controller_restarted(sweep, reference):
    sweep.submit()
    sweep.wait_for_state()
    sweep.slurm.restart_controller(down_s=3)
    assert_recovered(sweep, reference, 1, 1)


def test_a_rank_killed(sweep, reference):
    sweep.site = SITE.replace("[job]", "[job.emcee]\nranks = 2\n\n[job]")
    sweep.submit()
    sweep.wait_for_state(shard=1)
    log = (sweep.folder / "logs" / "infer-00001.log").read_text()
    victim = int(log[log.index("process ") :].split()[1].rstrip(")"))
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    sweep.slurm.wait_until(lambda: "ended with" in sweep.outputs(), 30, "the step ends")
    assert time.monotonic() - began < 30
    assert "ended with 0" not in sweep.outputs()
    assert_recovered(sweep, reference, 2, 2)


def test_one_task_that_always_fails(sweep, reference):
    """The others merge; catalogue, exit codes and status tell of the one that failed, and it can be tried again."""
    blocked = sweep.folder / "shards" / "emcee" / "00001.h5"
    (blocked / "in the way").mkdir(parents=True)
    ids = sweep.submit()
    states = sweep.finish()
    assert states == {
        f"{ids['emcee']}_0": "COMPLETED",
        f"{ids['emcee']}_1": "FAILED",
        str(ids["merge"]): "FAILED",  # it merged, and says that it was not everything
        str(ids["report"]): "COMPLETED",
    }
    catalogue = chainsweep_package.open(sweep.folder).catalogue().set_index("dataset_id")
    assert catalogue.loc["000001", "verdict"] == "failed"
    assert "IsADirectoryError" in catalogue.loc["000001", "reason"]
    assert catalogue.loc["000000", "draws"] > 0
    status = sweep.status()
    assert status["engines"]["emcee"]["failed"] == 1
    assert [(entry["index"], entry["kind"]) for entry in status["failed_tasks"]] == [(1, "bug")]
    assert "IsADirectoryError" in "\n".join(status["failed_tasks"][0]["last_lines"])
    sweep.command("merge", str(sweep.folder), codes=(75,))
    shutil.rmtree(blocked)
    assert set(sweep.submit("--only-failed")) == {"emcee", "merge", "report"}
    assert_recovered(sweep, reference)


def test_a_walltime_too_short_for_one_data_set(slurm: PrivateSlurm, tmp_path):
    """Stopped by each attempt's time limit before it saved anything, a task is given up after two."""
    chainsweep("init", write_slow_job(tmp_path / "job", 30.0, datasets=1), "--out", tmp_path / "campaign")
    sweep = Sweep(slurm, tmp_path / "campaign", SITE.replace("signal_lead_s = 60", "signal_lead_s = 10"))
    ids = sweep.submit()
    log = tmp_path / "campaign" / "logs" / "infer-00000.log"
    for attempt in range(2):
        slurm.wait_until(partial(started, sweep, log, attempt + 1), 60, "the attempt starts")
        slurm.run("scancel", "--signal=USR2", "--batch", f"{ids['emcee']}_0")
        slurm.wait_until(partial(said, sweep, "ended with 137", attempt + 1), 60, "it is killed in time")
    states = sweep.finish()
    assert states[f"{ids['emcee']}_0"] == "FAILED", f"{states}\n{sweep.outputs()}"
    status = sweep.status()
    assert status["engines"]["emcee"] == {"converged": 0, "not_converged": 0, "failed": 1, "bad_data": 0, "pending": 0}
    assert "2 times in a row without progress" in status["failed_tasks"][0]["reason"]


def test_cancel_ends_everything_and_submit_goes_on_from_there(sweep, reference):
    sweep.submit()
    sweep.wait_for_state()
    sweep.command("cancel", str(sweep.folder))
    states = sweep.finish()
    assert "CANCELLED" in states.values()
    status = sweep.status()
    assert status["queue"]["elements"] == 0
    assert [entry["kind"] for entry in status["interrupted_tasks"]] == ["cancelled"] * 2
    assert set(sweep.submit()) == {"emcee", "merge", "report"}
    sweep.finish()
    assert_same_results(sweep.folder, reference)
    assert sweep.attempts() == {"emcee/00000": 2, "emcee/00001": 2}
