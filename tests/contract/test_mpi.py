"""Real MPI ranks: the same bits as one process in both forms, and an end, not a hang, whatever a likelihood does."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from chainsweep.campaign.freeze import init_campaign
from tests.conftest import LINE_CONFIG, line_data

MPIEXEC = Path(sys.executable).with_name("mpiexec")
pytestmark = pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec next to this Python: pip install mpich mpi4py")

LIMIT_SECONDS = 180  # a busy machine starts slowly; what must end soon has DEATH_SECONDS
DEATH_SECONDS = 30
CULPRIT = "000001"
TASKS = ("0", "1", "2")

MODEL = """
import ctypes, os, signal, sys, time
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}

def log_likelihood(params, x, y, y_err):
    if y[0] > 50:
        HOOK
    residual = (y - params["a"] - params["b"] * x) / y_err
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * y_err**2))
"""

CONFIG = (
    LINE_CONFIG.replace('curve = "mu"\n', "")
    + """
[policy]
engines = ["emcee"]

[engines.emcee]
walkers = 8
max_steps = 150
prior_draws = 64

[engines.emcee.tuning]
check_every = 50

[shards]
size = 2
"""
)


def made(folder: Path, hook: str, everywhere: bool = False) -> Path:
    """A campaign of five lines in three shards; ``hook`` runs in the likelihood of the culprit, or of all."""
    folder.mkdir()
    model = MODEL.replace("HOOK", hook)
    (folder / "model.py").write_text(model.replace("y[0] > 50", "True") if everywhere else model)
    (folder / "campaign.toml").write_text(CONFIG)
    data = line_data(5)
    data["y"][1, 0] += 100
    np.savez(folder / "data.npz", **data)
    return init_campaign(folder / "campaign.toml", folder / "campaign", None).paths.root


def line(folder: Path, ranks: int, form: str, *options: str, indices: tuple[str, ...] = TASKS) -> list[str]:
    launch = [str(MPIEXEC), "-n", str(ranks)] if ranks else []
    program = [sys.executable, *(("-m", "mpi4py") if ranks else ()), "-m", "chainsweep"]
    return [*launch, *program, "task", str(folder), "infer", *indices, "--form", form, *options]


def task(
    folder: Path, ranks: int, form: str, *options: str, indices: tuple[str, ...] = TASKS, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run all tasks; 0 ranks: one process without MPI."""
    return subprocess.run(
        line(folder, ranks, form, *options, indices=indices),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        env=os.environ | environment,
        check=False,
    )


def content(folder: Path) -> dict[str, np.ndarray]:
    """Every array of every published shard, but for times and attempts."""
    found: dict[str, np.ndarray] = {}
    for path in sorted((folder / "shards" / "emcee").glob("*.h5")):

        def keep(name: str, node: h5py.HLObject, shard: str = path.stem) -> None:
            timing = ("summary/seconds", "summary/check_seconds", "summary/attempt")
            if isinstance(node, h5py.Dataset) and name not in timing:
                found[f"{shard}/{name}"] = node[()]

        with h5py.File(path) as file:
            file.visititems(keep)
    return found


def assert_same_shards(one: Path, other: Path) -> None:
    assert len({name.split("/")[0] for name in content(one)}) == len(TASKS)
    assert_same_arrays(one, other)


