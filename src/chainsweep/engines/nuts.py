r"""NUTS: chains and data sets vectorised in one compiled program, NumPyro's kernel, blocks of iterations.

Each data set is sampled in coordinates :math:`w` with :math:`z = \hat z + L w`, where :math:`\hat z` and
:math:`L L^T` are the mode of largest Laplace mass and its covariance, so the mass matrix starts near the
identity. Chains start in the modes that scattered descents find, as often as their Laplace masses say. What
fails its diagnostics is run again, longer and with smaller steps, from what the first attempt drew.

Reference: Hoffman & Gelman 2014, arXiv:1111.4246; Phan et al. 2019, arXiv:1912.11554 (NumPyro).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.config import NutsSettings as Settings
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.convergence import ess_bulk, ess_tail, rhat_rank
from chainsweep.engines.base import Arrays, Chains, Deadline, DrawKind, Outcome, Seeds, Sink, Status
from chainsweep.engines.nuts_program import TRACE_THIN, Lanes, Program, program_of
from chainsweep.engines.starts import Modes, find_modes, prior_pool
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Problem

Floats = NDArray[np.float64]

START_SPREAD = 1.0
"""Chains start this many Laplace standard deviations around their mode."""


@dataclass(frozen=True)
class Info:
    """What diagnostics need of one data set's sampling; arrays ``(chain,)``."""

    step_size: Floats
    acceptance: Floats
    tree_depth_hits: NDArray[np.int64]
    gradients: NDArray[np.int64]
    attempts: int


@dataclass(frozen=True)
class State:
    """What the next block needs.

    ``kernel`` is NumPyro's HMCState with ``(dataset, chain)`` in front of every array; ``w`` holds the draws
    so far, ``(dataset, chain, draw, n)``, and ``stats`` arrays ``(dataset, chain, draw)`` of potential
    energy, divergence, acceptance probability and leapfrog steps. Warm-up is counted, and kept in ``trace``.
    """

    kernel: Any
    w: Floats
    stats: Arrays
    trace: Floats
    """The first chain, warm-up included, every ``TRACE_THIN``-th iteration: ``(dataset, step, n)``."""
    iteration: int


@dataclass(frozen=True)
class Sampled:
    """The draws of one data set: ``z`` ``(chain, draw, n)``, ``stats`` ``(chain, draw)``, ``trace`` ``(step, n)``."""

    z: Floats
    stats: Arrays
    trace: Floats
    info: Info


