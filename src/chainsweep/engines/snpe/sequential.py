r"""Sequential rounds for a single data set: simulate where the last round's posterior lives, train again.

Truncated sequential NPE. With :math:`T` the last round's flow at the observed data, from parameters to its
normal base, each round simulates from the *prior, truncated* to

    R = { z : |T(z)| < r },    r the chi quantile of all but 1e-4 of the base,

and trains with the plain loss: a truncated prior leaves the posterior inside R as it is, so that no
correction is needed. Candidates are uniform in the ball and mapped through the flow; their density is the
flow's Jacobian, and thinning by prior / Jacobian gives the truncated prior, however small R is.

Reference: Deistler, Goncalves, Macke 2022, arXiv:2210.04815.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.bank import BANK_CHUNK, bank_arrays, bank_from_arrays, bank_of, join
from chainsweep.engines.snpe.designs import usable_designs
from chainsweep.engines.snpe.dropped import dropped_in, dropping_of, record_of_bank
from chainsweep.engines.snpe.job import Job
from chainsweep.engines.snpe.network import (
    Network,
    Trained,
    architecture_of,
    finish,
    fit_encoder,
)
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.engines.snpe.simulator import Rows, encode_rows
from chainsweep.engines.snpe.standardisation import fixed_space
from chainsweep.engines.snpe.trainer import Trainer, fit
from chainsweep.errors import InputError, ModelError
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.arrays import Arrays, Floats, strip_prefix, with_prefix

OUTSIDE = 1e-4
"""The mass of the last round's estimate that is outside its region."""
ROUND_BATCH = 128
CANDIDATES = 4096
MAX_CANDIDATE_BLOCKS = 200
CAP_QUANTILE = 0.999
"""The quantile of the thinning weights from which on candidates are always accepted: a few very large weights must not
lead to the rejection of nearly all others."""


@dataclass(frozen=True)
class Round:
    """The progress of sequential training: the present round and the network of the one before."""

    number: int
    previous: Trained | None

    def arrays(self) -> Arrays:
        """The round as flat arrays by name; ``from_arrays`` is the inverse."""
        previous = with_prefix("previous", self.previous.arrays()) if self.previous else {}
        return {"round": np.array(self.number), **previous}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray] | None) -> Round:
        """The inverse of `arrays`; the first round where nothing is stored."""
        if not arrays:
            return cls(0, None)
        number = int(arrays["round"])
        return cls(number, Trained.from_arrays(strip_prefix("previous", arrays)) if number else None)


def train_sequential(job: Job, batch: Batch, resume: Mapping[str, NDArray]) -> Trained | None:
    """Train a network for the one data set of ``batch``; return None if the deadline came first.

    Raises
    ------
    InputError
        ``batch`` holds more than one data set.
    """
    if len(batch) != 1:
        raise InputError(
            "[engines.snpe] mode = 'sequential' serves a campaign of one data set, "
            f"this one has {len(batch)}; use mode = 'amortised'"
        )
    state = Round.from_arrays(resume)
    while state.number < job.settings.rounds:
        trained = _one_round(job, batch, state, resume)
        if trained is None:
            return None
        state, resume = Round(state.number + 1, trained), {}
        job.sink.checkpoint(state.arrays())
    return state.previous


def _one_round(job: Job, batch: Batch, state: Round, resume: Mapping[str, NDArray]) -> Trained | None:
    problem, settings = job.problem, job.settings
    network = Network(problem, state.previous, batch, state.previous.sampler(job.device)) if state.previous else None
    rows = _simulations(job, batch, state, network, resume)
    if rows is None:
        return None
    space = fixed_space(rows.z) if network else usable_designs(problem, [batch])[1][0]
    encoder = fit_encoder(problem, [batch], [space], [rows], settings.tuning.grid)
    pairs = [encode_rows(encoder, batch, space, rows)]
    provider = bank_of(pairs, job.seed)
    before = state.previous.dropping if state.previous else None
    dropping = record_of_bank([batch], [rows], pairs, job.seed, before)
    if dropped_in(dropping):
        job.sink.progress(0, settings.tuning.round_steps, dropping_of(problem, dropping).sentence())
    sizes = architecture_of(problem, encoder, settings)
    schedule = _round_schedule(settings)
    trainer = Trainer(provider, sizes, schedule, job.seed + state.number, device=job.device, keep_best=True)
    if "progress/step" in resume:
        trainer.restore(resume)
    note = f"round {state.number + 1} of {settings.rounds}"
    if not fit(trainer, job, kept={**state.arrays(), **bank_arrays([rows])}, note=note):
        return None
    maps = {"sequential": np.ones((), bool), "centre": space.centre, "halfwidth": space.halfwidth}
    return finish(trainer, encoder, sizes, maps, problem, [batch], dropping)


