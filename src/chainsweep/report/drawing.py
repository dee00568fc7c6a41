"""The sections of the data sets, drawn in this process and, where cores are free, in helper processes."""

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
"""The number of sections for which a helper process is worth its start, which takes as long as one section."""

Draw = Callable[[DatasetView], DatasetSection]


class Drawing:
    """The sections of data sets; helpers draw some of them, and this process draws the rest."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.pool: ProcessPoolExecutor | None = None
        self.views: list[DatasetView] = []
        self.begun: dict[int, Future[DatasetSection]] = {}

    def begin(self, view: DatasetView) -> None:
        """Add a section, the next in order."""
        if self.pool is not None:
            with suppress(OSError, BrokenProcessPool):  # no more processes, or a helper that died before it began
                self.begun[len(self.views)] = self.pool.submit(self.draw, view)
        self.views.append(view)

    def sections(self) -> list[DatasetSection]:
        """Draw the sections that no helper has begun, from the last on; wait for the others; return all, in order."""
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
    """Yield a ``Drawing`` and start its helpers; their number depends on the number of ``expected`` sections.

    The sections do not depend on the process that draws them. This process draws the sections of a helper that died,
    and all sections if no helper can be started. An error of a helper is raised by ``sections``. No helper outlives the
    block or this process.
    """
    drawn = Drawing(partial(dataset_section, thresholds=thresholds))
    helpers = count_helpers(expected)
    try:
        with suppress(OSError, NotImplementedError):  # no semaphores here, or no more processes
            if helpers:
                # Helpers are spawned, so that no thread of this process crosses a fork.
                drawn.pool = ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn"), _follow_parent)
                for _ in range(helpers):
                    drawn.pool.submit(_get_ready)
        yield drawn
    finally:
        if drawn.pool is not None:
            drawn.pool.shutdown(cancel_futures=True)


def count_helpers(sections: int) -> int:
    """Return the number of helper processes that are worth their start; 0 if this process may use one core only."""
    free = len(os.sched_getaffinity(0)) - 1
    return max(min(free, (sections - 1) // SECTIONS_PER_PROCESS, MAX_HELPERS), 0)


def _follow_parent() -> None:
    """Make this process end with its parent, however that ends, and end without a message at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _get_ready() -> None:
    """Do nothing; the call makes a helper import this module, and matplotlib with it."""


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
