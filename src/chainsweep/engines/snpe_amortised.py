"""Training one network for a whole campaign, or for whatever data sets are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.engines.base import Arrays
from chainsweep.engines.snpe_simulate import (
    ROWS_PER_BLOCK,
    VALIDATION_BLOCK,
    Bank,
    FreshSimulations,
    Pairs,
    Rows,
    Simulator,
    encode_rows,
    shares,
    usable_rows,
)
from chainsweep.engines.snpe_trained import (
    Trained,
    architecture_of,
    finish,
    fit_encoder,
    prefixed,
    under,
    usable_designs,
)
from chainsweep.engines.snpe_training import Job, Trainer, fit
from chainsweep.errors import ModelError

PILOT_BLOCK = 2**31 - 1
"""Number of the block of simulations that standardises the features."""
BANK_CHUNK = 500
"""Simulations of a host simulator between two looks at the deadline."""
BANK_SAVES = 20


def simulate_bank(
    job: Job, designs: Sequence[Batch], simulations: tuple[int, int], resume: Mapping[str, NDArray]
) -> Arrays | None:
    """Simulations of this range of numbers, whole chunks of them; None when the deadline came first."""
    batches, _ = usable_designs(job.problem, designs)
    first, last = (-(-number // BANK_CHUNK) for number in simulations)
    simulators = _simulators(job, batches)
    bank = bank_from_arrays(resume, len(batches))
    if first < last:
        bank = _bank(job, simulators, (first, last), bank)
    return None if bank is None else bank_arrays(bank)


def joined_bank(parts: Sequence[Mapping[str, NDArray]], buckets: int) -> list[Rows]:
    """What ``simulate_bank`` gave for consecutive ranges, as one bank."""
    banks = [bank for part in parts if (bank := bank_from_arrays(part, buckets)) is not None]
    whole = banks[0]
    for bank in banks[1:]:
        whole = [join(*pair) for pair in zip(whole, bank, strict=True)]
    return whole


def _simulators(job: Job, batches: Sequence[Batch]) -> list[Simulator]:
    return [Simulator(job.problem, batch, job.seed + number) for number, batch in enumerate(batches)]


def train_amortised(
    job: Job, designs: Sequence[Batch], resume: Mapping[str, NDArray], made: Sequence[Mapping[str, NDArray]] | None
) -> Trained | None:
    """One network for all ``designs``; None when the deadline came first.

    A black box is simulated here where nobody has ``made`` its simulations.
    """
    problem, settings, seed = job.problem, job.settings, job.seed
    batches, spaces = usable_designs(problem, designs)
    simulators = _simulators(job, batches)
    bank = None
    if problem.black_box and made is not None:
        bank = joined_bank(made, len(batches))
    elif problem.black_box:
        chunks = -(-settings.bank_simulations // BANK_CHUNK)
        bank = _bank(job, simulators, (0, chunks), bank_from_arrays(resume, len(simulators)))
    if problem.black_box and bank is None:
        return None
    split = shares(np.array([len(batch) for batch in batches]), ROWS_PER_BLOCK)
    rows = bank or [simulator.rows(PILOT_BLOCK, count) for simulator, count in zip(simulators, split, strict=True)]
    encoder = fit_encoder(problem, batches, spaces, rows, settings.grid)
    provider: Bank | FreshSimulations = (
        bank_of([encode_rows(encoder, *parts) for parts in zip(batches, spaces, bank, strict=True)], seed)
        if bank
        else FreshSimulations(simulators, spaces, encoder)
    )
    sizes = architecture_of(problem, encoder, settings)
    trainer = Trainer(provider, sizes, settings, seed, device=job.device, keep_best=bank is not None)
    if "progress/step" in resume:
        trainer.restore(resume)
    if not fit(trainer, job, kept={} if made is not None else bank_arrays(bank or [])):
        return None
    return finish(trainer, encoder, sizes, {"sequential": np.zeros((), bool)}, problem, batches)


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
    """Simulations of all buckets as flat arrays under ``bank/``."""
    arrays: Arrays = {}
    for number, rows in enumerate(bank):
        observed = prefixed("observed", rows.observed)
        arrays |= prefixed(f"bank/{number}", {"index": rows.index, "z": rows.z, **observed})
    return arrays


def bank_from_arrays(arrays: Mapping[str, NDArray], buckets: int) -> list[Rows] | None:
    """The inverse of `bank_arrays`; None where nothing is stored."""
    groups = [under(f"bank/{number}", arrays) for number in range(buckets)]
    if not all(groups):
        return None
    return [Rows(group["index"], group["z"], under("observed", group)) for group in groups]


def _bank(
    job: Job, simulators: Sequence[Simulator], chunks: tuple[int, int], bank: list[Rows] | None
) -> list[Rows] | None:
    """``bank`` with all its chunks of simulations; None when the deadline came first (what there is, is saved)."""
    split = shares(np.array([len(simulator.batch) for simulator in simulators]), BANK_CHUNK)
    first, last = chunks
    done = sum(len(rows.z) for rows in bank) // BANK_CHUNK if bank else 0
    save_every = max(1, (last - first) // BANK_SAVES)
    for chunk in range(first + done, last):
        if job.deadline():
            job.sink.checkpoint(bank_arrays(bank or []))
            return None
        fresh = [simulator.rows(chunk + 1, count) for simulator, count in zip(simulators, split, strict=True)]
        bank = fresh if bank is None else [join(*pair) for pair in zip(bank, fresh, strict=True)]
        job.sink.progress((chunk + 1 - first) * BANK_CHUNK, (last - first) * BANK_CHUNK, "simulating")
        if (chunk + 1 - first) % save_every == 0:
            job.sink.checkpoint(bank_arrays(bank))
    return bank


def join(first: Rows, second: Rows) -> Rows:
    """Both sets of simulations of one bucket, in order."""
    observed = {name: np.concatenate([first.observed[name], second.observed[name]]) for name in first.observed}
    return Rows(np.concatenate([first.index, second.index]), np.concatenate([first.z, second.z]), observed)
