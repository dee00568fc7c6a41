"""The sections of the data sets, drawn in this process and, where cores are free, in helpers beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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


@contextmanager
def drawing(views: Sequence[DatasetView], thresholds: Thresholds) -> Iterator[Callable[[], list[DatasetSection]]]:
    """Let helpers begin with the sections; what is yielded draws the rest here and returns all, in order.

    The sections are the same whoever draws them. What a helper that died leaves is drawn here, as is everything where
    the system gives no helper. An error of a helper is raised by the call. No helper outlives the block, nor this
    process.
    """
    draw = partial(dataset_section, thresholds=thresholds)
    helpers = count_helpers(len(views))
    pool = None
    begun: dict[int, Future[DatasetSection]] = {}
    try:
        with suppress(OSError, NotImplementedError):  # no semaphores here, or no more processes
            if helpers:
                # Spawned, so that no thread of this process crosses a fork.
                pool = ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn"), _follow_parent)
                for place, view in enumerate(views):
                    begun[place] = pool.submit(draw, view)
        yield partial(_shared, begun, views, draw)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def count_helpers(sections: int) -> int:
    """Processes beside this one that are worth their start, as far as this one may use more cores than one."""
    free = len(os.sched_getaffinity(0)) - 1
    return max(min(free, (sections - 1) // SECTIONS_PER_PROCESS, MAX_HELPERS), 0)


def _follow_parent() -> None:
    """End with the parent, however that ends, and without a word at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _shared(
    begun: Mapping[int, Future[DatasetSection]], views: Sequence[DatasetView], draw: Draw
) -> list[DatasetSection]:
    """Draw here, from the end, what no helper has begun; then wait for the others."""
    own = {
        place: draw(view)
        for place, view in reversed(list(enumerate(views)))
        if place not in begun or begun[place].cancel()
    }
    return [own[place] if place in own else _received(begun[place], view, draw) for place, view in enumerate(views)]


def _received(future: Future[DatasetSection], view: DatasetView, draw: Draw) -> DatasetSection:
    try:
        return future.result()
    except BrokenProcessPool:
        return draw(view)
