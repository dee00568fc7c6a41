"""A call that does not return: its data set fails by name, and the others get the draws that they get without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chainsweep.black_box.host import HostCalls
from chainsweep.campaign.freeze import init_campaign
from chainsweep.errors import ConfigError, ModelError
from chainsweep.model.host import HostCall, Simulation
from tests.conftest import LINE_CONFIG, line_data
from tests.contract.test_mpi import content, task
from tests.contract.test_stopping import runs

MODEL = """
import pathlib, signal, subprocess, time
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}
HERE = pathlib.Path(__file__).parent

def hang(kind, a):
    if kind == 1:
        while True:
            pass
    if kind == 2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1e6)
    if kind == 3 and a > 0.5:
        child = subprocess.Popen(["sleep", "1e6"])
        (HERE / "child").write_text(str(child.pid))
        child.wait()
    if kind == 4:
        time.sleep(0.1)

def log_likelihood(params, x, y, y_err, kind):
    hang(kind, params["a"])
    residual = (y - params["a"] - params["b"] * x) / y_err
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * y_err**2))

def simulate(params, rng, x, y_err, kind):
    hang(kind - 10, params["a"])
    return params["a"] + params["b"] * x + y_err * rng.standard_normal(x.shape)
"""

CONFIG = (
    LINE_CONFIG.replace('curve = "mu"\n', "call_timeout_s = LIMIT\n")
    + """
constants = ["kind"]

[policy]
engines = ["emcee"]

[engines.emcee]
walkers = 8
max_steps = 150
prior_draws = 64

[engines.emcee.tuning]
check_every = 50

[shards]
size = 8
"""
)


def made(folder: Path, kinds: list[float], limit: float | None = 1.0):
    """A campaign of one shard of lines; those of a ``kind`` hang, each in its way."""
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    limited = "" if limit is None else f"call_timeout_s = {limit}"
    (folder / "campaign.toml").write_text(CONFIG.replace("call_timeout_s = LIMIT", limited))
    np.savez(folder / "data.npz", **line_data(len(kinds)), kind=np.array(kinds, float))
    return init_campaign(folder / "campaign.toml", folder / "campaign", None)


def summary(root: Path) -> list[tuple[str, str]]:
    """Verdict and reason of each data set."""
    found = content(root)
    return list(zip(*(found[f"00000/summary/{name}"].astype(str) for name in ("verdict", "reason")), strict=True))


def assert_same_draws(one: dict[str, np.ndarray], other: dict[str, np.ndarray], rows: list[int]) -> None:
    """The draws of ``rows`` are the same bits; those of the longest chain, which others are padded to, may be gone."""
    for row in rows:
        length = one["00000/n_draws"][row]
        assert length == other["00000/n_draws"][row] > 0
        for name in ("posterior/a", "posterior/b", "sample_stats/lp"):
            first, second = (found[f"00000/{name}"][row, :, :length] for found in (one, other))
            np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """What is published of the same lines where no call hangs, and none is limited."""
    root = made(tmp_path_factory.mktemp("healthy") / "job", [0] * 5, limit=None).paths.root
    assert task(root, 0, "datasets", indices=("0",)).returncode == 0
    return content(root)


@pytest.mark.parametrize(
    ("form", "ranks", "kinds"), [("datasets", 0, [0, 1, 0, 2, 3]), ("walkers", 2, [0, 0, 3, 0, 0])]
)
def test_one_whose_call_does_not_return_fails_and_the_others_get_the_same_bits(tmp_path, healthy, form, ranks, kinds):
    sick = made(tmp_path / "sick", kinds).paths.root
    done = task(sick, ranks, form, indices=("0",))
    assert done.returncode == 0, done.stderr
    found = summary(sick)
    hung = [row for row, kind in enumerate(kinds) if kind]
    assert [row for row, (verdict, _) in enumerate(found) if verdict == "failed"] == hung
    for row in hung:
        assert "log_likelihood took longer than [model] call_timeout_s = 1 s for data set" in found[row][1]
        assert f"data set {row:06d}, and its process was ended; at a = " in found[row][1]
    assert not runs(int((sick / "child").read_text()))
    assert_same_draws(content(sick), healthy, [row for row, kind in enumerate(kinds) if not kind])
    assert not list(sick.rglob(".suspect*"))


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Lines that are slow, and whose simulator hangs always, at some parameters, or never."""
    return made(tmp_path_factory.mktemp("timeout") / "job", [4, 11, 13, 0])


@pytest.fixture
def calls(campaign):
    calls = HostCalls(campaign.paths.root, 0.5)
    yield calls
    calls.close()


def simulated(campaign, row: int, a: float) -> HostCall:
    """A call for one simulation of a data set."""
    fields, constants = campaign.dataset(f"{row:06d}")
    design = {name: values for name, values in fields.items() if name != "y"}
    wanted = Simulation(7, {"y": fields["y"].shape})
    return HostCall(f"{row:06d}", np.array([[a, 0.2]]), design | constants, simulation=wanted)


def test_the_limit_is_of_one_call_and_not_of_many(campaign, calls):
    fields, constants = campaign.dataset("000000")
    (answer,) = calls(campaign.problem, [HostCall("000000", np.full((12, 2), 0.1), {**fields, **constants})])
    assert answer.failure == ""
    assert np.isfinite(answer.values).all()


def test_simulations_that_do_not_end_are_lost_and_the_others_are_as_without_a_limit(campaign, calls):
    wanted = [simulated(campaign, row, a) for row, a in ((1, 0.1), (2, 0.1), (2, 0.9), (2, 0.2), (3, 0.9))]
    answers = list(calls(campaign.problem, wanted))
    assert [bool(answer.failure) for answer in answers] == [True, False, True, False, False]
    assert "simulate took longer than [model] call_timeout_s = 0.5 s for data set 000002" in answers[2].failure
    assert not runs(int((campaign.paths.root / "child").read_text()))
    assert np.isnan(answers[0].simulated["y"]).all()
    free = list(HostCalls(campaign.paths.root)(campaign.problem, [wanted[k] for k in (1, 3, 4)]))
    for limited, plain in zip((answers[1], answers[3], answers[4]), free, strict=True):
        np.testing.assert_array_equal(limited.simulated["y"], plain.simulated["y"])


def test_a_design_whose_simulations_never_end_is_given_up_after_some(campaign):
    calls = HostCalls(campaign.paths.root, 0.05)
    calls.lost["000001"] = 7
    call = simulated(campaign, 1, 0.1)
    (answer,) = calls(campaign.problem, [call])
    assert calls.dead == {"000001": answer.failure}
    assert calls._guard is None
    (again,) = calls(campaign.problem, [call])
    assert again.failure == answer.failure
    assert calls._guard is None


def test_a_compiled_model_has_no_calls_to_limit(write_job):
    config = LINE_CONFIG.replace('curve = "mu"', "call_timeout_s = 5")
    job = write_job(config=config)
    with pytest.raises(ModelError, match="call_timeout_s limits calls of 'log_likelihood' and 'simulate'"):
        init_campaign(job, job.with_name("out"), None)


def test_a_limit_must_be_positive(write_job):
    job = write_job(config=LINE_CONFIG.replace('curve = "mu"', "call_timeout_s = 0"))
    with pytest.raises(ConfigError, match=r"model\.call_timeout_s.*greater than 0"):
        init_campaign(job, job.with_name("out"), None)
