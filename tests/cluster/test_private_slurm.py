"""The private Slurm itself: it runs jobs, arrays and MPI, faults can be made, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.private_slurm import PrivateSlurm, SlurmError, missing_reason
from tests.cluster.supervisor import descendants

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--mem=100"


def test_a_job_runs_and_its_failure_is_seen(slurm: PrivateSlurm, tmp_path: Path) -> None:
    good = slurm.sbatch(SMALL, "-o", f"{tmp_path}/%j.out", script="#!/bin/bash\necho here $SLURM_CONF\n")
    bad = slurm.sbatch(SMALL, "-o", "/dev/null", "--wrap", "exit 3")
    assert slurm.wait_for_jobs(good, bad, timeout_s=30) == {str(good): "COMPLETED", str(bad): "FAILED"}
    assert (tmp_path / f"{good}.out").read_text() == f"here {slurm.environment['SLURM_CONF']}\n"
    assert slurm.job(bad)["ExitCode"] == "3:0"


def test_an_array_and_what_depends_on_it(slurm: PrivateSlurm, tmp_path: Path) -> None:
    array = slurm.sbatch(SMALL, "--array=0-4%2", "-o", "/dev/null", "--wrap", f"touch {tmp_path}/$SLURM_ARRAY_TASK_ID")
    after = slurm.sbatch(
        SMALL, f"--dependency=afterany:{array}", "-o", "/dev/null", "--wrap", f"ls {tmp_path} > {tmp_path}/seen"
    )
    states = slurm.wait_for_jobs(array, after, timeout_s=60)
    assert states == {f"{array}_{index}": "COMPLETED" for index in range(5)} | {str(after): "COMPLETED"}
    assert (tmp_path / "seen").read_text().split() == ["0", "1", "2", "3", "4", "seen"]


def test_an_array_beyond_the_limit_is_refused(slurm: PrivateSlurm) -> None:
    with pytest.raises(SlurmError, match="Invalid job array specification"):
        slurm.sbatch("--array=0-101", "--wrap", "true")


def test_mpi_ranks_over_two_nodes_see_each_other(slurm: PrivateSlurm, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    program = "from mpi4py import MPI; w = MPI.COMM_WORLD; print(w.size, sum(w.allgather(w.rank)))"
    script = f'#!/bin/bash\nsrun --mpi=pmi2 "{sys.executable}" -m mpi4py -c "{program}"\n'
    layout = ["--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]
    job = slurm.sbatch(*layout, "-o", f"{tmp_path}/out", script=script)
    states = slurm.wait_for_jobs(job, timeout_s=90)
    output = (tmp_path / "out").read_text()
    assert states == {str(job): "COMPLETED"}, output
    assert output.splitlines() == ["4 6"] * 4


def test_urgent_preempts_main_which_is_requeued(slurm: PrivateSlurm, tmp_path: Path) -> None:
    script = f"#!/bin/bash\necho run >> {tmp_path}/runs\n[ -v SLURM_RESTART_COUNT ] || sleep 60\n"
    everywhere = ["--nodes=4", "--exclusive", SMALL]
    patient = slurm.sbatch(*everywhere, "-o", f"{tmp_path}/out", "--open-mode=append", script=script)
    slurm.wait_until((tmp_path / "runs").exists, 20, "the patient job runs")
    urgent = slurm.sbatch(*everywhere, "-p", "urgent", "-o", "/dev/null", "--wrap", "true")
    assert set(slurm.wait_for_jobs(patient, urgent, timeout_s=60).values()) == {"COMPLETED"}
    assert (tmp_path / "runs").read_text().split() == ["run", "run"]
    assert "DUE TO PREEMPTION" in (tmp_path / "out").read_text()


def test_a_gpu_is_found_on_its_node_only(slurm: PrivateSlurm, tmp_path: Path) -> None:
    job = slurm.sbatch(SMALL, "--gres=gpu:1", "-o", f"{tmp_path}/%j.out", "--wrap", "echo $SLURMD_NODENAME")
    named = slurm.sbatch(SMALL, "-p", "gpu", "--gpus-per-task=1", "-n1", "-o", "/dev/null", "--wrap", "true")
    assert set(slurm.wait_for_jobs(job, named, timeout_s=30).values()) == {"COMPLETED"}
    assert (tmp_path / f"{job}.out").read_text() == "n4\n"
    with pytest.raises(SlurmError, match="Requested node configuration is not available"):
        slurm.sbatch("--gres=gpu:3", "--wrap", "true")


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_task_of_a_lost_node_lives_on_beside_its_successor(slurm: PrivateSlurm, tmp_path: Path, fault: str) -> None:
    task = f'echo $$ > {tmp_path}/run$SLURM_RESTART_COUNT; [ "$SLURM_RESTART_COUNT" ] || exec sleep 100'
    job = slurm.sbatch(SMALL, "-w", "n3", "-o", "/dev/null", script=f"#!/bin/bash\nsrun bash -c '{task}'\n")
    first = tmp_path / "run"
    old = int(slurm.wait_until(lambda: first.exists() and first.read_text(), 20, "the task runs"))
    if fault == "cut":
        slurm.node_cut("n3")
    else:
        slurm.node_freeze("n3")
    slurm.run("scontrol", "update", f"jobid={job}", "ReqNodeList=")
    assert slurm.wait_for_jobs(job, timeout_s=60) == {str(job): "COMPLETED"}
    assert (tmp_path / "run1").exists()
    assert slurm.node_states()["n3"].startswith("down")
    if fault == "freeze":
        assert old in slurm.thaw_tasks("n3")
    assert old in slurm.node_processes("n3")
    slurm.node_up("n3")
    slurm.wait_until(lambda: old not in slurm.node_processes("n3"), 30, "the old task is gone")


def test_jobs_outlive_the_controller(slurm: PrivateSlurm, tmp_path: Path) -> None:
    job = slurm.sbatch(SMALL, "-o", "/dev/null", "--wrap", f"sleep 2; touch {tmp_path}/done")
    slurm.wait_until(lambda: slurm.squeue_states(job)[str(job)] == "RUNNING", 20, "the job runs")
    slurm.restart_controller(down_s=1)
    assert slurm.wait_for_jobs(job, timeout_s=60) == {str(job): "COMPLETED"}
    assert (tmp_path / "done").exists()


def test_a_time_limit_can_be_brought_forward(slurm: PrivateSlurm, tmp_path: Path) -> None:
    loop = f"trap 'touch {tmp_path}/warned' USR2\ntouch {tmp_path}/runs\nwhile true; do sleep 0.2; done\n"
    job = slurm.sbatch(SMALL, "--time=30", "--signal=B:USR2@60", "-o", f"{tmp_path}/out", script=f"#!/bin/bash\n{loop}")
    slurm.wait_until((tmp_path / "runs").exists, 20, "the job runs")
    assert not (tmp_path / "warned").exists()
    slurm.hasten_limit(job, 2)
    assert slurm.wait_for_jobs(job, timeout_s=90) == {str(job): "TIMEOUT"}
    assert "DUE TO TIME LIMIT" in (tmp_path / "out").read_text()


def test_a_wait_that_fails_shows_the_logs(slurm: PrivateSlurm) -> None:
    with pytest.raises(SlurmError, match=r"(?s)not within 0.2 s: never.*slurmctld.log.*slurmd-n1.log"):
        slurm.wait_until(lambda: False, 0.2, "never")


def test_nothing_outlives_a_killed_owner(tmp_path: Path) -> None:
    if reason := missing_reason():
        pytest.skip(reason)
    program = (
        "import sys, time; from pathlib import Path; from tests.cluster.private_slurm import PrivateSlurm\n"
        "slurm = PrivateSlurm(Path(sys.argv[1])); slurm.start()\n"
        "job = slurm.sbatch('--mem=100', '-o', '/dev/null', '--wrap', 'setsid sleep 300 & sleep 300')\n"
        "slurm.wait_until(lambda: slurm.squeue_states(job)[str(job)] == 'RUNNING', 20, 'the job runs')\n"
        "print('ready', flush=True); time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "s")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        started = descendants(owner.pid)
        assert len(started) >= 8
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
