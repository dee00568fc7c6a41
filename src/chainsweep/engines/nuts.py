r"""NUTS and HMC: chains and data sets vectorised in one compiled program, NumPyro's kernels, lanes that stay full.

Each data set is sampled in coordinates :math:`w` with :math:`z = \hat z + L w`, where :math:`\hat z` and
:math:`L L^T` are the mode of largest Laplace mass and its covariance, so the mass matrix starts near the
identity. Chains start in the modes that scattered descents find, as often as their Laplace masses say. The first
attempt is HMC of a few jittered steps, in which lanes march in step (``algorithm = "auto"``); what fails its
diagnostics is run again with NUTS, longer and with smaller steps, from what the attempt before drew.

Reference: Hoffman & Gelman 2014, arXiv:1111.4246; Phan et al. 2019, arXiv:1912.11554 (NumPyro).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from chainsweep.config import NutsSettings as Settings
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.convergence import ess_bulk, ess_tail, rhat_rank
from chainsweep.engines.base import Arrays, Chains, Deadline, DrawKind, Outcome, Seeds, Sink, Status
from chainsweep.engines.nuts_lanes import STATS, Batching, Sampled, Starts, packed, unpacked, whitening
from chainsweep.engines.nuts_program import program_of
from chainsweep.engines.starts import Modes, find_modes, prior_pool
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Observation, Problem

Floats = NDArray[np.float64]

START_SPREAD = 1.0
"""Chains start this many Laplace standard deviations around their mode."""
DEFAULT_LANES = 64
"""Data sets that are advanced together, by default: their arrays stay in a processor's cache."""


def run(
    problem: Problem,
    batch: Batch,
    settings: Settings,
    seeds: Seeds,
    *,
    sink: Sink,
    resume: Arrays | None,
    deadline: Deadline,
) -> Outcome:
    """Sample every data set of ``batch``; see ``chainsweep.engines.base`` for the contract."""
    problem.require("nuts")
    return _Run(problem, batch, settings, seeds, sink, deadline).execute(resume)


