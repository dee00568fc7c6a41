"""The bank of simulations that a costly simulator fills once, for a network to be trained on.

The simulations of a chunk depend on its number alone: any split over tasks, killed or not, gives the same ones.
Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.engines.base import Deadline, Sink
from chainsweep.engines.snpe.designs import jittered, usable_designs
from chainsweep.engines.snpe.entry import SNPE
from chainsweep.engines.snpe.job import Job
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.engines.snpe.simulator import (
    VALIDATION_BLOCK,
    Bank,
    Pairs,
    Rows,
    Simulator,
    shares,
    simulators_of,
    usable_rows,
)
from chainsweep.errors import ModelError
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, strip_prefix, with_prefix

BANK_CHUNK = 500
"""Simulations of a host simulator between two looks at the deadline."""
BANK_SAVES = 20


def simulate(
    problem: Problem,
    designs: Sequence[Batch],
    settings: SnpeSettings,
    seed: int,
    *,
    simulations: tuple[int, int],
    sink: Sink,
    resume: Mapping[str, NDArray] | None,
    deadline: Deadline,
) -> Arrays | None:
    """Make the simulations ``simulations[0]`` to ``simulations[1]`` that a network is trained on, in whole chunks.

    Return None if ``deadline`` came first. Any split into ranges gives the same simulations. Arguments and errors are
    those of ``snpe.train``.
    """
    SNPE.require(problem)
    job = Job(problem, settings, seed, sink, deadline, "cpu")
    batches, _ = usable_designs(problem, jittered(problem, designs, settings.tuning.jitter, seed))
    first, last = (-(-number // BANK_CHUNK) for number in simulations)
    simulators = simulators_of(problem, batches, seed)
    bank = bank_from_arrays(resume or {}, len(batches))
    if first < last:
        bank = fill_bank(job, simulators, (first, last), bank)
    return None if bank is None else bank_arrays(bank)


def joined_bank(parts: Sequence[Mapping[str, NDArray]], buckets: int) -> list[Rows]:
    """The simulations that ``simulate`` gave for consecutive ranges, joined to one bank."""
    banks = [bank for part in parts if (bank := bank_from_arrays(part, buckets)) is not None]
    whole = banks[0]
    for bank in banks[1:]:
        whole = [join(*pair) for pair in zip(whole, bank, strict=True)]
    return whole


def bank_of(parts: Sequence[Pairs], seed: int) -> Bank:
    """One bank of the pairs of all buckets, in a random order, without unusable rows.

    Raises
    ------
    ModelError
        Fewer than half of the simulations are usable.
    """
    packed, w = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    usable = usable_rows(packed, w)
    if usable.sum() < max(2, len(w) / 2):
        raise ModelError(
            f"snpe: only {usable.sum()} of {len(w)} simulations have finite observations and parameters; "
            "check 'simulate' in the model file for exceptions, NaN and overflow"
        )
    order = np.random.Generator(np.random.Philox(key=[seed, VALIDATION_BLOCK])).permutation(np.flatnonzero(usable))
    return Bank((packed[order], w[order]), seed)


def bank_arrays(bank: Sequence[Rows]) -> Arrays:
    """The simulations of all buckets as flat arrays under ``bank/``."""
    arrays: Arrays = {}
    for number, rows in enumerate(bank):
        observed = with_prefix("observed", rows.observed)
        arrays |= with_prefix(f"bank/{number}", {"index": rows.index, "z": rows.z, **observed})
    return arrays


def bank_from_arrays(arrays: Mapping[str, NDArray], buckets: int) -> list[Rows] | None:
    """The inverse of `bank_arrays`; None where nothing is stored."""
    groups = [strip_prefix(f"bank/{number}", arrays) for number in range(buckets)]
    if not all(groups):
        return None
    return [Rows(group["index"], group["z"], strip_prefix("observed", group)) for group in groups]


def fill_bank(
    job: Job, simulators: Sequence[Simulator], chunks: tuple[int, int], bank: list[Rows] | None
) -> list[Rows] | None:
    """Return ``bank`` with all its chunks of simulations; None if the deadline came first (those made are saved)."""
    split = shares(np.array([len(simulator.batch) for simulator in simulators]), BANK_CHUNK)
    first, last = chunks
    done = sum(len(rows.z) for rows in bank) // BANK_CHUNK if bank else 0
    save_every = max(1, (last - first) // BANK_SAVES)
    lost = sum(map(count_unusable, bank or []))
    for chunk in range(first + done, last):
        if job.deadline():
            job.sink.checkpoint(bank_arrays(bank or []))
            return None
        fresh = [simulator.rows(chunk + 1, count) for simulator, count in zip(simulators, split, strict=True)]
        bank = fresh if bank is None else [join(*pair) for pair in zip(bank, fresh, strict=True)]
        made = (chunk + 1 - first) * BANK_CHUNK
        lost += sum(map(count_unusable, fresh))
        note = f"simulating; {lost} of {made} are no numbers and will be dropped" if lost else "simulating"
        job.sink.progress(made, (last - first) * BANK_CHUNK, note)
        if (chunk + 1 - first) % save_every == 0:
            job.sink.checkpoint(bank_arrays(bank))
    return bank


def count_unusable(rows: Rows) -> int:
    """The number of simulations with parameters or observations that are not finite."""
    usable = np.isfinite(rows.z).all(axis=1)
    for values in rows.observed.values():
        usable &= np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return int((~usable).sum())


def join(first: Rows, second: Rows) -> Rows:
    """Both sets of simulations of one bucket, in order."""
    observed = {name: np.concatenate([first.observed[name], second.observed[name]]) for name in first.observed}
    return Rows(np.concatenate([first.index, second.index]), np.concatenate([first.z, second.z]), observed)
