r"""Adaptive importance sampling of many data sets at once, with weights that are exact for any start.

Each round fits a Student-t mixture to everything found so far, draws from::

    q(z) = fit share * fit(z) + defensive share * defensive(z) + mode share * modes(z)

(``defensive`` has the size of the prior, ``modes`` holds modes that must never be lost) and weighs the draws with the
target's exact density, :math:`w = p(z) / q(z)`. The result is the *last round alone*: given the rounds before it
its draws are independent and its proposal is a known density, so the mean weight is an unbiased evidence and
Pareto's k-hat is valid. Weights over all rounds (the balance heuristic) would carry more effective draws
and be biased low, because a proposal is fitted to the very points that it then weighs; they steer the adaptation
only. A data set is done when k-hat and effective draws suffice *and* the evidence agrees with the round before:
a round that misses a mode looks perfect by itself, and a round that met it once does not agree. The first round draws
from what is known alone, such as Laplace fits of modes.

Reference: Bugallo et al. 2017, IEEE Signal Processing Magazine 34 (4), 60; Marin, Pudlo, Sedki 2019, Bernoulli 25,
1816 (bias of recycling); Vehtari et al. 2024, JMLR 25 (72), 1 (k-hat).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainsweep.diagnostics.weights import effective_sample_size, ess_lower_bound, log_evidence, psis_khat
from chainsweep.importance.mixture import combine, draw, log_density, require_float64
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.mixture_fit import fit, place, without_broken
from chainsweep.importance.target import Start, Target, strongest
from chainsweep.numerics.arrays import Bools, Floats, Ints
from chainsweep.numerics.keys import fold_keys, split_keys
from chainsweep.numerics.loops import on_cpu

Positions = Ints

WIDER = 1.5
"""The scale of a kernel around all draws, relative to that of the draws."""
FIRST_DEFENSIVE_SHARE = 0.2
"""The defensive share of a first round that draws from the modes before one is fitted."""


@dataclass(frozen=True)
class Settings:
    """The limits and stopping rules of the adaptation; the defaults suit up to 10 parameters, see ``settings_for``."""

    draws: int = 4000
    """The number of draws of one round and of the result, and of points that are kept for the next fit."""
    rounds: int = 12
    components: int = 256
    """The number of kernels of the fitted mixture; fewer are faster, and leave holes on curved ridges."""
    points: int = 2048
    """The number of resampled points that a mixture is fitted to."""
    effective: float = 300.0
    """Weights are tempered to this many effective points while they are degenerate."""
    defensive_share: float = 0.15
    mode_share: float = 0.05
    wide_share: float = 0.0
    """The share of the fit that is one kernel around all its points, `WIDER` times as wide as they are, so that the
    weights have no heavy tail there."""
    ess: float = 400.0
    khat: float = 0.7
    agreement: float = 4.0
    """Two rounds agree when their log evidences differ by less than this many standard errors."""
    ess_lower_bound: bool = False
    """True where ``ess`` of a result is the number that it has with a confidence of 95 %, in place of Kish's."""
    early: bool = False
    """True where the first round may be the last, if its evidence agrees with that of the points of the start."""
    lanes: int = 16
    """The number of data sets of one compiled call on an accelerator: one shape however many are not done yet."""


@dataclass(eq=False)
class WeightedDraws:
    """The last round of every data set.

    ``z`` ``(dataset, draw, nz)`` unconstrained; ``log_weight`` ``(dataset, draw)``, log target minus log proposal,
    whose mean weight is the evidence; ``khat``, ``ess``, ``log_evidence``, ``log_evidence_se`` and ``rounds``
    ``(dataset,)``. A data set whose target is nowhere finite, or infinite somewhere, has khat inf, ess 0, NaN
    evidence, weights of -inf and NaN draws. The weights are exact at any k-hat; above 0.7 the errors of sums over them
    are not reliable.
    """

    z: Floats
    log_weight: Floats
    khat: Floats
    ess: Floats
    log_evidence: Floats
    log_evidence_se: Floats
    rounds: Positions


class _Pool(NamedTuple):
    """The best points so far: ``z`` ``(dataset, point, nz)``, the others ``(dataset, point)``.

    ``log_denominator`` is the log of the density, times draws, of the proposal that made a point and of all later
    ones. Earlier ones are left out: evaluating them would cost a round squared, and only the adaptation sees it.
    """

    z: Floats
    log_target: Floats
    log_denominator: Floats


