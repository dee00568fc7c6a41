"""Training one network for a whole campaign, or for whatever data sets are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe_bank import (
    BANK_CHUNK,
    bank_arrays,
    bank_from_arrays,
    bank_of,
    fill_bank,
    joined_bank,
)
from chainsweep.engines.snpe_progress import Job
from chainsweep.engines.snpe_simulate import ROWS_PER_BLOCK, Bank, FreshSimulations, encode_rows, shares, simulators_of
from chainsweep.engines.snpe_space import usable_designs
from chainsweep.engines.snpe_trained import Trained, architecture_of, finish, fit_encoder
from chainsweep.engines.snpe_training import Trainer, fit

PILOT_BLOCK = 2**31 - 1
"""Number of the block of simulations that standardises the features."""


def train_amortised(
    job: Job, designs: Sequence[Batch], resume: Mapping[str, NDArray], made: Sequence[Mapping[str, NDArray]] | None
) -> Trained | None:
    """One network for all ``designs``; None when the deadline came first.

    A black box is simulated here where nobody has ``made`` its simulations.
    """
    problem, settings, seed = job.problem, job.settings, job.seed
    batches, spaces = usable_designs(problem, designs)
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
