r"""NUTS and HMC: chains and data sets vectorised in one compiled program, NumPyro's kernels, lanes that stay full.

Each data set is sampled in coordinates :math:`w` with :math:`z = \hat z + L w`, where :math:`\hat z` and :math:`L L^T`
are mean and covariance of weighted draws (``importance/global_proposal.py``), so the mass matrix is near the identity
from the start, and the mixture fitted to them proposes independence Metropolis steps. Such data sets are sampled with
HMC of a few jittered steps, where all lanes take the same number of steps, the others with NUTS (``algorithm =
"auto"``). Each attempt at the data sets that failed their diagnostics is longer than the one before, and learns from
its draws.

Reference: Hoffman & Gelman 2014, arXiv:1111.4246; Phan et al. 2019, arXiv:1912.11554 (NumPyro).
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.convergence import ess_bulk, ess_tail, rhat_rank
from chainsweep.engines.base import NO_INPUTS, Deadline, Inputs, Outcome, Sink, Status
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.engines.nuts.attempts import (
    ENERGY_ERROR,
    Round,
    bits_of,
    energy_error,
    lanes_of,
    rounds_of,
)
from chainsweep.engines.nuts.entry import NUTS
from chainsweep.engines.nuts.kernels import Bits, Program, kernels_of
from chainsweep.engines.nuts.lanes import STATS, Batching, Sampled, Starts, lowered, packed, unpacked, whitening
from chainsweep.engines.nuts.settings import NutsSettings as Settings
from chainsweep.importance.global_proposal import (
    DEEP_FIT,
    MOST_DIMENSIONS,
    GlobalProposal,
    refit,
    search,
    with_deep_search,
)
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.target import CHAIN_COMPONENTS
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.failing import Failing
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.arrays import Arrays, Bools, Floats, Ints, strip_prefix
from chainsweep.numerics.loops import on_cpu
from chainsweep.numerics.seeds import Seeds

ENERGY_RANGE = 30.0
"""Starts whose log density is lower than the best one's by more than this do not count in the test of the precision."""
SHRINK = 0.02
"""The factor on the step size of a data set in the next attempt after one in which it diverged."""


def run(
    problem: Problem,
    batch: Batch,
    settings: Settings,
    seeds: Seeds,
    *,
    limits: VerdictSection,
    sink: Sink,
    resume: Arrays | None,
    deadline: Deadline,
    inputs: Inputs = NO_INPUTS,
) -> Outcome:
    """Sample every data set of ``batch``; see ``chainsweep.engines.base`` for the contract.

    Chains and the search for modes start at ``inputs.draws_elsewhere`` too. Those are trusted no more than prior draws.
    """
    NUTS.require(problem)
    run = _Run(problem, batch, settings, limits, seeds, sink, deadline)
    if inputs.draws_elsewhere is not None and resume is None:
        run.elsewhere = inputs.draws_elsewhere(batch.ids)
    return run.execute(resume)


@dataclass(frozen=True)
class Rates:
    """The time at which this process began a round, and the data sets that had left and gradients spent by then."""

    began: float
    left: int
    spent: int

    def phrase(self, batching: Batching) -> str:
        """Verified data sets and gradients per second, and the time left at this pace; empty until a data set left."""
        seconds = time.perf_counter() - self.began
        gone = len(batching.sampled) - self.left
        if not gone or seconds <= 0:
            return ""
        good = sum(found.good for found in list(batching.sampled.values())[self.left :])
        open_still = len(batching.starts.z) - len(batching.sampled)
        text = f", {good / seconds:.2g} verified/s, {(batching.spent - self.spent) / seconds:.2g} gradients/s"
        return f"{text}, {seconds * open_still / gone:.0f} s left"


