"""The contract of every engine: what ``run`` is given, and what it gives back.

``run(problem, batch, settings, seeds, *, sink, resume, deadline) -> Outcome``

An engine knows neither paths nor Slurm nor MPI ranks. It imports no file format and no scheduler.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]


def prefixed(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The same arrays under ``prefix/``."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def under(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The arrays under ``prefix/``, without it."""
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}


class DrawKind(enum.StrEnum):
    """How the draws of an engine depend on each other, hence which diagnostics apply."""

    ENSEMBLE = "ensemble"
    """Chains of interacting walkers: the chain axis holds independent ensembles; tau applies."""
    MARKOV = "markov"
    """Independent Markov chains: rank-normalised R-hat, bulk and tail ESS, divergences."""
    WEIGHTED = "weighted"
    """Independent draws with importance weights: Pareto k-hat, efficiency."""


@dataclass(frozen=True)
class Seeds:
    """Seeds of the data sets of one batch for one engine.

    A seed is a hash of (campaign seed, data set id, engine, purpose, chain), so neither the order of work
    nor the composition of a shard changes it.
    """

    campaign_seed: int
    engine: str

    def entropy(self, dataset_id: str, purpose: str, chain: int = 0) -> int:
        """A 128-bit integer for ``numpy.random.Philox(key=...)`` or ``SeedSequence``."""
        text = "\0".join((str(self.campaign_seed), dataset_id, self.engine, purpose, str(chain)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    def generator(self, dataset_id: str, purpose: str, chain: int = 0) -> np.random.Generator:
        """A NumPy generator of its own for one data set, purpose and chain."""
        return np.random.Generator(np.random.Philox(key=self.entropy(dataset_id, purpose, chain)))

    def jax_keys(self, dataset_ids: tuple[str, ...], purpose: str, chains: int) -> NDArray[np.uint32]:
        """Raw threefry keys, shape ``(dataset, chain, 2)``."""
        words = [
            [self.entropy(dataset_id, purpose, chain) & (2**64 - 1) for chain in range(chains)]
            for dataset_id in dataset_ids
        ]
        keys = np.array(words, dtype=np.uint64).reshape(len(dataset_ids), chains)
        return np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=-1).astype(np.uint32)


@dataclass(frozen=True)
class Chains:
    """Draws of every data set of a batch.

    ``posterior[name]`` has shape ``(dataset, chain, draw, *parameter shape)`` in the constrained space,
    ``sample_stats[name]`` has shape ``(dataset, chain, draw)``. Data set ``i`` has ``n_draws[i]`` draws in
    each chain, all at the front; NaN behind them. ``info[name]`` has shape ``(dataset,)`` or
    ``(dataset, chain)``: what diagnostics need and no next step does. ``failures`` maps the position of a
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
    """How a run ended; the values are the sentences shown to the user."""

    COMPLETE = "every data set reached a verdict or its budget"
    STOPPED = "stopped early; the state is saved and the next attempt continues from it"


@dataclass(frozen=True)
class Outcome:
    """What ``run`` returns: ``chains`` is None exactly when ``status`` is STOPPED."""

    status: Status
    chains: Chains | None = None


class Sink(Protocol):
    """Where an engine leaves what must outlive it."""

    def checkpoint(self, state: Arrays) -> None:
        """Replace the saved state by ``state`` (flat dict of arrays), durably."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Say how many of ``total`` units of work (any unit) are done."""


Deadline = Callable[[], bool]
"""True when the engine must save its state and return ``STOPPED`` at the next block boundary."""
