"""A signal ends `run` and `task` soon, whatever a model does, and nothing saved is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.freeze import init_campaign
from chainsweep.run import local
from chainsweep.run.local import LocalRun
from tests.conftest import line_data
from tests.contract.test_mpi import CONFIG, assert_same_arrays

MODEL = """
import os, signal, subprocess, time
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}
calls = 0

def log_likelihood(params, x, y, y_err, kind):
    global calls
    calls += 1
    if kind and calls > 300 and "HANGS" in os.environ:
        if kind == 1:
            said(kind)
            while True:
                pass
        if kind == 2:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            said(kind)
            time.sleep(1e6)
        if kind == 3:
            child = subprocess.Popen(["sleep", "1e6"])
            said(kind, child.pid)
            child.wait()
        if kind == 4:
            said(kind)
            os.kill(os.getpid(), signal.SIGSTOP)
    residual = (y - params["a"] - params["b"] * x) / y_err
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * y_err**2))

def said(kind, what=""):
    with open(os.path.join(os.environ["HANGS"], f"{kind:g}"), "w") as file:
        file.write(str(what))
"""


def made(folder: Path, kinds: list[float]):
    """A campaign of one line a shard; those of a ``kind`` hang, each in its way, where HANGS names a folder."""
    (folder / "hangs").mkdir()
    (folder / "model.py").write_text(MODEL)
    config = CONFIG.replace("size = 2", "size = 1").replace("[policy]", 'constants = ["kind"]\n\n[policy]')
    (folder / "campaign.toml").write_text(config)
    np.savez(folder / "data.npz", **line_data(len(kinds)), kind=np.array(kinds))
    return init_campaign(folder / "campaign.toml", folder / "campaign", None)


def when_hung(folder: Path, count: int, then, *published: Path) -> threading.Thread:
    """A thread that calls ``then`` when ``count`` likelihoods hang, and the ``published`` files are there."""

    def hung() -> list[Path]:
        return [path for path in (folder / "hangs").iterdir() if path.stat().st_size or path.name != "3"]

    def wait() -> None:
        given_up = time.monotonic() + 120
        while len(hung()) < count or not all(path.exists() for path in published):
            if time.monotonic() > given_up:
                break
            time.sleep(0.1)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_signal_ends_a_run_whose_tasks_hang_and_the_next_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 1.0)
    campaign = made(tmp_path, [0, 1, 2, 3, 4])
    monkeypatch.setenv("HANGS", str(tmp_path / "hangs"))
    told = []

    def tell() -> None:
        told.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    when_hung(tmp_path, 4, tell, campaign.paths.shard("emcee", 0))
    outcome = LocalRun(campaign, ("emcee",), 5, lambda message: None).run()
    assert time.monotonic() - told[0] < 10
    assert outcome.stopped
    assert not outcome.failed
    assert not runs(int((tmp_path / "hangs" / "3").read_text()))
    assert len(outcome.killed) == 4
    for shard in range(1, 5):
        (line,) = [line for line in outcome.killed if line.startswith(f"infer emcee {shard} ")]
        assert f"had not stopped 1 s after the signal in a call for data set {shard:06d}" in line
        assert line in campaign.paths.log("infer", shard).read_text()
    monkeypatch.delenv("HANGS")
    ended = LocalRun(campaign, ("emcee",), 2, lambda message: None)
    ended.final = []
    again = ended.run()
    assert not again.stopped
    assert not again.failed
    (tmp_path / "straight").mkdir()
    straight = made(tmp_path / "straight", [0, 1, 2, 3, 4])
    untouched = LocalRun(straight, ("emcee",), 2, lambda message: None)
    untouched.final = []
    untouched.run()
    assert_same_arrays(campaign.paths.root, straight.paths.root)


@pytest.mark.parametrize(("grace", "twice"), [("1.0", False), ("1000.0", True)])
def test_a_task_alone_ends_itself(tmp_path, grace, twice):
    campaign = made(tmp_path, [3])
    program = (
        "import sys; from chainsweep.machine import ending; "
        f"ending.end_late.__defaults__ = ({grace},); from chainsweep.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "task", str(campaign.paths.root), "infer", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HANGS": str(tmp_path / "hangs")},
    )
    when_hung(tmp_path, 1, process.terminate).join()
    if twice:
        time.sleep(1.2)
        process.terminate()
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 75
    assert ("was told to stop twice" if twice else "had not stopped 1 s after the signal") in stderr
    assert not runs(int((tmp_path / "hangs" / "3").read_text()))
