"""SNPE: one network for all data sets of a campaign, then exact importance weights for each of them.

`train` fits sbi's neural posterior estimator, amortised over the campaign's designs, on simulations. `run`
draws from it for each data set and weighs the draws with the model's exact density::

    log_weight = log p(z, y) - log q(z | y)

so Pareto's k-hat says whether the network may be trusted, and where it may not, adaptive importance sampling
starts from its draws. A model that can only simulate gets the network's draws as they are, with equal weights.

Reference: Papamakarios & Murray 2016, arXiv:1605.06376; Greenberg et al. 2019, arXiv:1905.07488;
Dax et al. 2023, arXiv:2210.05686 (importance weights on a neural proposal).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.engines.base import NO_INPUTS, Deadline, Inputs, Outcome, Sink, Status
from chainsweep.engines.snpe.amortised import join_ensemble, train_amortised
from chainsweep.engines.snpe.bank import simulate
from chainsweep.engines.snpe.calibration import MOST_SIMULATIONS, findings_of, levels_of
from chainsweep.engines.snpe.designs import usable_designs
from chainsweep.engines.snpe.entry import SNPE
from chainsweep.engines.snpe.inference import Info, State, Weighted, chains_of, thorough_of, weigh
from chainsweep.engines.snpe.job import Job
from chainsweep.engines.snpe.network import Network, Trained
from chainsweep.engines.snpe.sequential import train_sequential
from chainsweep.engines.snpe.settings import SnpeSettings as Settings
from chainsweep.engines.snpe.simulator import VALIDATION_BLOCK, FreshSimulations, simulators_of, usable_pairs
from chainsweep.engines.snpe.trainer import steps_per_block
from chainsweep.engines.snpe.training_range import outside
from chainsweep.errors import InputError, UnavailableError
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, strip_prefix, with_prefix
from chainsweep.numerics.seeds import Seeds

__all__ = [
    "Info",
    "Settings",
    "State",
    "Trained",
    "calibrate",
    "findings_of",
    "join",
    "run",
    "simulate",
    "steps_per_block",
    "train",
]

GROUP = 64
"""The number of data sets that are drawn, weighed and adapted together."""
CHECKPOINT_SECONDS = 60.0
THREADS = 1
"""The number of CPU threads of torch. It is fixed because it changes the last bits of sums."""


def train(
    problem: Problem,
    designs: Batch | Sequence[Batch],
    settings: Settings,
    seed: int,
    *,
    sink: Sink,
    resume: Mapping[str, NDArray] | None,
    deadline: Deadline,
    device: str = "cpu",
    made: Sequence[Mapping[str, NDArray]] | None = None,
    member: int = 0,
) -> Trained | None:
    """Train the network of a campaign; return None if ``deadline`` came first (``sink`` has the state then).

    Parameters
    ----------
    designs
        Data sets whose designs are simulated with equal probability, one Batch for each shape bucket or a single
        padded one. Their observed values are not used, except in ``mode = "sequential"``.
    seed
        At least 0 and below 2**63. Equal seed, data sets and settings give equal weights, killed or not,
        unless ``train_minutes`` ends the training.
    resume
        The state that ``sink.checkpoint`` got last, or None.
    device
        ``cpu`` or ``cuda``.
    made
        The results of ``simulate`` for consecutive ranges; by default a black box is simulated here.
    member
        The number of the network in an ensemble; ``join`` makes one network of all.

    Raises
    ------
    InputError
        ``mode = "sequential"`` with more than one data set; no data set has a usable design.
    ModelError
        The simulations, or most training losses, are not finite.
    UnavailableError
        ``device`` does not exist here.
    """
    SNPE.require(problem)
    batches = [designs] if isinstance(designs, Batch) else list(designs)
    with _torch(device):
        job = Job(problem, settings, seed, sink, deadline, device, member)
        if settings.mode == "amortised":
            return train_amortised(job, batches, resume or {}, made)
        if len(batches) != 1:
            raise InputError(
                "[engines.snpe] mode = 'sequential' serves a campaign of one data set, this one has "
                f"{sum(map(len, batches))}; use mode = 'amortised'"
            )
        return train_sequential(job, batches[0], resume or {})


def join(
    problem: Problem,
    designs: Sequence[Batch],
    members: Sequence[Trained],
    settings: Settings,
    seed: int,
    *,
    sink: Sink,
    deadline: Deadline,
    device: str = "cpu",
    made: Sequence[Mapping[str, NDArray]] | None = None,
) -> Trained | None:
    """Join the ``members`` of an ensemble to one network, calibrated as one; arguments and errors are as in `train`."""
    with _torch(device):
        return join_ensemble(Job(problem, settings, seed, sink, deadline, device), designs, members, made)


def calibrate(
    problem: Problem,
    designs: Sequence[Batch],
    trained: Trained,
    settings: Settings,
    seed: int,
    *,
    device: str = "cpu",
) -> Arrays:
    """The levels of truths of fresh simulations of ``designs`` among a network's draws, see `calibration.levels_of`.

    Data sets that the network was not trained for are left out. Arguments and errors are those of `train`.
    """
    SNPE.require(problem)
    with _torch(device):
        inside = []
        for batch in designs:
            served = np.setdiff1d(np.arange(len(batch)), list(outside(problem, batch, trained.coverage)))
            if served.size:
                inside.append(batch.take(served).cut(trained.width))
        if not inside:
            raise InputError("snpe: the network was trained for none of these data sets; train one for them")
        batches, spaces = usable_designs(problem, inside)
        simulators = simulators_of(problem, batches, seed)
        network = Network(problem, trained, batches[0], trained.sampler(device))
        pairs = FreshSimulations(simulators, spaces, network.encoder).block(VALIDATION_BLOCK, MOST_SIMULATIONS)
        return levels_of(network.sampler, usable_pairs(*pairs), seed)


def run(
    problem: Problem,
    batch: Batch,
    settings: Settings,
    seeds: Seeds,
    *,
    limits: VerdictSection,
    sink: Sink,
    resume: Mapping[str, NDArray] | None,
    deadline: Deadline,
    inputs: Inputs = NO_INPUTS,
) -> Outcome:
    """Draw weighted samples of the posterior of every data set of ``batch``.

    ``log_weight`` is the log of the density, which is not normalised by the evidence, over the proposal's; `Info` lists
    the figures.
    Without a likelihood all weights are equal and k-hat is NaN.

    With ``mode = "sequential"`` and no ``inputs.trained`` the network of the batch's one data set is trained first.

    Raises
    ------
    InputError
        ``inputs.trained`` is missing, does not fit the model or the batch, or serves a single data set and the
        batch has more.
    """
    resume = resume or {}
    own: Arrays = {}
    trained: Trained | None = inputs.trained
    with _torch(inputs.device):
        job = Job(problem, settings, seeds.entropy(batch.ids[0], "train") % 2**31, sink, deadline, inputs.device)
        if trained is None:
            trained = _trained_here(job, batch, resume)
            if trained is None:
                return Outcome(Status.STOPPED)
            own = with_prefix("trained", trained.arrays())
        if trained.sequential and len(batch) != 1:
            raise InputError(
                f"this network was trained in sequential rounds for one data set, the batch has {len(batch)}; "
                "train with mode = 'amortised'"
            )
        state = State.from_arrays(resume) if "done" in resume else State.empty(len(batch), settings.draws, problem.ndim)
        weighed = partial(weigh, thorough=thorough_of(settings, limits), seeds=seeds)
        if not _weigh_all(job, batch, weighed, trained, state, own):
            return Outcome(Status.STOPPED)
    return Outcome(Status.COMPLETE, chains_of(state))


def _weigh_all(
    job: Job,
    batch: Batch,
    weighed: Callable[[BatchedProblem, Network], Weighted],
    trained: Trained,
    state: State,
    own: Arrays,
) -> bool:
    """Fill ``state``; return False if the deadline came first (the state is saved then, together with ``own``)."""
    sampler, encoder = trained.sampler(job.device), trained.features(job.problem, batch)
    saved = time.monotonic()
    while state.done < len(batch):
        if job.deadline():
            job.sink.checkpoint({**own, **state.arrays()})
            return False
        positions = np.arange(state.done, min(state.done + GROUP, len(batch)))
        part = batch.take(positions)
        refused = outside(job.problem, part, trained.coverage) if job.settings.model is not None else {}
        if refused:
            part = part.cut(trained.width)
        network = Network(job.problem, trained, part, sampler, refused, encoder)
        state.store(positions, weighed(BatchedProblem(job.problem, part), network))
        job.sink.progress(state.done, len(batch), "weighing")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            job.sink.checkpoint({**own, **state.arrays()})
            saved = time.monotonic()
    return True


def _trained_here(job: Job, batch: Batch, resume: Mapping[str, NDArray]) -> Trained | None:
    """The network of the one data set of ``batch``, taken from ``resume`` if its training is finished there."""
    if job.settings.mode != "sequential":
        raise InputError("snpe: no trained network was given; run the 'train' stage first")
    finished = strip_prefix("trained", resume)
    if finished:
        return Trained.from_arrays(finished)
    return train_sequential(job, batch, resume)


@contextmanager
def _torch(device: str) -> Iterator[None]:
    """Run a block with a fixed number of CPU threads for torch; raise ``UnavailableError`` if ``device`` is missing."""
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise UnavailableError(
            f"snpe: device '{device}' is not here (torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs); use device = 'cpu' or a site with a GPU"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