@dataclass(frozen=True)
class _Run:
    """One call of ``adapt``; ``pool`` and ``result`` are filled in place."""

    target: Target
    start: Start
    keys: NDArray[np.uint32]
    settings: Settings
    pool: _Pool
    result: WeightedDraws


def settings_for(nz: int, **changes: Any) -> Settings:
    """Settings for ``nz`` unconstrained parameters: beyond 10, few full covariances instead of many kernels."""
    if nz <= 10:
        return replace(Settings(), **changes)
    return replace(Settings(components=32, points=1024, effective=10.0 * nz), **changes)


def lanes_here(settings: Settings) -> int:
    """The number of data sets of one round on this device: fewer on a processor, which computes them one by one."""
    return max(1, settings.lanes // 4) if on_cpu() else settings.lanes


def adapt(
    target: Target, start: Start, keys: NDArray[np.uint32], settings: Settings, members: Positions | None = None
) -> WeightedDraws:
    """Sample each data set until its weights can be trusted or the rounds are spent.

    ``keys`` ``(dataset, 2)`` are raw keys, one for each data set: nothing else is random, so the other data sets of the
    batch change nothing beyond rounding. A data set that is done takes no more work. With ``members``, only the data
    sets at these positions are sampled; the results of the others are those of data sets without mass, with 0 rounds.

    Raises
    ------
    ChainsweepError
        JAX computes in single precision.
    """
    require_float64()
    datasets, _, nz = start.z.shape
    pool = _Pool(*strongest(start, settings.draws))
    result = _empty(datasets, settings.draws, nz)
    if settings.early:
        result.log_evidence[:], result.log_evidence_se[:] = _evidence_of(start)
    run = _Run(target, start, keys, settings, pool, result)
    active = np.arange(datasets, dtype=np.int64) if members is None else np.asarray(members, dtype=np.int64)
    lanes = max(1, min(lanes_here(settings), datasets))
    for step in range(settings.rounds):
        groups = [active[i : i + lanes] for i in range(0, len(active), lanes)]
        done = [_round(run, step, group, lanes) for group in groups]
        active = np.concatenate([group[~ended] for group, ended in zip(groups, done, strict=True)] or [active])
    return _without_unusable(run.result)


def _round(run: _Run, step: int, members: Positions, lanes: int) -> Bools:
    """Run one round of a few data sets; return True for those that are done."""
    count, settings = len(members), run.settings
    # On an accelerator idle lanes repeat the first data set, so that every call has one shape.
    idle = 0 if on_cpu() else lanes - count
    positions = np.concatenate([members, np.full(idle, members[0])])
    part = _Pool(*(array[positions] for array in run.pool))
    standing, share = _standing(run.start, positions, settings, first=step == 0)
    keys = split_keys(fold_keys(run.keys[positions], step), 3)
    fitted = _fitted(run.target, part, keys, positions, settings) if share < 1.0 else _unfitted(part, settings)
    proposal = combine((share, standing), (1.0 - share, fitted))
    z = draw(proposal, keys[:, 2], settings.draws)
    density = log_density(proposal, np.concatenate([z, part.z], axis=1))
    log_proposal, log_proposal_before = np.split(density, [settings.draws], axis=1)
    log_target = np.asarray(run.target.log_density(z, positions))
    log_target = np.where(np.isnan(log_target), -np.inf, log_target)
    old = np.logaddexp(part.log_denominator, np.log(settings.draws) + log_proposal_before)
    drawn = _Pool(z, log_target, np.log(settings.draws) + log_proposal)
    for whole, new in zip(run.pool, _absorb(part._replace(log_denominator=old), drawn), strict=True):
        whole[members] = new[:count]
    log_weight = (log_target - log_proposal)[:count]
    good = _record(run, members, z[:count], log_weight, step)
    no_density = ~np.isfinite(run.pool.log_target[members]).any(axis=1) & (step > 0)
    return good | no_density | np.isposinf(log_weight).any(axis=1)


def _standing(start: Start, positions: Positions, settings: Settings, first: bool) -> tuple[Mixture, float]:
    """The part of the proposal that is not fitted, and its share."""
    defensive = Mixture(*(np.asarray(array)[positions] for array in start.defensive))
    if start.mode_components is None:
        return defensive, settings.defensive_share
    modes = Mixture(*(np.asarray(array)[positions] for array in start.mode_components))
    if first:
        return combine((FIRST_DEFENSIVE_SHARE, defensive), (1.0 - FIRST_DEFENSIVE_SHARE, modes)), 1.0
    total = settings.defensive_share + settings.mode_share
    return combine((settings.defensive_share, defensive), (settings.mode_share, modes)), total


def _fitted(target: Target, pool: _Pool, keys: NDArray[np.uint32], positions: Positions, settings: Settings) -> Mixture:
    log_weight = pool.log_target - pool.log_denominator
    kernels = place(keys[:, 0], pool.z, log_weight, settings.effective, settings.components)
    precision = target.precision(kernels.center, positions)
    fitted = fit(keys[:, 1], pool.z, log_weight, kernels, precision, settings.points)
    if not settings.wide_share:
        return fitted
    wide = Mixture(np.zeros((len(positions), 1)), kernels.center.mean(axis=1)[:, None], WIDER * kernels.root[:, None])
    return combine((1.0 - settings.wide_share, fitted), (settings.wide_share, without_broken(wide)))


def _unfitted(pool: _Pool, settings: Settings) -> Mixture:
    """A mixture of components without weight, as many as a fit has."""
    datasets, _, nz = pool.z.shape
    shape = datasets, settings.components
    return Mixture(np.full(shape, -np.inf), np.zeros((*shape, nz)), np.tile(np.eye(nz), (*shape, 1, 1)))


def _record(run: _Run, members: Positions, z: Floats, log_weight: Floats, step: int) -> Bools:
    """Keep a round as the result so far; return True for the data sets for which it is good enough."""
    khat, _ = psis_khat(log_weight)
    ess = ess_lower_bound(log_weight, khat) if run.settings.ess_lower_bound else effective_sample_size(log_weight)
    evidence, error = log_evidence(log_weight)
    before, error_before = run.result.log_evidence[members], run.result.log_evidence_se[members]
    agree = np.abs(evidence - before) < run.settings.agreement * np.hypot(error, error_before)
    new = WeightedDraws(z, log_weight, khat, ess, evidence, error, np.full(len(members), step + 1))
    for item in fields(WeightedDraws):
        getattr(run.result, item.name)[members] = getattr(new, item.name)
    return agree & (khat < run.settings.khat) & (ess >= run.settings.ess)


def _absorb(pool: _Pool, drawn: _Pool) -> _Pool:
    """The pool with new draws; points of the smallest weights are removed to keep its size. The order is arbitrary."""
    merged = _Pool(*(np.concatenate(pair, axis=1) for pair in zip(pool, drawn, strict=True)))
    log_weight = merged.log_target - merged.log_denominator
    smallest = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    best = np.argpartition(smallest, drawn.z.shape[1] - 1, axis=1)[:, -pool.z.shape[1] :]
    flat = [np.take_along_axis(array, best, axis=1) for array in merged[1:]]
    return _Pool(np.take_along_axis(merged.z, best[..., None], axis=1), *flat)


def _evidence_of(start: Start) -> tuple[Floats, Floats]:
    """The log evidences and their errors from the points of the start; NaN where none has weight."""
    log_weight = np.where(np.isfinite(start.log_target), start.log_target - start.log_denominator, -np.inf)
    top = log_weight.max(axis=1, initial=-np.inf)
    some = np.isfinite(top)
    weight = np.exp(log_weight - np.where(some, top, 0.0)[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        return top + np.log(weight.sum(axis=1)), np.sqrt((weight**2).sum(axis=1)) / weight.sum(axis=1)


def _empty(datasets: int, draws: int, nz: int) -> WeightedDraws:
    return WeightedDraws(
        z=np.full((datasets, draws, nz), np.nan),
        log_weight=np.full((datasets, draws), -np.inf),
        khat=np.full(datasets, np.inf),
        ess=np.zeros(datasets),
        log_evidence=np.full(datasets, np.nan),
        log_evidence_se=np.full(datasets, np.nan),
        rounds=np.zeros(datasets, dtype=np.int64),
    )


def _without_unusable(result: WeightedDraws) -> WeightedDraws:
    """Blank the data sets whose weights are all zero, or not finite somewhere."""
    bad = ~np.isfinite(result.log_evidence)
    blank = _empty(len(bad), 1, result.z.shape[-1])
    for item in fields(WeightedDraws):
        if item.name != "rounds":
            getattr(result, item.name)[bad] = getattr(blank, item.name)[bad]
    return result