class _Run:
    """One call of ``run``: attempts at the data sets that are still open."""

    def __init__(
        self, problem: Problem, batch: Batch, settings: Settings, seeds: Seeds, sink: Sink, deadline: Deadline
    ) -> None:
        self.problem, self.batch, self.settings = problem, batch, settings
        self.seeds, self.sink, self.deadline = seeds, sink, deadline
        self.batched = BatchedProblem(problem, batch)
        self.sampled: dict[int, Sampled] = {}
        self.failures: dict[int, str] = {}
        self.seconds = np.zeros(len(batch))

    def execute(self, resume: Arrays | None) -> Outcome:
        modes = self._search()
        attempt = 0
        if resume is not None:
            attempt, self.seconds = int(resume["attempt"]), resume["seconds"].copy()
            self.sampled = unpacked(_under("done/", resume))
        while attempt < self.settings.attempts:
            open_sets = [i for i in range(len(self.batch)) if i not in self.failures and not self._is_good(i)]
            if not open_sets:
                break
            if not self._attempt(attempt, np.array(open_sets, np.int64), modes, resume):
                return Outcome(Status.STOPPED)
            resume, attempt = None, attempt + 1
        return Outcome(Status.COMPLETE, self._chains())

    def _is_good(self, position: int) -> bool:
        return position in self.sampled and self.sampled[position].good

    def _search(self) -> Modes:
        began = time.perf_counter()
        ids = self.batch.ids
        keys = self.seeds.jax_keys(ids, "prior", 1)[:, 0]
        pool = prior_pool(self.batched, keys, self.settings.prior_draws)
        generators = [self.seeds.generator(name, "descents") for name in ids]
        modes = find_modes(self.batched, pool, self.settings.descents, generators)
        for i in np.flatnonzero(~np.isfinite(modes.log_density).any(axis=1)):
            self.failures[int(i)] = "no optimiser descent ended at a finite density; check the model there"
        for i in np.flatnonzero(~pool.any_finite):
            self.failures[int(i)] = (
                f"none of {self.settings.prior_draws} prior draws has a finite likelihood; "
                "check the data set's values and the prior"
            )
        self.seconds += (time.perf_counter() - began) / len(self.batch)
        return modes

    def _attempt(self, attempt: int, open_sets: NDArray[np.int64], modes: Modes, resume: Arrays | None) -> bool:
        """One attempt at ``open_sets``, all of which get draws; False when the deadline came first."""
        program = program_of(self.problem, self.settings, attempt)
        width = self._width(open_sets.size, attempt)
        batching = Batching(program, self._starts(open_sets, modes, attempt), width, self._judge, attempt)
        if resume is not None:
            batching.restore(_under("lanes/", resume))
        while not batching.finished:
            if batching.blocks and self.deadline():
                return False
            began = time.perf_counter()
            inside = open_sets[batching.member[batching.member >= 0]]
            batching.advance()
            now = open_sets[batching.member[batching.member >= 0]]
            shared = np.union1d(inside, now) if inside.size else now
            self.seconds[shared if shared.size else open_sets] += (time.perf_counter() - began) / max(1, shared.size)
            self._tell(attempt, open_sets, batching)
        self.sampled |= {int(open_sets[k]): found for k, found in batching.sampled.items()}
        return True

    def _width(self, count: int, attempt: int) -> int:
        """Lanes of an attempt; of later ones a power of two, so that few shapes are compiled."""
        limit = min(len(self.batch), self.settings.lanes or DEFAULT_LANES)
        return min(limit, count) if attempt == 0 else min(limit, 1 << (count - 1).bit_length())

    def _tell(self, attempt: int, open_sets: NDArray[np.int64], batching: Batching) -> None:
        """Save the state, and say how far the attempt is."""
        state = {"attempt": np.asarray(attempt), "seconds": self.seconds.copy()}
        state |= {f"done/{name}": values for name, values in packed(self.sampled).items()}
        state |= {f"lanes/{name}": values for name, values in batching.saved().items()}
        self.sink.checkpoint(state)
        left = len(batching.sampled)
        running = int((batching.member >= 0).sum())
        done = len(self.batch) - open_sets.size + left
        note = f"attempt {attempt + 1}: {running} running, {open_sets.size - left - running} waiting, "
        note += f"lanes {batching.busy / (batching.blocks * batching.member.size):.0%} busy"
        self.sink.progress(done, len(self.batch), note)

    def _starts(self, open_sets: NDArray[np.int64], modes: Modes, attempt: int) -> Starts:
        """Whitening and overdispersed chain starts of each open data set."""
        best = np.argmax(modes.log_mass[open_sets], axis=1)
        center, covariance = modes.z[open_sets, best], modes.covariance[open_sets, best]
        factor = np.linalg.cholesky(covariance)
        scattered = []
        for row, i in enumerate(open_sets):
            rng = self.seeds.generator(self.batch.ids[i], f"start-{attempt}")
            scattered.append(_scattered_over_modes(modes, int(i), self.settings.chains, rng))
            if int(i) in self.sampled:
                draws = self.sampled[int(i)].z.reshape(-1, center.shape[1])
                center[row], factor[row] = whitening(draws, factor[row])
        part = BatchedProblem(self.problem, self.batch.take(open_sets))
        z = np.stack(scattered)
        z = np.where(np.isfinite(part.log_density_unconstrained(z))[..., None], z, center[:, None])
        keys = self.seeds.jax_keys(part.batch.ids, f"attempt-{attempt}", 2 * self.settings.chains)

        def observations(rows: NDArray[np.int64]) -> Observation:
            return BatchedProblem(self.problem, part.batch.take(rows)).observations

        return Starts(observations, center, factor, z, keys.reshape(len(keys), 2, self.settings.chains, 2))

    def _judge(self, z: Floats, diverging: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """How much longer the chains should be, as a factor, and whether they pass."""
        series = np.moveaxis(z, -1, 1)
        rhat = np.nan_to_num(rhat_rank(series), nan=np.inf).max(axis=1)
        ess = np.minimum(np.nan_to_num(ess_bulk(series)), np.nan_to_num(ess_tail(series))).min(axis=1)
        clean = diverging.sum(axis=(1, 2)) <= self.settings.target_divergences
        good = (rhat < self.settings.target_rhat) & (ess > self.settings.target_ess) & clean
        longer = np.maximum(
            np.where(rhat < self.settings.target_rhat, 1.0, 1.3), self.settings.target_ess / np.maximum(ess, 1)
        )
        # What diverged will not pass, however long it goes on.
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
        theta = theta.reshape(count, chains, longest, self.problem.ndim)
        kept = np.arange(longest) < n_draws[:, None, None]
        return Chains(
            DrawKind.MARKOV,
            self.problem.unflatten(np.where(kept[..., None], theta, np.nan)),
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

    def _traces(self) -> Arrays:
        """``trace`` ``(dataset, step, ndim)``, rows of it that are warm-up, iterations per row."""
        count = len(self.batch)
        steps = max((len(sampled.trace) for sampled in self.sampled.values()), default=1)
        z = np.full((count, steps, self.problem.ndim_unconstrained), np.nan)
        burn_in, thin = np.zeros(count, np.int64), np.ones(count, np.int64)
        for i, sampled in self.sampled.items():
            z[i, : len(sampled.trace)] = sampled.trace
            burn_in[i], thin[i] = sampled.trace_burn_in, sampled.trace_thin
        return {"trace": self.batched.constrain(z), "trace_burn_in": burn_in, "trace_thin": thin}


def _under(prefix: str, state: Arrays) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}


def _scattered_over_modes(modes: Modes, position: int, chains: int, rng: np.random.Generator) -> Floats:
    """Starts ``(chain, n)``: modes chosen systematically by Laplace mass, spread by their covariance."""
    mass = modes.log_mass[position]
    weights = np.exp(mass - mass.max())
    edges = np.cumsum(weights / weights.sum())
    chosen = np.minimum(np.searchsorted(edges, (np.arange(chains) + rng.uniform()) / chains), mass.size - 1)
    factors = np.linalg.cholesky(modes.covariance[position, chosen])
    noise = rng.standard_normal((chains, modes.z.shape[-1], 1))
    return modes.z[position, chosen] + START_SPREAD * (factors @ noise)[..., 0]