STATS = ("potential", "diverging", "accept_prob", "num_steps")


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
    """One call of ``run``: attempts, over blocks of iterations, over the data sets that are still open."""

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
        open_sets = np.array([i for i in range(len(self.batch)) if i not in self.failures], dtype=np.int64)
        attempt = 0
        if resume is not None:
            attempt, open_sets = self._restore(resume)
        while open_sets.size and attempt < self.settings.attempts:
            still_open = self._attempt(attempt, open_sets, modes, resume)
            if still_open is None:
                return Outcome(Status.STOPPED)
            open_sets, resume, attempt = still_open, None, attempt + 1
        return Outcome(Status.COMPLETE, self._chains())

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

    def _attempt(
        self, attempt: int, open_sets: NDArray[np.int64], modes: Modes, resume: Arrays | None
    ) -> NDArray[np.int64] | None:
        """One attempt at ``open_sets``; those that stay open, or None when the deadline came first."""
        program = program_of(self.problem, self.settings, attempt)
        members = _padded(open_sets, len(self.batch), attempt)
        lanes, start = self._lanes(members, modes, attempt)
        ids = tuple(self.batch.ids[i] for i in members)
        keys = self.seeds.jax_keys(ids, f"attempt-{attempt}", self.settings.chains)
        state = _first_state(program.initialise(start, jnp.asarray(keys), lanes))
        if resume is not None:
            state = _restored_state(state, resume)
        total = program.warmup + program.draws
        while state.iteration < total:
            if state.iteration and self.deadline():
                return None
            began = time.perf_counter()
            end = program.warmup if state.iteration < program.warmup else total
            length = min(self.settings.block, end - state.iteration)
            state = _appended(state, program.advance(state.kernel, lanes, length), length, program)
            self.seconds[open_sets] += (time.perf_counter() - began) / open_sets.size
            self.sink.checkpoint(self._saved(attempt, open_sets, state))
            self.sink.progress(
                len(self.batch) - open_sets.size * (total - state.iteration) // total,
                len(self.batch),
                f"attempt {attempt + 1}, {open_sets.size} data sets open",
            )
        return self._finish(attempt, program, open_sets, lanes, state)

    def _lanes(self, members: NDArray[np.int64], modes: Modes, attempt: int) -> tuple[Lanes, Floats]:
        """Whitening and chain starts ``(dataset, chain, n)`` in whitened coordinates."""
        best = np.argmax(modes.log_mass[members], axis=1)
        center, covariance = modes.z[members, best], modes.covariance[members, best]
        starts = []
        for row, i in enumerate(members):
            rng = self.seeds.generator(self.batch.ids[i], f"start-{attempt}")
            starts.append(_scattered_over_modes(modes, int(i), self.settings.chains, rng))
            if int(i) in self.sampled:
                draws = self.sampled[int(i)].z.reshape(-1, center.shape[1])
                center[row], covariance[row] = _empirical(draws, covariance[row])
        z = np.stack(starts)
        factor = np.linalg.cholesky(covariance)
        part = BatchedProblem(self.problem, self.batch.take(members))
        lanes = Lanes(part.observations, jnp.asarray(center), jnp.asarray(factor))
        z = np.where(np.isfinite(part.log_density_unconstrained(z))[..., None], z, center[:, None])
        return lanes, np.linalg.solve(factor[:, None], (z - center[:, None])[..., None])[..., 0]

    def _finish(
        self, attempt: int, program: Program, open_sets: NDArray[np.int64], lanes: Lanes, state: State
    ) -> NDArray[np.int64]:
        """Keep the draws of this attempt and return the data sets whose diagnostics fail."""
        rows = slice(0, open_sets.size)
        center, factor = np.asarray(lanes.center)[rows], np.asarray(lanes.factor)[rows]
        z = center[:, None, None] + np.einsum("dij,dctj->dcti", factor, state.w[rows])
        trace = center[:, None] + np.einsum("dij,dtj->dti", factor, state.trace[rows])
        stats = {name: value[rows] for name, value in state.stats.items()}
        step_size = np.asarray(state.kernel.adapt_state.step_size)[rows]
        hits = (stats["num_steps"] >= 2**program.depth - 1).sum(axis=2)
        for row, i in enumerate(open_sets):
            info = Info(
                step_size[row],
                stats["accept_prob"][row].mean(axis=1),
                hits[row],
                stats["num_steps"][row].sum(axis=1),
                attempt + 1,
            )
            self.sampled[int(i)] = Sampled(z[row], {n: v[row] for n, v in stats.items()}, trace[row], info)
        return open_sets[~self._passes(z, stats["diverging"])]

    def _passes(self, z: Floats, diverging: NDArray) -> NDArray[np.bool_]:
        series = np.moveaxis(z, -1, 1)
        rhat = np.nan_to_num(rhat_rank(series), nan=np.inf).max(axis=1)
        ess = np.minimum(np.nan_to_num(ess_bulk(series)), np.nan_to_num(ess_tail(series))).min(axis=1)
        clean = diverging.sum(axis=(1, 2)) <= self.settings.target_divergences
        return (rhat < self.settings.target_rhat) & (ess > self.settings.target_ess) & clean

    def _chains(self) -> Chains:
        count, chains = len(self.batch), self.settings.chains
        n_draws = np.array([self.sampled[i].z.shape[1] if i in self.sampled else 0 for i in range(count)])
        longest = int(n_draws.max(initial=0))
        z = np.full((count, chains, longest, self.problem.ndim_unconstrained), np.nan)
        stats = {name: np.full((count, chains, longest), np.nan) for name in STATS}
        per_chain = ("step_size", "acceptance", "tree_depth_hits", "gradients")
        info: Arrays = {name: np.full((count, chains), np.nan) for name in per_chain}
        attempts = np.zeros(count, np.int64)
        for i, sampled in self.sampled.items():
            z[i, :, : n_draws[i]] = sampled.z
            attempts[i] = sampled.info.attempts
            for name in STATS:
                stats[name][i, :, : n_draws[i]] = sampled.stats[name]
            for name in per_chain:
                info[name][i] = getattr(sampled.info, name)
        info |= self._traces(attempts)
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
            {**info, "attempts": attempts, "seconds": self.seconds},
            self.failures,
        )

    def _traces(self, attempts: NDArray[np.int64]) -> Arrays:
        """``trace`` ``(dataset, step, ndim)``, rows of it that are warm-up, iterations per row."""
        count = len(self.batch)
        steps = max((len(sampled.trace) for sampled in self.sampled.values()), default=1)
        z = np.full((count, steps, self.problem.ndim_unconstrained), np.nan)
        for i, sampled in self.sampled.items():
            z[i, : len(sampled.trace)] = sampled.trace
        thin = TRACE_THIN * 2 ** np.maximum(attempts - 1, 0)
        warmup = self.settings.warmup * 2 ** np.maximum(attempts - 1, 0)
        return {"trace": self.batched.constrain(z), "trace_burn_in": warmup // thin, "trace_thin": thin}

    def _saved(self, attempt: int, open_sets: NDArray[np.int64], state: State) -> Arrays:
        saved = {
            "attempt": np.asarray(attempt),
            "open": open_sets,
            "seconds": self.seconds,
            "iteration": np.asarray(state.iteration),
            "w": state.w,
            "trace": state.trace,
            **{f"stats/{name}": value for name, value in state.stats.items()},
        }
        for number, leaf in enumerate(jax.tree.leaves(state.kernel)):
            saved[f"kernel/{number}"] = np.asarray(leaf)
        for i, sampled in self.sampled.items():
            saved[f"done/{i}/z"] = sampled.z
            saved[f"done/{i}/trace"] = sampled.trace
            saved |= {f"done/{i}/stats/{name}": value for name, value in sampled.stats.items()}
            saved |= {f"done/{i}/info/{f.name}": np.asarray(getattr(sampled.info, f.name)) for f in fields(Info)}
        return saved

    def _restore(self, resume: Arrays) -> tuple[int, NDArray[np.int64]]:
        self.seconds = resume["seconds"].copy()
        for i in {int(name.split("/")[1]) for name in resume if name.startswith("done/")}:
            info: dict[str, Any] = {f.name: resume[f"done/{i}/info/{f.name}"] for f in fields(Info)}
            info["attempts"] = int(info["attempts"])
            stats = {name: resume[f"done/{i}/stats/{name}"] for name in STATS}
            self.sampled[i] = Sampled(resume[f"done/{i}/z"], stats, resume[f"done/{i}/trace"], Info(**info))
        return int(resume["attempt"]), resume["open"]


def _padded(open_sets: NDArray[np.int64], limit: int, attempt: int) -> NDArray[np.int64]:
    """``open_sets`` repeated up to a power of two (never beyond ``limit``), so that few shapes are compiled."""
    if attempt == 0:
        return open_sets
    size = min(limit, 1 << (open_sets.size - 1).bit_length())
    return np.resize(open_sets, size)


def _first_state(kernel: Any) -> State:
    lead, n = kernel.z.shape[:2], kernel.z.shape[2]
    empty = {name: np.empty((*lead, 0)) for name in STATS}
    return State(kernel, np.empty((*lead, 0, n)), empty, np.empty((lead[0], 0, n)), 0)


def _restored_state(state: State, resume: Arrays) -> State:
    structure = jax.tree.structure(state.kernel)
    leaves = [jnp.asarray(resume[f"kernel/{k}"]) for k in range(len(jax.tree.leaves(state.kernel)))]
    stats = {name: resume[f"stats/{name}"] for name in STATS}
    kernel = jax.tree.unflatten(structure, leaves)
    return State(kernel, resume["w"], stats, resume["trace"], int(resume["iteration"]))


def _appended(state: State, result: Any, length: int, program: Program) -> State:
    kernel, outputs = result
    w, *stats = (np.asarray(output, np.float64) for output in outputs)
    thin = program.trace_thin
    # Iterations count from 1; a trace row is an iteration that ``thin`` divides, whatever the blocks.
    due = (np.arange(state.iteration, state.iteration + length) + 1) % thin == 0
    trace = np.concatenate([state.trace, w[:, 0, due]], axis=1)
    if state.iteration < program.warmup:
        return State(kernel, state.w, state.stats, trace, state.iteration + length)
    return State(
        kernel,
        np.concatenate([state.w, w], axis=2),
        {n: np.concatenate([state.stats[n], s], axis=2) for n, s in zip(STATS, stats, strict=True)},
        trace,
        state.iteration + length,
    )


def _scattered_over_modes(modes: Modes, position: int, chains: int, rng: np.random.Generator) -> Floats:
    """Starts ``(chain, n)``: modes chosen systematically by Laplace mass, spread by their covariance."""
    mass = modes.log_mass[position]
    weights = np.exp(mass - mass.max())
    edges = np.cumsum(weights / weights.sum())
    chosen = np.minimum(np.searchsorted(edges, (np.arange(chains) + rng.uniform()) / chains), mass.size - 1)
    factors = np.linalg.cholesky(modes.covariance[position, chosen])
    noise = rng.standard_normal((chains, modes.z.shape[-1], 1))
    return modes.z[position, chosen] + START_SPREAD * (factors @ noise)[..., 0]


def _empirical(draws: Floats, fallback: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance of earlier draws, shrunk a little towards ``fallback`` so that it stays definite."""
    covariance = 0.95 * np.atleast_2d(np.cov(draws.T)) + 0.05 * fallback
    if not np.all(np.isfinite(covariance)):
        return draws[-1], fallback
    return draws.mean(axis=0), covariance
