"""The contract of every engine: the arguments and the result of its ``run``.

``run(problem, batch, settings, seeds, *, limits, sink, resume, deadline, inputs) -> Outcome``

An engine knows neither paths nor Slurm nor MPI ranks. It imports no file format and no scheduler.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chainsweep.engines.chains import Chains
from chainsweep.numerics.arrays import Arrays, Floats


class Status(enum.Enum):
    """The end of a run: complete or stopped; the values are the sentences shown to the user."""

    COMPLETE = "every data set reached a verdict or its budget"
    STOPPED = "stopped early; the state is saved and the next attempt continues from it"


@dataclass(frozen=True)
class Outcome:
    """The result of ``run``: ``chains`` is None exactly when ``status`` is STOPPED."""

    status: Status
    chains: Chains | None = None


@dataclass(frozen=True)
class Inputs:
    """The things that an engine may be given besides data sets and settings; each engine takes what it knows."""

    trained: Any = None
    """The network of the campaign, for an engine that trains one."""
    draws_elsewhere: Callable[[tuple[str, ...]], Floats] | None = None
    """The function that returns constrained draws ``(dataset, draw, ndim)`` of another campaign for some ids, NaN for
    ids that it has no draws of. Chains may start there; nothing else is concluded from them."""
    device: str = "cpu"
    """The device of torch, ``cpu`` or ``cuda``."""


NO_INPUTS = Inputs()


class Sink(Protocol):
    """The place where an engine saves its state and reports its progress."""

    def checkpoint(self, state: Arrays) -> None:
        """Replace the saved state by ``state`` (flat dict of arrays), durably."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Say how many of ``total`` units of work (any unit) are done."""


Deadline = Callable[[], bool]
"""True when the engine must save its state and return ``STOPPED`` at the next block boundary."""
