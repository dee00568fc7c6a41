"""``doctor --site`` on a real Slurm: what works is ok, and what does not is found and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chainsweep.machine.doctor import Finding
from chainsweep.slurm.site import Site
from chainsweep.slurm.trials import examine_site
from tests.cluster.private_slurm import PrivateSlurm

LOCAL = Path(__file__).resolve().parents[2] / "slurm" / "sites" / "local.toml"


@pytest.fixture
def here(slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> PrivateSlurm:
    """This process talks to the private Slurm, of which nothing may be left in the queue afterwards."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return slurm


def found(**keys: object) -> dict[str, Finding]:
    site = Site.model_validate({"name": "trial", "device": "cpu"} | keys)
    return {finding.what: finding for finding in examine_site(site)}


def doctor(environment: dict[str, str]) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-m", "chainsweep", "doctor", "--site", str(LOCAL), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_all_of_a_site_that_fits_is_ok(slurm: PrivateSlurm) -> None:
    pytest.importorskip("mpi4py")
    findings = doctor(slurm.environment)
    for what in ("Slurm controller", "Slurm limits", "partitions", "a node", "MPI launch"):
        assert findings[what]["state"] == "ok", findings[what]
    assert findings["MPI launch"]["found"] == "2 ranks through srun --mpi=pmi2"
    assert "MaxArraySize 101" in findings["Slurm limits"]["found"]
    assert not [job for job, state in slurm.squeue_states().items() if state in ("PENDING", "RUNNING")]


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (("srun", "--mpi=none"), "each of 2 ranks thinks that it is alone"),
        (("srun", "--mpi=nonsense"), "Invalid MPI type"),
        (("no-such-launcher",), "no-such-launcher"),
    ],
)
def test_a_wrong_launch_line_is_found_and_says_what_to_change(
    here: PrivateSlurm, launch: tuple[str, ...], said: str
) -> None:
    pytest.importorskip("mpi4py")
    finding = found(mpi_launch=launch)["MPI launch"]
    assert finding.state == "broken"
    assert said in finding.found
    assert "mpi_launch" in finding.found


def test_ranks_over_nodes_and_a_launcher_of_mpi_itself(here: PrivateSlurm) -> None:
    pytest.importorskip("mpi4py")
    spread = found(job={"emcee": {"ranks": 4, "nodes": 2, "memory_gib": 0.5}})["MPI launch"]
    assert (spread.state, spread.found) == ("ok", "4 ranks through srun --mpi=pmi2")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip("no mpiexec next to this Python")
    own = found(mpi_launch=(str(mpiexec), "-n", "{ranks}"))["MPI launch"]
    assert own.state == "ok", own.found


def test_an_unknown_partition_is_named(here: PrivateSlurm) -> None:
    findings = found(job={"snpe": {"partition": "gpu,lost"}})
    assert findings["partitions"].state == "broken"
    assert findings["partitions"].found.startswith("the site names lost for snpe")
    assert findings["a node"].state == "ok"


def test_a_walltime_above_the_partition_s_limit_is_named(here: PrivateSlurm) -> None:
    here.run("scontrol", "update", "partitionname=urgent", "MaxTime=90")
    try:
        job = {"emcee": {"partition": "urgent", "walltime_min": 91}}
        assert "urgent ends jobs after 90 min" in found(job=job)["partitions"].found
        job["emcee"]["walltime_min"] = 90
        assert found(job=job)["partitions"].state == "ok"
    finally:
        here.run("scontrol", "update", "partitionname=urgent", "MaxTime=INFINITE")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"python": "/no/such/python"}, "/no/such/python"),
        ({"modules": ["no/such-module"]}, "module"),
        ({"job": {"merge": {"memory_gib": 9000}}}, "configuration is not available"),
    ],
)
def test_a_node_where_no_step_can_run_says_why(here: PrivateSlurm, keys: dict[str, object], said: str) -> None:
    finding = found(**keys)["a node"]
    assert finding.state == "broken"
    assert said in finding.found


def test_the_environment_of_the_site_reaches_the_step(here: PrivateSlurm, tmp_path: Path) -> None:
    assert str(tmp_path) in found(environment={"TMPDIR": str(tmp_path)})["a node"].found
    assert found(environment={"TMPDIR": str(tmp_path), "PYTHONHOME": "/nowhere"})["a node"].state == "broken"


def test_limits_that_the_cluster_does_not_have_are_named(here: PrivateSlurm) -> None:
    assert "max_array_size = 102 is above" in found(max_array_size=102)["Slurm limits"].found
    assert found(max_array_size=101)["Slurm limits"].state == "ok"


def test_a_device_that_is_no_gpu_is_not_taken_for_one(here: PrivateSlurm) -> None:
    pytest.importorskip("jax")
    findings = found(device="gpu")
    for what in ("GPU by JAX", "GPU by torch"):
        assert findings[what].state == "broken"
        assert "no GPU in a step with --gres=gpu:1" in findings[what].found


def test_no_cluster_is_a_finding_and_not_an_error(tmp_path: Path) -> None:
    findings = doctor({"PATH": str(tmp_path)})
    assert findings["Slurm controller"]["state"] == "broken"
    assert "no scontrol on the path" in findings["Slurm controller"]["found"]
    assert "MPI launch" not in findings
