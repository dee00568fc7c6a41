"""The training of one network for all data sets of a campaign, or for the data sets that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.bank import (
    BANK_CHUNK,
    bank_arrays,
    bank_from_arrays,
    bank_of,
    fill_bank,
    joined_bank,
)
from chainsweep.engines.snpe.designs import jittered, usable_designs
from chainsweep.engines.snpe.dropped import dropped_in, dropping_of, record_of_bank, record_of_fresh
from chainsweep.engines.snpe.encoder import Encoder
from chainsweep.engines.snpe.job import Job
from chainsweep.engines.snpe.network import Trained, architecture_of, finish, fit_encoder, joined
from chainsweep.engines.snpe.simulator import (
    ROWS_PER_BLOCK,
    Bank,
    FreshSimulations,
    Rows,
    encode_rows,
    shares,
    simulators_of,
)
from chainsweep.engines.snpe.trainer import Trainer, fit
from chainsweep.numerics.arrays import Arrays

PILOT_BLOCK = 2**31 - 1
"""The number of the block of simulations that standardises the features."""


@dataclass(frozen=True)
class _Given:
    """The inputs of training: designs, encoder and simulations; ``bank`` holds the simulations of a black box."""

    batches: Sequence[Batch]
    encoder: Encoder
    provider: Bank | FreshSimulations
    bank: Sequence[Rows]
    dropping: Arrays
    """The record of dropped simulations, see `dropped.record_of_bank`."""


def train_amortised(
    job: Job, designs: Sequence[Batch], resume: Mapping[str, NDArray], made: Sequence[Mapping[str, NDArray]] | None
) -> Trained | None:
    """Train one network for all ``designs``; return None if the deadline came first.

    A black box is simulated here where its simulations are not given as ``made``.
    """
    given = _given(job, designs, resume, made)
    if given is None:
        return None
    problem, settings = job.problem, job.settings
    sizes = architecture_of(problem, given.encoder, settings)
    trainer = Trainer(
        given.provider,
        sizes,
        settings,
        job.seed,
        device=job.device,
        keep_best=bool(given.bank),
        member=job.member,
    )
    if "progress/step" in resume:
        trainer.restore(resume)
    if not fit(trainer, job, kept={} if made is not None else bank_arrays(given.bank)):
        return None
    space = {"sequential": np.zeros((), bool)}
    return finish(trainer, given.encoder, sizes, space, problem, given.batches, given.dropping)


def join_ensemble(
    job: Job, designs: Sequence[Batch], members: Sequence[Trained], made: Sequence[Mapping[str, NDArray]] | None
) -> Trained | None:
    """Join the networks that `train_amortised` gave for each member; return None if the deadline came first."""
    given = _given(job, designs, {}, made)
    return None if given is None else joined(members, given.provider, job.seed, job.device)


def _given(
    job: Job, designs: Sequence[Batch], resume: Mapping[str, NDArray], made: Sequence[Mapping[str, NDArray]] | None
) -> _Given | None:
    problem, settings, seed = job.problem, job.settings, job.seed
    batches, spaces = usable_designs(problem, jittered(problem, designs, settings.tuning.jitter, seed))
    simulators = simulators_of(problem, batches, seed)
    bank = None
    if problem.black_box and made is not None:
        bank = joined_bank(made, len(batches))
    elif problem.black_box:
        chunks = -(-settings.bank_simulations // BANK_CHUNK)
        bank = fill_bank(job, simulators, (0, chunks), bank_from_arrays(resume, len(simulators)))
    if problem.black_box and bank is None:
        return None
    split = shares(np.array([len(batch) for batch in batches]), ROWS_PER_BLOCK)
    rows = bank or [simulator.rows(PILOT_BLOCK, count) for simulator, count in zip(simulators, split, strict=True)]
    encoder = fit_encoder(problem, batches, spaces, rows, settings.tuning.grid)
    provider: Bank | FreshSimulations
    if bank:
        pairs = [encode_rows(encoder, *parts) for parts in zip(batches, spaces, bank, strict=True)]
        provider, dropping = bank_of(pairs, seed), record_of_bank(batches, bank, pairs, seed)
    else:
        provider = FreshSimulations(simulators, spaces, encoder)
        dropping = record_of_fresh(provider, batches, PILOT_BLOCK, split)
    if dropped_in(dropping):
        job.sink.progress(0, settings.train_steps, dropping_of(problem, dropping).sentence())
    return _Given(batches, encoder, provider, bank or [], dropping)