def _round_schedule(settings: SnpeSettings) -> SnpeSettings:
    """The settings of a round: small batches, because it has few simulations, and a learning rate that suits them."""
    tuning = settings.tuning
    batch = min(tuning.batch, ROUND_BATCH)
    rate = tuning.learning_rate * (batch / tuning.batch) ** 0.5
    own = tuning.model_copy(update={"batch": batch, "learning_rate": rate})
    return settings.model_copy(update={"train_steps": tuning.round_steps, "tuning": own})


def _simulations(
    job: Job, batch: Batch, state: Round, network: Network | None, resume: Mapping[str, NDArray]
) -> Rows | None:
    """The simulations of one round; None if the deadline came first."""
    batched = BatchedProblem(job.problem, batch)
    bank = bank_from_arrays(resume, 1)
    rows = bank[0] if bank else None
    chunks = -(-job.settings.simulations_per_round // BANK_CHUNK)
    for chunk in range(len(rows.z) // BANK_CHUNK if rows else 0, chunks):
        if job.deadline():
            job.sink.checkpoint({**state.arrays(), **bank_arrays([rows] if rows else [])})
            return None
        rng = np.random.Generator(np.random.Philox(key=[job.seed, (state.number << 32) + chunk]))
        keys = rng.integers(0, 2**32, size=(2, 1, 2), dtype=np.uint32)
        if network is None:
            theta = batched.sample_prior(keys[0], BANK_CHUNK)
            z = batched.unconstrain(theta)
        else:
            z = truncated_prior(batched, network, rng, BANK_CHUNK)[None]
            theta = batched.constrain(z)
        observed = {name: value[0] for name, value in batched.simulate(keys[1], theta).items()}
        fresh = Rows(np.zeros(BANK_CHUNK, np.int64), z[0], observed)
        rows = fresh if rows is None else join(rows, fresh)
    return rows


def truncated_prior(batched: BatchedProblem, network: Network, rng: np.random.Generator, count: int) -> Floats:
    """Make ``count`` unconstrained draws ``(count, dim)`` of the prior inside the network's region.

    Raises
    ------
    ModelError
        The prior has no density in the region.
    """
    accepted: list[Floats] = []
    cap = None
    for _ in range(MAX_CANDIDATE_BLOCKS):
        z, log_weight = _candidates(batched, network, rng)
        finite = np.isfinite(log_weight)
        if cap is None and finite.any():
            cap = float(np.quantile(log_weight[finite], CAP_QUANTILE))
        if cap is not None:
            keep = np.log(rng.uniform(size=len(z))) < log_weight - cap
            accepted.append(z[keep & finite])
        if sum(map(len, accepted)) >= count:
            return np.concatenate(accepted)[:count]
    raise ModelError(
        f"snpe: only {sum(map(len, accepted))} of {count} draws of the truncated prior found; the last "
        "round's estimate is degenerate. Raise [engines.snpe] simulations_per_round or use mode = 'amortised'"
    )


def _candidates(batched: BatchedProblem, network: Network, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Uniform draws of the base's ball mapped to ``z``, and log prior minus log density there."""
    dim = batched.problem.ndim_unconstrained
    direction = rng.standard_normal((CANDIDATES, dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = np.sqrt(chdtri(dim, OUTSIDE)) * rng.uniform(size=(CANDIDATES, 1)) ** (1 / dim)
    base = (direction * radius)[None]
    z, log_q = network.draw(base)
    log_jacobian = log_q + 0.5 * (base**2).sum(axis=-1)
    return z[0], (_log_prior(batched, z) - log_jacobian)[0]


def _log_prior(batched: BatchedProblem, z: Floats) -> Floats:
    """Log prior density of the unconstrained ``z``; NaN where the likelihood of a JAX model vanishes."""
    density = -batched.potential(z)
    if batched.problem.has_jax_likelihood:
        likelihood = batched.log_likelihood(batched.constrain(z))
        return density - np.where(np.isfinite(likelihood), likelihood, np.nan)
    return density