def assert_same_arrays(one: Path, other: Path) -> None:
    first, second = content(one), content(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    """Data set to verdict and reason."""
    found = content(folder)
    return {
        name.decode(): (verdict.decode(), reason.decode())
        for shard in ("00000", "00001", "00002")
        for name, verdict, reason in zip(
            *(found[f"{shard}/summary/{column}"] for column in ("dataset_id", "verdict", "reason")), strict=True
        )
    }


def assert_only_the_culprit_failed(folder: Path, reason: str) -> None:
    found = verdicts(folder)
    assert len(found) == 5
    assert {name for name, (verdict, _) in found.items() if verdict == "failed"} == {CULPRIT}
    assert reason in found[CULPRIT][1]
    assert not list(folder.rglob(".suspect*"))


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> Path:
    """The campaign, whose culprit is harmless, run by one process without MPI."""
    folder = made(tmp_path_factory.mktemp("mpi") / "it's", "pass")
    done = task(folder, 0, "datasets")
    assert done.returncode == 0, done.stderr
    return folder


def fresh(campaign: Path, to: Path) -> Path:
    """The same frozen campaign with nothing computed yet."""
    return Path(shutil.copytree(campaign, to, ignore=shutil.ignore_patterns("shards", "logs")))


@pytest.mark.parametrize(("form", "ranks"), [("datasets", 3), ("walkers", 4)])
def test_any_number_of_ranks_gives_the_bits_of_one_process(serial, tmp_path, form, ranks):
    folder = fresh(serial, tmp_path / "again")
    done = task(folder, ranks, form, "--ranks", str(ranks), SLURM_NTASKS=str(ranks))
    assert done.returncode == 0, done.stderr
    assert_same_shards(serial, folder)


def test_other_bits_would_be_seen(serial, tmp_path):
    """The twin."""
    again = Path(shutil.copytree(serial, tmp_path / "again"))
    with h5py.File(again / "shards" / "emcee" / "00001.h5", "r+") as file:
        file["posterior/a"][0, 0, 0] = np.nextafter(file["posterior/a"][0, 0, 0], np.float32(9))
    with pytest.raises(AssertionError, match="posterior/a"):
        assert_same_shards(serial, again)


@pytest.mark.parametrize(
    ("ranks", "asked"), [(0, {"SLURM_NTASKS": "4"}), (2, {"SLURM_NTASKS": "4"}), (2, {"--ranks": "4"})]
)
def test_the_wrong_number_of_ranks_stops_before_anything_is_written(serial, tmp_path, ranks, asked):
    folder = fresh(serial, tmp_path / "again")
    before = sorted(folder.rglob("*"))
    options = [part for name, value in asked.items() if name.startswith("--") for part in (name, value)]
    environment = {name: value for name, value in asked.items() if not name.startswith("--")}
    done = task(folder, ranks, "datasets", *options, **environment)
    assert done.returncode == 69, done.stderr
    assert "expected 4" in done.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("form", "hook"),
    [("datasets", "sys.exit('detector saturated')"), ("walkers", "raise ValueError('detector saturated')")],
)
def test_an_error_stays_with_its_data_set(tmp_path, form, hook):
    folder = made(tmp_path / "job", hook)
    done = task(folder, 2, form)
    assert done.returncode == 0, done.stderr
    assert_only_the_culprit_failed(folder, "detector saturated")


@pytest.mark.parametrize(
    ("form", "hook", "how"),
    [
        ("datasets", "os._exit(1)", "exit code 1"),
        ("walkers", "ctypes.string_at(0)", "signal SIGSEGV"),
    ],
)
def test_a_death_ends_the_job_and_the_next_attempt_leaves_one_failed_data_set(tmp_path, form, hook, how):
    folder = made(tmp_path / "job", hook)
    began = time.monotonic()
    assert task(folder, 2, form).returncode != 0
    assert time.monotonic() - began < DEATH_SECONDS
    assert list(folder.rglob(".suspect-*"))
    done = task(folder, 3, form)
    assert done.returncode == 0, done.stderr
    assert_only_the_culprit_failed(folder, f"log_likelihood killed its process ({how})")


def test_a_suspect_that_lives_gives_the_bits_as_ever(serial, tmp_path):
    folder = fresh(serial, tmp_path / "again")
    (folder / "shards" / "emcee").mkdir(parents=True)
    (folder / "shards" / "emcee" / ".suspect-00000-1-0").write_text('"000000"\n')
    assert task(folder, 0, "datasets").returncode == 0
    assert_same_shards(serial, folder)
    assert not list(folder.rglob(".suspect*"))


class Running:
    """A job in the background, ended with the test at the latest."""

    def __init__(self, folder: Path, ranks: int, form: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            line(folder, ranks, form),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"SLOW": "0.001"},
            start_new_session=True,
        )

    def __enter__(self) -> Running:
        given_up = time.monotonic() + LIMIT_SECONDS
        while not self.steps():
            assert time.monotonic() < given_up, "no step was taken"
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.05)
        return self

    def steps(self) -> bool:
        """Whether a task of this job, and not of one before it, has begun to step."""
        logs = [path.read_text() for path in self.folder.rglob("infer-*.log")]
        last = [log.rpartition("started by")[2] for log in logs]
        return any("step" in log and not re.search(r" after [\d.]+ s", log) for log in last)

    def ranks(self) -> list[int]:
        """Process ids of the ranks."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.folder).encode() in words and b"mpi4py" in words and words[1] == b"-m":
                found.append(int(path.parent.name))
        return found

    def end(self) -> int:
        self.process.communicate(timeout=DEATH_SECONDS)
        return self.process.returncode

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.mark.parametrize("form", ["datasets", "walkers"])
def test_signals_and_kills_in_mid_run_change_no_bit(serial, tmp_path, form):
    folder = made(tmp_path / "job", "time.sleep(float(os.environ.get('SLOW', 0)))", everywhere=True)
    with Running(folder, 2, form) as job:
        assert len(job.ranks()) == 2
        for pid in job.ranks():
            os.kill(pid, signal.SIGUSR2)
        assert job.end() == 75
    with Running(folder, 3, form) as job:
        found = job.ranks()
        assert len(found) == 3
        os.kill(found[-1], signal.SIGKILL)
        assert job.end() != 0
    done = task(folder, 2, form)
    assert done.returncode == 0, done.stderr
    assert_same_shards(serial, folder)
    assert not list(folder.rglob(".suspect*"))
