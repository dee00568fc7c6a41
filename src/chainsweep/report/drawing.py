"""The sections of the data sets, drawn in this process and, where cores are free, in helpers beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial

from chainsweep.report.dataset_section import DatasetSection, dataset_section
from chainsweep.report.views import DatasetView, Thresholds

MAX_HELPERS = 7
SECTIONS_PER_PROCESS = 2
"""A helper must import matplotlib first, which takes as long as a section."""

Draw = Callable[[DatasetView], DatasetSection]


class Drawing:
    """The sections of data sets: each may be begun by a helper, and the rest is drawn here."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.pool: ProcessPoolExecutor | None = None
        self.views: list[DatasetView] = []
        self.begun: dict[int, Future[DatasetSection]] = {}

    def begin(self, view: DatasetView) -> None:
        """Add a section, the next in order."""
        if self.pool is not None:
            with suppress(OSError):  # no more processes
                self.begun[len(self.views)] = self.pool.submit(self.draw, view)
        self.views.append(view)

    def sections(self) -> list[DatasetSection]:
        """Draw here, from the end, what no helper has begun; wait for the others, and return all, in order."""
        own = {
            place: self.draw(view)
            for place, view in reversed(list(enumerate(self.views)))
            if place not in self.begun or self.begun[place].cancel()
        }
        return [
            own[place] if place in own else _received(self.begun[place], view, self.draw)
            for place, view in enumerate(self.views)
        ]


@contextmanager
def drawing(expected: int, thresholds: Thresholds) -> Iterator[Drawing]:
    """Yield a ``Drawing`` whose helpers start now, as many as this number of ``expected`` sections is worth.

    The sections are the same whoever draws them. What a helper that died leaves is drawn here, as is everything where
    the system gives no helper. An error of a helper is raised by ``sections``. No helper outlives the block, nor this
    process.
    """
    drawn = Drawing(partial(dataset_section, thresholds=thresholds))
    helpers = count_helpers(expected)
    try:
        with suppress(OSError, NotImplementedError):  # no semaphores here, or no more processes
            if helpers:
                # Spawned, so that no thread of this process crosses a fork.
                drawn.pool = ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn"), _follow_parent)
                for _ in range(helpers):
                    drawn.pool.submit(_get_ready)
        yield drawn
    finally:
        if drawn.pool is not None:
            drawn.pool.shutdown(cancel_futures=True)


def count_helpers(sections: int) -> int:
    """Processes beside this one that are worth their start, as far as this one may use more cores than one."""
    free = len(os.sched_getaffinity(0)) - 1
    return max(min(free, (sections - 1) // SECTIONS_PER_PROCESS, MAX_HELPERS), 0)


def _follow_parent() -> None:
    """End with the parent, however that ends, and without a word at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _get_ready() -> None:
    """Do nothing: to be sent here, this module was imported, and matplotlib with it."""


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _received(future: Future[DatasetSection], view: DatasetView, draw: Draw) -> DatasetSection:
    try:
        return future.result()
    except BrokenProcessPool:
        return draw(view)
