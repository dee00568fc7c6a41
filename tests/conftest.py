"""Campaigns that tests make for themselves, small enough to run for real."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from chainsweep.machine.compiling import watch
from chainsweep.machine.ending import STOP_SIGNALS
from chainsweep.machine.environment import prepare
from tests.selection import begins, marks_of

# Before any test imports JAX: tests run as a task's process does, with the user's cache of compiled programs, for most
# of their time is JAX compiling.
prepare()
watch()

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers by folder and from one table, before ``-m`` chooses by them; files in the order in which they begin."""

    def file(item: pytest.Item) -> str:
        return item.path.relative_to(TESTS).as_posix()

    for item in items:
        for mark in marks_of(file(item), item.name):
            item.add_marker(mark)
    items.sort(key=lambda item: begins(file(item)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no test after the time ``TESTS_END_AT`` (seconds since 1970), so that a limited run ends with a result."""
    if time.time() > float(os.environ.get("TESTS_END_AT", "inf")):
        pytest.skip(f"NOT RUN, the time of this run was over: {item.nodeid}")


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command that ran in this process would end it 45 s after a signal that a later test sends to itself."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module() -> Iterator[None]:
    """A process that keeps the programs of all modules grows to gigabytes, and XLA has crashed in one."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


LINE_MODEL = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    mu = numpyro.deterministic("mu", a + b * x)
    numpyro.sample("obs", dist.Normal(mu, y_err), obs=y)
"""

LINE_CONFIG = """
[campaign]
name = "lines"
seed = 3

[model]
file = "model.py"
observed = ["y"]
curve = "mu"
x = "x"

[data]
source = "data.npz"
fields = { x = "x", y = "y", y_err = "y_err" }
"""


def line_data(datasets: int, points: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Straight lines with known parameters: arrays of an NPZ source."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, (datasets, 2))
    x = np.sort(rng.uniform(-1, 1, (datasets, points)), axis=1)
    y_err = rng.uniform(0.2, 0.6, (datasets, points))
    y = truth[:, :1] + truth[:, 1:] * x + y_err * rng.standard_normal(x.shape)
    return {"x": x, "y": y, "y_err": y_err, "truth_a": truth[:, 0], "truth_b": truth[:, 1]}


def write_lines(folder: Path, config: str = LINE_CONFIG, model: str = LINE_MODEL, data: dict | None = None) -> Path:
    """Write a model, its data and campaign.toml into ``folder``, and return the path of the last."""
    (folder / "model.py").write_text(model)
    (folder / "campaign.toml").write_text(config)
    np.savez(folder / "data.npz", **(line_data(6) if data is None else data))
    return folder / "campaign.toml"


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes model, data and campaign.toml, and returns the path of the last."""

    def write(
        *, model: str = LINE_MODEL, config: str = LINE_CONFIG, data: dict | None = None, name: str = "job"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return write_lines(folder, config, model, data)

    return write
