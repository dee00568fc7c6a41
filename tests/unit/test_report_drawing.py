"""Sections drawn by helpers: the same pictures, clear errors, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chainsweep.report import drawing as module
from chainsweep.report.dataset_section import DatasetSection, dataset_section
from chainsweep.report.drawing import MAX_HELPERS, Drawing, count_helpers, drawing
from chainsweep.report.views import DatasetView, EngineView, Thresholds


def view(name: str, parameters: tuple[str, ...] = ("l",)) -> DatasetView:
    draws = np.random.default_rng(len(name)).normal(size=(2, 60, 1))
    table = pd.DataFrame(columns=["mean", "sd", "median", "q05", "q95"], dtype=float)
    return DatasetView(name, "first", parameters, {}, (EngineView("nuts", "converged", "", {}, table, draws=draws),))


def drawn_sections(views: list[DatasetView]) -> list[DatasetSection]:
    with drawing(len(views), Thresholds()) as drawn:
        for one in views:
            drawn.begin(one)
        return drawn.sections()


@pytest.mark.parametrize(("cores", "sections", "expected"), [(1, 24, 0), (2, 2, 0), (2, 24, 1), (8, 5, 2), (64, 24, 7)])
def test_helpers_are_as_many_as_pay(monkeypatch, cores, sections, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert count_helpers(sections) == expected <= MAX_HELPERS


def test_the_bytes_are_the_same_whoever_draws(monkeypatch):
    monkeypatch.setattr(module, "count_helpers", lambda sections: 1)
    views = [view("a"), view("bb"), view("ccc"), view("dddd")]
    shared = drawn_sections(views)
    assert [section.anchor for section in shared] == [f"dataset-{view.dataset_id}" for view in views]
    assert [section.pictures for section in shared] == [dataset_section(view, Thresholds()).pictures for view in views]


def test_an_error_of_a_helper_is_raised_here(monkeypatch):
    monkeypatch.setattr(module, "count_helpers", lambda sections: 1)
    with pytest.raises(IndexError):
        drawn_sections([view("wrong", ("l", "m")), view("a")])


def test_what_a_dead_helper_leaves_is_drawn_here():
    lost: Future = Future()
    lost.set_running_or_notify_cancel()
    lost.set_exception(BrokenProcessPool())
    drawn = Drawing(partial(dataset_section, thresholds=Thresholds()))
    for one in (view("a"), view("bb")):
        drawn.begin(one)
    drawn.begun[0] = lost
    assert [section.view.dataset_id for section in drawn.sections()] == ["a", "bb"]


def test_a_helper_that_dies_before_it_begins_leaves_all_to_this_process(monkeypatch):
    monkeypatch.setattr(module, "count_helpers", lambda sections: 1)
    monkeypatch.setattr(module, "_get_ready", partial(os._exit, 1))
    with drawing(2, Thresholds()) as drawn:
        with suppress(BrokenProcessPool):
            drawn.pool.submit(partial(os._exit, 1)).result()
        for one in (view("a"), view("bb")):
            drawn.begin(one)
        assert not drawn.begun
        assert [section.view.dataset_id for section in drawn.sections()] == ["a", "bb"]


def test_without_semaphores_everything_is_drawn_here(monkeypatch):
    def none(*_: object) -> None:
        raise OSError("no semaphores")

    monkeypatch.setattr(module, "count_helpers", lambda sections: 1)
    monkeypatch.setattr(module, "ProcessPoolExecutor", none)
    assert len(drawn_sections([view("a")])) == 1


PROGRAM = """
import multiprocessing, time
from chainsweep.report import drawing
from tests.unit.test_report_drawing import Thresholds, view
if __name__ == "__main__":
    drawing.count_helpers = lambda sections: 1
    with drawing.drawing(2, Thresholds()) as drawn:
        drawn.begin(view("a"))
        drawn.sections()
        print(multiprocessing.active_children()[0].pid, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_helper_outlives_its_parent(how):
    line = [sys.executable, "-c", PROGRAM]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder) as parent:
        assert parent.stdout is not None
        helper = Path(f"/proc/{int(parent.stdout.readline())}")
        assert helper.exists()
        parent.send_signal(how)
    end = time.monotonic() + 20
    while helper.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not helper.exists()
