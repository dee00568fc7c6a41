"""The contract of every engine: the arguments and the result of its ``run``.

``run(problem, batch, settings, seeds, *, limits, sink, resume, deadline, inputs) -> Outcome``

An engine knows neither paths nor Slurm nor MPI ranks. It imports no file format and no scheduler.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chainsweep.numerics.arrays import Arrays


class DrawKind(enum.StrEnum):
    """The dependence between the draws of an engine, which decides which diagnostics apply."""

    ENSEMBLE = "ensemble"
    """Chains of interacting walkers: the chain axis holds independent ensembles; tau applies."""
    MARKOV = "markov"
    """Independent Markov chains: rank-normalised R-hat, bulk and tail ESS, divergences."""
    WEIGHTED = "weighted"
    """Independent draws with importance weights: Pareto k-hat, efficiency."""


@dataclass(frozen=True)
class Chains:
    """Draws of every data set of a batch.

    ``posterior[name]`` has shape ``(dataset, chain, draw, *parameter shape)`` in the constrained space,
    ``sample_stats[name]`` has shape ``(dataset, chain, draw)``. Data set ``i`` has ``n_draws[i]`` draws in
    each chain, all at the front; NaN behind them. ``info[name]`` has shape ``(dataset,)`` or
    ``(dataset, chain)``: figures that diagnostics need, but no later step. ``failures`` maps the position of a
    data set in the batch to the reason why it has no draws (its ``n_draws`` is 0).
    """

    kind: DrawKind
    posterior: Arrays
    sample_stats: Arrays
    n_draws: NDArray[np.int64]
    info: Arrays = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64]) -> Chains:
        """The draws of the data sets at positions ``rows``."""
        posterior, stats, info = (
            {name: values[rows] for name, values in arrays.items()}
            for arrays in (self.posterior, self.sample_stats, self.info)
        )
        failures = {k: self.failures[int(row)] for k, row in enumerate(rows) if int(row) in self.failures}
        return Chains(self.kind, posterior, stats, self.n_draws[rows], info, failures)


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
    draws_elsewhere: Callable[[tuple[str, ...]], NDArray[np.float64]] | None = None
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