class _Run:
    """One call of ``run``: attempts at the data sets that are still open."""

    def __init__(
        self,
        problem: Problem,
        batch: Batch,
        settings: Settings,
        limits: VerdictSection,
        seeds: Seeds,
        sink: Sink,
        deadline: Deadline,
    ) -> None:
        self.problem, self.batch, self.settings, self.limits = problem, batch, settings, limits
        self.seeds, self.sink, self.deadline = seeds, sink, deadline
        self.batched = BatchedProblem(problem, batch)
        self.begun: Bits = bits_of(settings)
        self.lanes = lanes_of(problem, batch, settings)
        self.elsewhere: Floats | None = None
        self.ahead: Future[list[Any]] | None = None
        self.sampled: dict[int, Sampled] = {}
        self.failures: dict[int, str] = {}
        self.seconds = np.zeros(len(batch))
        self.bits = np.full(len(batch), self.begun, np.int64)

    def execute(self, resume: Arrays | None) -> Outcome:
        if not on_cpu() or self.begun == 32:
            return self._execute(resume)
        # While XLA compiles the largest programs on another core, the search runs here. Only this thread traces models,
        # because all threads share NumPyro's stack of handlers.
        with ThreadPoolExecutor(1) as beside:
            largest = self._largest_programs()
            self.ahead = beside.submit(lambda: [program.compile() for program in largest])
            return self._execute(resume)

    def _largest_programs(self) -> list[Any]:
        """The largest programs of the first round, lowered and not yet compiled."""
        settings, n = self.settings, self.problem.ndim_unconstrained
        components = 1 + settings.tuning.descents + CHAIN_COMPONENTS * (self.elsewhere is not None)
        components += DEEP_FIT.components * (n <= MOST_DIMENSIONS)
        first = rounds_of(settings, self.begun)[0]
        kernels = kernels_of(self.problem, settings, first.algorithm, first.bits)
        observations = BatchedProblem(self.problem, self.batch.take(np.zeros(self.lanes, np.int64))).observations
        return lowered(kernels, observations, (self.lanes, settings.chains, n), components)

    def _execute(self, resume: Arrays | None) -> Outcome:
        now = 0
        if resume is not None:
            now, self.seconds = int(resume["round"]), resume["seconds"].copy()
            self.sampled = unpacked(strip_prefix("done", resume))
            self.proposal = GlobalProposal(**strip_prefix("guide", resume))
            self.failures = {i: str(reason) for i, reason in enumerate(resume["failures"]) if reason}
            self.begun, self.bits = 32 if resume["single"] else 64, resume["bits"].copy()
        else:
            self.proposal = self._search()
            self._check_precision()
        rounds = rounds_of(self.settings, self.begun)
        while now < len(rounds):
            open_sets = np.flatnonzero([self._is_open(i, rounds[now]) for i in range(len(self.batch))])
            if open_sets.size and not self._round(now, rounds[now], open_sets, resume):
                return Outcome(Status.STOPPED)
            resume, now = None, now + 1
        return Outcome(Status.COMPLETE, self._chains())

    def _is_open(self, position: int, this: Round) -> bool:
        """True where the data set at ``position`` takes part in the round ``this``."""
        if position in self.failures or (position in self.sampled and self.sampled[position].good):
            return False
        if self.bits[position] != this.bits or (this.attempt == 0 and self.proposal.deep[position] != this.deep):
            return False
        return self.settings.algorithm != "auto" or bool(self.proposal.trusted[position]) == (this.algorithm == "hmc")

    def _check_precision(self) -> None:
        """Choose double precision for data sets whose log density is too coarse in single precision at the starts.

        It is too coarse where parameters are large against the scales of the posterior, and in sums of many points.
        """
        if self.begun == 64:
            return
        starts = self.proposal.starts.reshape(len(self.batch), -1, self.problem.ndim_unconstrained)
        exact = -self.batched.log_density_unconstrained(starts)
        w = np.linalg.solve(self.proposal.factor[:, None], (starts - self.proposal.center[:, None])[..., None])[..., 0]
        kernels = kernels_of(self.problem, self.settings, "hmc", 32)
        whitening = self.proposal.center, self.proposal.factor
        single = np.asarray(kernels.potentials(w, *whitening, self.batched.observations), float)
        counted = exact <= exact.min(axis=1, keepdims=True) + ENERGY_RANGE
        self.bits[energy_error(single, exact, counted) > ENERGY_ERROR] = 64

    def _mark_too_coarse(self, found: dict[int, Sampled]) -> None:
        """Mark for double precision the data sets whose draws ``found`` have too coarse single-precision densities."""
        members = np.array(sorted(found))
        longest = max(found[i].stats["potential"].size for i in found)
        z = np.empty((members.size, longest, self.problem.ndim_unconstrained))
        single = np.full((members.size, longest), np.nan)
        for row, i in enumerate(members):
            size = found[i].stats["potential"].size
            z[row] = found[i].z.reshape(size, -1)[np.arange(longest) % size]
            single[row, :size] = found[i].stats["potential"].ravel()
        exact = -BatchedProblem(self.problem, self.batch.take(members)).log_density_unconstrained(z)
        self.bits[members[energy_error(single, exact, np.isfinite(single)) > ENERGY_ERROR]] = 64
        self.sampled |= {i: replace(found[i], good=found[i].good and self.bits[i] == 32) for i in found}

    def _search(self) -> GlobalProposal:
        began = time.perf_counter()
        draws = None if self.elsewhere is None else self.batched.unconstrain_padded(self.elsewhere)
        tuning, shape = self.settings.tuning, (self.settings.chains, self.settings.tuning.attempts)
        pool, modes, proposal = search(self.batched, self.seeds, shape, tuning.prior_draws, tuning.descents, draws)
        for i in np.flatnonzero(~np.isfinite(modes.log_density).any(axis=1)):
            self.failures[int(i)] = f"{Failing.NO_DESCENT}; check the model there"
        for i in np.flatnonzero(~pool.any_finite):
            self.failures[int(i)] = (
                f"none of {tuning.prior_draws} {Failing.NO_LIKELIHOOD}; check the data set's values and the prior"
            )
        self.seconds += (time.perf_counter() - began) / len(self.batch)
        return proposal

    def _round(self, now: int, this: Round, open_sets: Ints, resume: Arrays | None) -> bool:
        """Run one round of ``open_sets``, all of which get draws; return False if the deadline came first."""
        if self.ahead is not None:
            self.ahead.result()
        if this.attempt:
            shallow = open_sets[~self.proposal.deep[open_sets]]
            self.proposal = with_deep_search(self.proposal, self.batched, shallow, self.seeds)
        program = Program(self.problem, self.settings, this.algorithm, this.attempt, this.bits)
        # A resumed round has the lanes that it began with, whatever this device has room for.
        width = self.lanes if resume is None else resume["lanes/member"].size
        batching = Batching(program, self._starts(open_sets, this.attempt), width, self._judge, this.attempt)
        if resume is not None:
            batching.restore(strip_prefix("lanes", resume))
        rates = Rates(time.perf_counter(), len(batching.sampled), batching.spent)
        while not batching.finished:
            if batching.blocks and self.deadline():
                return False
            began = time.perf_counter()
            in_lanes = open_sets[batching.member[batching.member >= 0]]
            batching.advance()
            members = open_sets[batching.member[batching.member >= 0]]
            shared = np.union1d(in_lanes, members) if in_lanes.size else members
            self.seconds[shared if shared.size else open_sets] += (time.perf_counter() - began) / max(1, shared.size)
            self._tell(now, str(this), open_sets, batching, rates)
        found = {int(open_sets[k]): sampled for k, sampled in batching.sampled.items()}
        self.sampled |= found
        if this.bits == 32:
            self._mark_too_coarse(found)
        return True

    def _tell(self, now: int, name: str, open_sets: Ints, batching: Batching, rates: Rates) -> None:
        """Save the state, and report the progress of the round."""
        state = {"round": np.asarray(now), "seconds": self.seconds.copy(), "bits": self.bits.copy()}
        state["single"] = np.asarray(self.begun == 32)
        state |= {f"guide/{name}": values for name, values in self.proposal.arrays().items()}
        state["failures"] = np.array([self.failures.get(i, "") for i in range(len(self.batch))])
        state |= {f"done/{name}": values for name, values in packed(self.sampled).items()}
        state |= {f"lanes/{name}": values for name, values in batching.saved().items()}
        self.sink.checkpoint(state)
        left = len(batching.sampled)
        running = int((batching.member >= 0).sum())
        done = len(self.batch) - open_sets.size + left
        note = f"{name}: {running} running, {open_sets.size - left - running} waiting, "
        note += f"lanes {batching.busy / batching.computed:.0%} busy{rates.phrase(batching)}"
        self.sink.progress(done, len(self.batch), note)

    def _starts(self, open_sets: Ints, attempt: int) -> Starts:
        """Whitening and overdispersed chain starts of each open data set."""
        proposal = self.proposal
        center, factor = proposal.center[open_sets], proposal.factor[open_sets]
        has_metric = proposal.trusted[open_sets]
        for row, i in enumerate(open_sets):
            if int(i) in self.sampled and not has_metric[row]:
                draws = self.sampled[int(i)].z.reshape(-1, center.shape[1])
                center[row], factor[row] = whitening(draws, factor[row])
        if not self.settings.tuning.dense_mass:
            factor = np.sqrt(np.einsum("dij,dij->di", factor, factor))[..., None] * np.eye(factor.shape[-1])
        # The density is computed for all data sets, so that one shape is compiled.
        possible = np.isfinite(self.batched.log_density_unconstrained(proposal.starts[:, attempt]))[open_sets]
        z = np.where(possible[..., None], proposal.starts[open_sets, attempt], center[:, None])
        part = self.batch.take(open_sets)
        keys = self.seeds.jax_keys(part.ids, f"attempt-{attempt}", 2 * self.settings.chains)

        def observations(rows: Ints) -> Observation:
            return BatchedProblem(self.problem, part.take(rows)).observations

        keys = keys.reshape(len(keys), 2, self.settings.chains, 2)
        mixture = proposal.mixture(open_sets)
        drawn = [self.sampled[int(i)].z.reshape(-1, center.shape[1]) for i in open_sets if int(i) in self.sampled]
        known = np.array([int(i) in self.sampled for i in open_sets])
        if attempt and known.any() and self.settings.tuning.jumps and proposal.has_fitted_components:
            sampled = BatchedProblem(self.problem, part.take(np.flatnonzero(known)))
            before = Mixture(*(array[known] for array in mixture))
            for whole, new in zip(
                mixture, refit(sampled, before, drawn, self.seeds, f"learned-{attempt}"), strict=True
            ):
                whole[known] = np.asarray(new)
        return Starts(observations, center, factor, z, keys, mixture, has_metric, self._step_share(open_sets))

    def _step_share(self, open_sets: Ints) -> Floats:
        """The factor ``(dataset,)`` on step sizes: ``SHRINK`` to the power of the attempts with divergences.

        Trajectories of such a data set meet cliffs of the density, and independence steps move its chains.
        """
        share = np.ones(len(open_sets))
        for row, i in enumerate(open_sets):
            if int(i) in self.sampled:
                before = self.sampled[int(i)]
                diverged = before.stats["diverging"].sum() > self.limits.divergences
                share[row] = before.step_share * (SHRINK if diverged else 1.0)
        return share

    def _judge(self, z: Floats, diverging: Floats) -> tuple[Floats, Bools]:
        """Return the factor by which the chains should be longer, and True where they pass, both ``(dataset,)``."""
        series = np.moveaxis(z, -1, 1)
        rhat = np.nan_to_num(rhat_rank(series), nan=np.inf).max(axis=1)
        ess = np.minimum(np.nan_to_num(ess_bulk(series)), np.nan_to_num(ess_tail(series))).min(axis=1)
        clean = diverging.sum(axis=(1, 2)) <= self.limits.divergences
        good = (rhat < self.limits.rhat) & (ess > self.limits.ess) & clean
        longer = np.maximum(np.where(rhat < self.limits.rhat, 1.0, 1.3), self.limits.ess / np.maximum(ess, 1))
        # A data set that diverged will not pass, however long its chains are.
        return np.where(good | ~clean, 1.0, np.maximum(longer, 1.05)), good

    def _chains(self) -> Chains:
        count, chains = len(self.batch), self.settings.chains
        n_draws = np.array([self.sampled[i].z.shape[1] if i in self.sampled else 0 for i in range(count)])
        longest = int(n_draws.max(initial=0))
        z = np.full((count, chains, longest, self.problem.ndim_unconstrained), np.nan)
        stats = {name: np.full((count, chains, longest), np.nan) for name in STATS}
        per_chain = ("step_size", "acceptance", "tree_depth_hits", "gradients")
        info: Arrays = {name: np.full((count, chains), np.nan) for name in per_chain}
        info["attempts"] = np.zeros(count, np.int64)
        info |= {"lanes": np.full(count, self.lanes), "precision_bits": self.bits}
        for i, sampled in self.sampled.items():
            z[i, :, : n_draws[i]] = sampled.z
            info["attempts"][i] = sampled.attempts
            for name in STATS:
                stats[name][i, :, : n_draws[i]] = sampled.stats[name]
            for name in per_chain:
                info[name][i] = getattr(sampled, name)
        info |= self._traces()
        flat = z.reshape(count, chains * longest, -1)
        theta = self.batched.constrain(flat)
        lp = self.batched.log_density(theta).reshape(count, chains, longest)
        lp = lp + self._changed_since(flat, stats["potential"])
        theta = theta.reshape(count, chains, longest, self.problem.ndim)
        kept = np.arange(longest) < n_draws[:, None, None]
        return Chains(
            DrawKind.MARKOV,
            np.where(kept[..., None], theta, np.nan),
            {
                "lp": np.where(kept, lp, np.nan),
                "diverging": stats["diverging"],
                "acceptance_rate": stats["accept_prob"],
                "n_steps": stats["num_steps"],
                "energy": stats["potential"],
            },
            n_draws,
            {**info, "seconds": self.seconds},
            self.failures,
        )

    def _changed_since(self, z: Floats, sampled: Floats) -> Floats:
        """The log density at the draws ``z`` when they were drawn, less that of now.

        ``sampled`` ``(dataset, chain, draw)`` are their potentials when they were drawn. The result is 0 for data sets
        in single precision, whose potentials are too coarse for the comparison.
        """
        change = self.batched.potential(z).reshape(sampled.shape) - sampled
        return np.where(np.isfinite(change) & (self.bits == 64)[:, None, None], change, 0.0)

    def _traces(self) -> Arrays:
        """The arrays ``trace`` ``(dataset, step, ndim)``, its number of warm-up rows, and its iterations per row."""
        count = len(self.batch)
        steps = max((len(sampled.trace) for sampled in self.sampled.values()), default=1)
        z = np.full((count, steps, self.problem.ndim_unconstrained), np.nan)
        burn_in, thin = np.zeros(count, np.int64), np.ones(count, np.int64)
        for i, sampled in self.sampled.items():
            z[i, : len(sampled.trace)] = sampled.trace
            burn_in[i], thin[i] = sampled.trace_burn_in, sampled.trace_thin
        return {"trace": self.batched.constrain(z), "trace_burn_in": burn_in, "trace_thin": thin}
