"""Affine-invariant ensembles: the walkers of all data sets of a batch in one vectorised ``emcee`` sampler.

Every data set has at least two independent ensembles. Where importance sampling gives a global proposal
(``importance/global_proposal.py``), they start at draws chosen with tempered weights, and half their steps are
independence Metropolis steps (``independence_move.py``); elsewhere they start from prior draws chosen by likelihood.
Blocks of steps alternate with reviews of the chains: during burn-in, stuck walkers are moved to good places of their
own ensemble; after it a data set is done when its kept steps, in autocorrelation times, R-hat between its ensembles and
its effective sample size meet ``[verdict]``, or at ``max_steps``; then it leaves the stack, and a waiting data set
takes its place. The proposal of a slow data set is fitted again to the draws of its chains, and its burn-in begins
again.

A simplex or a correlation matrix is a surface on which no walker could move: the walkers of a model that has one move
in the unconstrained space.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.engines.base import NO_INPUTS, Deadline, Inputs, Outcome, Sink, Status
from chainsweep.engines.emcee.chain import LEAST_STEPS, MOST_DRAWS, Assessment, Info, Results, assess
from chainsweep.engines.emcee.entry import EMCEE
from chainsweep.engines.emcee.initial_walkers import reposition_stuck, start_walkers, stuck_walkers
from chainsweep.engines.emcee.settings import EmceeSettings as Settings
from chainsweep.engines.emcee.stack import INDEPENDENCE, Stack, State, Sweep
from chainsweep.importance.global_proposal import (
    DESCENTS,
    GlobalProposal,
    joined,
    refit_from_chains,
    search,
    with_deep_search,
)
from chainsweep.importance.modes import prior_pool
from chainsweep.model.batched import BatchedProblem, blocks_of
from chainsweep.model.free import without_surfaces
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Floats, Ints
from chainsweep.numerics.seeds import Seeds

__all__ = ["Info", "Settings", "State", "run"]

DEEPEN_AT = 0.05
"""The part of the budget of steps after which a data set that is far from done gets a deep search."""
FAR_FROM_DONE = 0.2
"""A data set is far from done while it has less than this part of the autocorrelation times that it needs."""

REFIT_AT, REFIT_BELOW, REFITS = 0.03, 0.4, 3
"""A data set is slow if, ``REFIT_AT`` of its budget after its burn-in, it has less than ``REFIT_BELOW`` of the
autocorrelation times that it needs. Its proposal is then fitted again to the draws of its chains, at most ``REFITS``
times."""

FINISH_STEPS, FINISH_AT = 1000, 0.15
CANNOT_FINISH = 0.8
"""A data set ends early if, at its present pace, it would have less than ``CANNOT_FINISH`` of the autocorrelation times
that it needs at the end of its budget. This is judged after ``FINISH_STEPS`` steps and after ``FINISH_AT`` of the
budget, whichever is later."""

CHECKPOINT_SHARE = 0.05
"""The largest share of the time that checkpoints take, about: a large state is saved only every few blocks."""


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
    """Sample the posterior of every data set of ``batch``.

    ``Chains.theta`` has shape ``(dataset, ensemble, draw, ndim)``; the draw axis runs over kept steps
    and, within a step, over walkers. ``Chains.info`` has the columns of ``Info``; ``sample_stats``: ``lp``.

    Raises
    ------
    ModelError
        The model has no likelihood, or the settings give too few walkers for its parameters.
    """
    EMCEE.require(problem)
    sweep = Sweep(without_surfaces(problem), batch, settings, seeds, limits)
    most_draws = max(MOST_DRAWS, sweep.walkers)
    results = Results(len(batch), settings.ensembles, sweep.problem.ndim, most_draws)
    if resume is None:
        state = _start(sweep, results)
    else:
        state = State.from_arrays(resume)
        results.restore(resume)
    saver = _Saver(sink, state, results)
    if resume is None and len(state.positions):
        # The result of the search is saved before the first block of steps.
        saver.save()
    stack: Stack | None = None
    while len(state.positions):
        state.admit(sweep.most, sweep.period)
        active = state.active
        if stack is None or not np.array_equal(stack.positions, state.positions[active]):
            proposal = None if state.proposal is None else state.proposal.take(active)
            stack = Stack(sweep, state.positions[active], results.failures, proposal)
        block_end = (state.now // settings.tuning.check_every + 1) * settings.tuning.check_every
        budget_end = int(state.entered[active].min()) + settings.max_steps
        ended = stack.advance(state, min(block_end, budget_end), lambda: saver.pause(deadline))
        results.failures.update(stack.failures())
        if ended:
            if _review(state, results, sweep):
                stack = None
            sink.progress(results.finished, len(batch), _how_far(state))
        if not ended or (len(state.positions) and deadline()):
            saver.save()
            return Outcome(Status.STOPPED)
        if len(state.positions):
            saver.save_if_due()
    return Outcome(Status.COMPLETE, results.chains(BatchedProblem(problem, batch), sweep.problem))


def _how_far(state: State) -> str:
    active = state.active
    running = f"{active.size} running, step {state.steps(active).max(initial=0)}"
    waiting = len(state.positions) - active.size
    return f"{running}, {waiting} waiting" if waiting else running


class _Saver:
    """The writer of checkpoints, which saves less often the longer a save takes."""

    def __init__(self, sink: Sink, state: State, results: Results) -> None:
        self.sink, self.state, self.results = sink, state, results
        self.cost = 0.0
        self.last = time.monotonic()

    def save(self) -> None:
        began = time.monotonic()
        self.sink.checkpoint(self.state.arrays() | self.results.arrays())
        self.last = time.monotonic()
        self.cost = self.last - began

    def save_if_due(self) -> None:
        if time.monotonic() - self.last >= self.cost / CHECKPOINT_SHARE:
            self.save()

    def pause(self, deadline: Deadline) -> bool:
        """Return True if the run must stop within a block, and the caller saves; otherwise save when it is due."""
        if deadline():
            return True
        self.save_if_due()
        return False


def _start(sweep: Sweep, results: Results) -> State:
    began = time.monotonic()
    # The groups have nearly equal sizes: a single data set in the last one would be rounded in another way.
    count = len(sweep.batch)
    size = -(-count // -(-count // sweep.most))
    parts = [_begin(sweep, group, results) for group in blocks_of(count, size)]
    theta, log_prob = (np.concatenate(part) for part in zip(*(part[:2] for part in parts), strict=True))
    proposal = joined([part[2] for part in parts])
    positions = np.setdiff1d(np.arange(len(sweep.batch)), list(results.failures)).astype(np.int64)
    if proposal is not None:
        proposal = proposal.take(positions)
    return State.at_start(positions, theta[positions], log_prob[positions], time.monotonic() - began, proposal)


def _begin(sweep: Sweep, rows: Ints, results: Results) -> tuple[Floats, Floats, GlobalProposal | None]:
    """First walkers ``(dataset, ensemble, walker, ndim)`` of some data sets, their log densities and proposal."""
    batched = BatchedProblem(sweep.problem, sweep.batch.take(rows))
    shape = sweep.settings.ensembles, sweep.walkers
    ids, walkers = batched.batch.ids, shape[0] * shape[1]
    draws, proposal = max(sweep.settings.prior_draws, walkers), None
    if INDEPENDENCE in sweep.moves:
        pool, _, proposal = search(batched, sweep.seeds, (walkers, 1), draws, DESCENTS)
    else:
        pool = prior_pool(batched, sweep.seeds.jax_keys(ids, "prior", 1)[:, 0], draws)
    with np.errstate(invalid="ignore"):
        density = batched.log_prior(pool.theta) + pool.log_likelihood
    density = np.where(np.isfinite(density), density, -np.inf)
    start = start_walkers(pool, density, ids, sweep.seeds, shape)
    theta, log_prob, failures = start.theta, start.log_prob, start.failures
    if proposal is not None:
        drawn = batched.constrain(proposal.starts[:, 0])
        found = batched.log_density(drawn)
        good = proposal.trusted & np.isfinite(found).all(axis=1)
        theta[good] = drawn[good].reshape(-1, *shape, drawn.shape[-1])
        log_prob[good] = found[good].reshape(-1, *shape)
        failures = {row: why for row, why in failures.items() if not good[row]}
        proposal = replace(proposal, starts=proposal.starts[:, :0])
    results.failures.update({int(rows[row]): why for row, why in (failures | batched.failures).items()})
    return theta, log_prob, proposal


def _review(state: State, results: Results, sweep: Sweep) -> bool:
    """Move stuck walkers after a block, and remove the data sets that are done or have failed.

    Returns True if data sets that stay got another proposal, because they are slow or far from done.
    """
    settings, limits = sweep.settings, sweep.limits
    kept, needs_deep_search, needs_refit = (np.full(len(state.positions), value) for value in (True, False, False))
    active = state.active
    for row, step in zip(active.tolist(), state.steps(active).tolist(), strict=True):
        last = step >= settings.max_steps
        if int(state.positions[row]) in results.failures:
            kept[row] = False
            continue
        if not (last or is_due(step, settings.tuning.check_every)):
            continue
        if not state.settled[row]:
            # In the second half of the budget no walker is moved.
            moved = 0 if step > settings.max_steps // 2 else _reposition_stuck(state, row, step, sweep)
            state.moved[row] += moved
            state.settled[row] = moved == 0
            if moved:
                state.burn_in[row] = step
        if state.settled[row] or last:
            theta, log_prob = state.chains[row].after(int(state.burn_in[row]))
            assessment = assess(theta, log_prob, limits, final=last)
            if not last and _cannot_finish(assessment, step, int(state.burn_in[row]), sweep):
                last, assessment = True, assess(theta, log_prob, limits, final=True)
            if assessment.passed or last:
                _finish(state, results, sweep, row, step, assessment)
                kept[row] = False
            elif state.proposal is not None and sweep.problem.has_jax_likelihood:
                # ``not >`` holds where the ratio is NaN too.
                far, behind = (not assessment.kept_over_tau > x * limits.tau for x in (FAR_FROM_DONE, REFIT_BELOW))
                needs_deep_search[row] = far and not state.proposal.deep[row] and step >= DEEPEN_AT * settings.max_steps
                since = step - int(state.burn_in[row])
                needs_refit[row] = (
                    behind and state.proposal.refits[row] < REFITS and since >= REFIT_AT * settings.max_steps
                )
    state.keep(kept)
    deepening = np.flatnonzero(needs_deep_search[kept])
    refitting = np.flatnonzero((needs_refit & ~needs_deep_search)[kept])
    if deepening.size:
        _search_deeply(state, deepening, sweep)
    if refitting.size:
        _refit(state, refitting, sweep)
    return bool(deepening.size + refitting.size)


def _refit(state: State, rows: Ints, sweep: Sweep) -> None:
    """Fit the mixtures of the data sets ``rows`` to the draws of their chains; their burn-in begins again.

    The mixture then covers the places where chains stayed because it was thin there, so that chains can leave them.
    """
    assert state.proposal is not None
    batched = BatchedProblem(sweep.problem, sweep.batch.take(state.positions[rows]))
    drawn = [state.chains[row].after(int(state.burn_in[row]))[0] for row in rows]
    flat = [theta.reshape(-1, theta.shape[-1]) for theta in drawn]
    state.proposal.put(rows, refit_from_chains(state.proposal.take(rows), batched, flat, sweep.seeds))
    state.burn_in[rows] = state.steps(rows)


def _search_deeply(state: State, rows: Ints, sweep: Sweep) -> None:
    """Search deeply for the data sets ``rows``; their burn-in begins again with another proposal."""
    assert state.proposal is not None
    batched = BatchedProblem(sweep.problem, sweep.batch.take(state.positions[rows]))
    state.proposal.put(rows, with_deep_search(state.proposal.take(rows), batched, np.arange(len(rows)), sweep.seeds))
    state.burn_in[rows] = state.steps(rows)


def _cannot_finish(assessment: Assessment, step: int, burn_in: int, sweep: Sweep) -> bool:
    """Return True if the rest of the budget will not give enough autocorrelation times at the present pace.

    Autocorrelation times of short chains are estimated too short, so this rather lets a data set go on.
    """
    budget = sweep.settings.max_steps
    if step < max(FINISH_STEPS, FINISH_AT * budget) or not np.isfinite(assessment.kept_over_tau):
        return False
    in_the_end = assessment.kept_over_tau * (budget - burn_in) / (step - burn_in)
    return bool(in_the_end < CANNOT_FINISH * sweep.limits.tau)


def is_due(step: int, block: int) -> bool:
    """Return True if chains are reviewed after ``step`` steps: from two blocks on, later after every tenth of them."""
    blocks, rest = divmod(step, block)
    return rest == 0 and blocks > 1 and blocks % (1 << max(0, blocks.bit_length() - 4)) == 0


def _reposition_stuck(state: State, row: int, step: int, sweep: Sweep) -> int:
    """Move the stuck walkers of one data set, each within its ensemble; return their number."""
    since = max(int(state.burn_in[row]), step - max(sweep.settings.tuning.check_every // 2, 1))
    theta, log_prob = state.chains[row].after(since)
    if len(theta) == 0:
        return 0
    dataset_id, moved = sweep.batch.ids[state.positions[row]], 0
    for ensemble in range(theta.shape[1]):
        stuck = stuck_walkers(theta[:, ensemble], log_prob[:, ensemble])
        if stuck.any():
            rng = sweep.seeds.generator(dataset_id, f"rescue {step}", ensemble)
            points, densities = reposition_stuck(theta[:, ensemble], log_prob[:, ensemble], stuck, rng)
            state.coords[row, ensemble, stuck] = points
            state.log_prob[row, ensemble, stuck] = densities
            moved += int(stuck.sum())
    return moved


def _effective(draws: int, tau: float, every: int) -> float:
    """Return the effective number of ``draws`` of chains with the autocorrelation time ``tau``.

    The draws are ``every`` steps apart, and ``tau`` is in the same steps.

    Chains are taken as autoregressive of first order, whose correlation falls by the same factor in each step.
    """
    correlation = max((tau - 1.0) / (tau + 1.0), 0.0) ** every if np.isfinite(tau) else 1.0
    return draws * (1.0 - correlation) / (1.0 + correlation)


def _finish(state: State, results: Results, sweep: Sweep, row: int, step: int, assessment: Assessment) -> None:
    """Store the draws of one data set in ``results``, thinned to about half an autocorrelation time."""
    walkers, chain = sweep.walkers, state.chains[row]
    stride = chain.stride
    theta, log_prob = chain.after(int(state.burn_in[row]))
    first = assessment.first
    longest, kept = float(assessment.tau.max()), len(theta) - first
    # Chains that have not converged keep enough steps to show it.
    by_tau = int(min(longest / 2, kept / LEAST_STEPS)) if np.isfinite(longest) else 1
    by_size = -(-kept // max(1, MOST_DRAWS // walkers))
    every = max(by_tau, by_size, 1)
    # The rows are counted from the end, so that the last step is among them.
    rows = np.arange(len(theta) - 1, first - 1, -every)[::-1]
    draws = np.moveaxis(theta[rows], 1, 0)
    info = Info(
        tau=assessment.tau * stride,
        tau_max=longest * stride,
        acceptance=state.accepted[row] / (step * walkers),
        n_steps=step,
        burn_in=(int(state.burn_in[row]) // stride + first) * stride,
        thin=every * stride,
        kept_over_tau=assessment.kept_over_tau,
        rhat_max=assessment.rhat_max,
        ess_min=assessment.ess_min,
        ess_kept=min(assessment.ess_min, _effective(draws[..., 0].size, longest, every)),
        stuck_moved=int(state.moved[row]),
        stuck_walkers=assessment.stuck,
        walkers=walkers,
        seconds=float(state.seconds[row]),
        trace=chain.theta[: chain.count, 0, 0],
        trace_burn_in=int(state.burn_in[row]) // stride + first,
        trace_thin=stride,
    )
    results.add(
        int(state.positions[row]),
        draws.reshape(draws.shape[0], -1, draws.shape[-1]),
        np.moveaxis(log_prob[rows], 1, 0).reshape(draws.shape[0], -1),
        info,
    )
