"""Weighted draws from a trained network: exact weights, and adaptation where these are not good enough."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.weights import efficiency, ess_lower_bound, log_evidence, psis_khat
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.engines.snpe.network import Network
from chainsweep.engines.snpe.proposal import EVERY, FREEDOM, Proposal
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.importance import adaptive as importance
from chainsweep.importance import global_proposal
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.target import PRIOR_INFLATION, Start, defensive_mixture, target_of
from chainsweep.model.batched import BatchedProblem, blocks_of
from chainsweep.model.failing import Failing
from chainsweep.numerics.arrays import Arrays, Floats, Ints
from chainsweep.numerics.seeds import Seeds

Positions = Ints

PRIOR_DRAWS = 1024
"""The number of prior draws that define the defensive component of the adaptation."""
LEAST_DRAWS, LEAST_STEP = 200, 100
INFINITE_VARIANCE_KHAT = 0.5
"""The k-hat from which on the variance of the weights is infinite, so that more draws of the network do not help."""
TOGETHER = 16
"""The number of data sets whose densities are computed in one compiled call of one shape."""
BROAD_DEFENSIVE_SHARE, BROAD_WIDE_SHARE = 0.3, 0.35
"""The shares of the broader proposal of the last adaptation: prior draws, and one kernel around all draws."""
REASON_BYTES = 300
NOT_FINITE = f"{Failing.NOT_FINITE}, or the prior is improper for them"
NO_DENSITY = str(Failing.NO_WEIGHT)


@dataclass(frozen=True)
class Info:
    """The figures of each data set, all ``(dataset,)`` float64; NaN where there is no likelihood or no draw."""

    khat: Floats
    """Pareto k-hat of the returned draws."""
    is_efficiency: Floats
    """Kish's effective sample size of the returned draws, per draw."""
    ess: Floats
    """The effective sample size that the returned draws have with a confidence of 95 %."""
    log_evidence: Floats
    log_evidence_se: Floats
    proposal_khat: Floats
    """Pareto k-hat of the network's proposal."""
    proposal_efficiency: Floats
    """Effective sample size per draw of the network's proposal."""
    rounds: Floats
    """Rounds of adaptive importance sampling, 0 where the network sufficed."""
    exact_weights: Floats
    """1 where the weights are exact, 0 where a model without likelihood leaves the network's own draws."""
    ood_distance: Floats
    """Distance of the learned summary from those of simulations, where 1 is the median distance of simulations."""
    ood_pvalue: Floats
    """Share of simulations whose summaries lie farther out, with the data set itself counted as one of them."""
    miscalibration: Floats
    """Largest distance from uniform of the network's calibration figures, beyond chance."""
    dropped_share: Floats
    """Share of the network's simulations that were not finite."""
    dropped_by: Floats
    """Entry of the p-value of what decides which simulations were dropped, see `dropping.culprit`; NaN where nothing
    does."""
    seconds: Floats
    """Wall time, shared equally among data sets that were handled together."""

    @classmethod
    def empty(cls, datasets: int) -> Info:
        """Figures of ``datasets`` data sets that are all NaN."""
        return cls(**{field.name: np.full(datasets, np.nan) for field in fields(cls)})


@dataclass(frozen=True)
class Weighted:
    """Weighted draws of some data sets.

    ``theta`` ``(dataset, draw, ndim)`` is constrained, ``lp`` its log density; the first ``count`` ``(dataset,)`` draws
    are filled, the others are NaN. ``failures`` maps the position of a data set without draws to the reason.
    """

    theta: Floats
    lp: Floats
    log_weight: Floats
    count: Ints
    info: Info
    failures: Mapping[int, str]


@dataclass
class State:
    """The results so far: those of the first ``done`` data sets of the batch."""

    done: int
    draws: Arrays
    count: Ints
    """The number of draws of each data set."""
    info: Info
    reasons: NDArray[np.uint8]
    """Why a data set has no draws, UTF-8 in ``(dataset, byte)``; all zero where it has some."""

    @classmethod
    def empty(cls, datasets: int, draws: int, ndim: int) -> State:
        """The state before any data set is drawn."""
        shape = (datasets, draws)
        arrays = {
            "theta": np.full((*shape, ndim), np.nan),
            "lp": np.full(shape, np.nan),
            "log_weight": np.full(shape, np.nan),
        }
        return cls(
            0, arrays, np.zeros(datasets, np.int64), Info.empty(datasets), np.zeros((datasets, REASON_BYTES), np.uint8)
        )

    def store(self, positions: Ints, part: Weighted) -> None:
        """Store the results of a finished block of data sets."""
        for name in self.draws:
            self.draws[name][positions] = getattr(part, name)
        self.count[positions] = part.count
        for field in fields(Info):
            getattr(self.info, field.name)[positions] = getattr(part.info, field.name)
        for position, reason in part.failures.items():
            text = np.frombuffer(reason.encode()[:REASON_BYTES], np.uint8)
            self.reasons[positions[position], : len(text)] = text
        self.done = int(positions[-1]) + 1

    def arrays(self) -> Arrays:
        """The state as flat arrays by name; ``from_arrays`` is the inverse."""
        info = {f"info/{field.name}": getattr(self.info, field.name) for field in fields(Info)}
        return {"done": np.array(self.done), "count": self.count, "reasons": self.reasons, **self.draws, **info}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> State:
        """The inverse of `arrays`."""
        draws = {name: np.array(arrays[name]) for name in ("theta", "lp", "log_weight")}
        info = Info(**{field.name: np.array(arrays[f"info/{field.name}"]) for field in fields(Info)})
        return cls(int(arrays["done"]), draws, np.array(arrays["count"]), info, np.array(arrays["reasons"]))

    def failures(self) -> dict[int, str]:
        """The reasons why data sets have no draws, by position."""
        failed = np.flatnonzero(self.reasons.any(axis=1))
        return {int(i): bytes(self.reasons[i]).rstrip(b"\0").decode(errors="replace") for i in failed}


def thorough_of(settings: SnpeSettings, limits: VerdictSection) -> importance.Settings:
    """The settings of the thorough adaptation, which draws and adapts until ``limits`` are met."""
    return importance.Settings(
        draws=settings.draws,
        rounds=settings.tuning.adaptive_rounds,
        ess=limits.ess,
        khat=limits.khat,
        wide_share=1.0 / EVERY,
        ess_lower_bound=True,
    )


def weigh(batched: BatchedProblem, network: Network, thorough: importance.Settings, seeds: Seeds) -> Weighted:
    """Draw from the network, with exact weights; replace the draws by adapted ones where these are not good enough."""
    started = time.monotonic()
    ids = batched.batch.ids
    info = Info.empty(len(ids))
    exact = batched.problem.has_likelihood
    info.exact_weights[:], info.rounds[:] = float(exact), 0.0
    info.ood_distance[:], info.ood_pvalue[:] = network.ood_test()
    info.miscalibration[:] = network.miscalibration
    info.dropped_share[:], info.dropped_by[:] = network.dropped_share, network.dropped_by
    failures = dict.fromkeys(np.flatnonzero(~network.usable).tolist(), NOT_FINITE) | network.refused
    drawn = _network_draws(batched, network, info, thorough, seeds)
    if exact:
        _adapt(batched, network, drawn, info, thorough, seeds)
        empty = np.flatnonzero(~np.isfinite(drawn.log_weight).any(axis=1)).tolist()
        failures = dict.fromkeys(empty, NO_DENSITY) | batched.failures | failures
    behind = np.arange(thorough.draws) >= drawn.count[:, None]
    theta = batched.constrain(np.where(behind[..., None], drawn.z[:, :1], drawn.z))
    lp = np.full(theta.shape[:2], np.nan)
    if exact:
        lp = _constrained_density(batched, drawn.z, theta, drawn.log_density)
    theta, lp, log_weight = (np.array(values) for values in (theta, lp, drawn.log_weight))
    theta[behind] = lp[behind] = log_weight[behind] = np.nan
    _blank(list(failures), theta, lp, log_weight, info)
    drawn.count[list(failures)] = 0
    info.seconds[:] = (time.monotonic() - started) / len(ids)
    return Weighted(theta, lp, log_weight, drawn.count, info, failures)


@dataclass
class _Drawn:
    """Unconstrained draws of each data set, of which the first ``count`` ``(dataset,)`` are filled.

    ``z`` ``(dataset, draw, dim)``; ``log_density`` and ``log_weight`` ``(dataset, draw)``, where draws that are not
    filled have the weight 0.
    """

    z: Floats
    log_density: Floats
    log_weight: Floats
    count: Ints

    @property
    def log_q(self) -> Floats:
        """Log density of the proposal."""
        return self.log_density - self.log_weight


def _network_draws(
    batched: BatchedProblem, network: Network, info: Info, thorough: importance.Settings, seeds: Seeds
) -> _Drawn:
    """Draw from the network's proposal: a few draws at first, and more where these can be enough.

    ``info`` gets the figures of the proposal. Without a likelihood all draws are the network's own, made at once.
    """
    count, dim, ids = len(batched.batch), batched.problem.ndim_unconstrained, batched.batch.ids
    base = np.stack([seeds.generator(i, "network").standard_normal((thorough.draws, dim)) for i in ids])
    empty = np.full((count, thorough.draws), -np.inf)
    drawn = _Drawn(np.zeros(base.shape), np.zeros(empty.shape), empty, np.zeros(count, np.int64))
    rows = np.arange(count)
    if not batched.problem.has_likelihood:
        drawn.z[:], drawn.log_density[:] = network.draw(base, rows)
        drawn.log_weight[:], drawn.count[:] = 0.0, thorough.draws
        return drawn
    proposal = Proposal(network, ids, dim, seeds)
    squares = np.stack([seeds.generator(i, "network-wide").chisquare(FREEDOM, thorough.draws) for i in ids])
    for first, last in itertools.pairwise(_stages(thorough.draws)):
        z, log_q = proposal.draw(base[rows, first:last], squares[rows, first:last], first, rows)
        log_density = _density_of(batched, rows, z)
        log_weight = log_density - log_q
        for whole, part in ((drawn.z, z), (drawn.log_density, log_density), (drawn.log_weight, log_weight)):
            whole[rows, first:last] = part
        drawn.count[rows] = last
        _note(info, rows, drawn.log_weight[rows, :last])
        finite_variance = info.khat[rows] < min(thorough.khat, INFINITE_VARIANCE_KHAT)
        wanting = info.ess[rows] < thorough.ess
        rows = rows[finite_variance & wanting & (info.is_efficiency[rows] * thorough.draws > thorough.ess)]
        if not rows.size:
            break
    info.proposal_khat[:], info.proposal_efficiency[:] = info.khat, info.is_efficiency
    return drawn


def _stages(draws: int) -> list[int]:
    """The counts at which the draws of a network are judged: an eighth at first, then a sixteenth more each time.

    The counts are multiples of `EVERY` where possible, so that every stage has its share of wide draws.
    """
    first, step = (
        max(least, part - part % EVERY) for least, part in ((LEAST_DRAWS, draws // 8), (LEAST_STEP, draws // 16))
    )
    return [0, *range(first, draws, step), draws]


def _density_of(batched: BatchedProblem, rows: Positions, z: Floats) -> Floats:
    """Log density at ``z`` ``(row, draw, dim)`` of the data sets ``rows``, -inf where it is not finite."""
    if not batched.problem.has_jax_likelihood:
        part = batched.take(rows)
        density = part.log_density_unconstrained(z)
        batched.failures.update({int(rows[k]): reason for k, reason in part.failures.items()})
    else:
        density = np.empty(z.shape[:2])
        for members in blocks_of(rows.size, TOGETHER):
            part = batched.take(rows[members])
            density[members] = part.log_density_unconstrained(z[members])
    return np.where(np.isfinite(density), density, -np.inf)


def _note(info: Info, rows: Positions, log_weight: Floats) -> None:
    """Set the figures of the data sets ``rows`` from their log weights ``(row, draw)``."""
    info.khat[rows], _ = psis_khat(log_weight)
    info.ess[rows] = ess_lower_bound(log_weight, info.khat[rows])
    info.log_evidence[rows], info.log_evidence_se[rows] = log_evidence(log_weight)
    info.is_efficiency[rows] = efficiency(log_weight)


def _adapt(
    batched: BatchedProblem,
    network: Network,
    drawn: _Drawn,
    info: Info,
    thorough: importance.Settings,
    seeds: Seeds,
) -> None:
    """Replace the draws by adapted ones where the network's weights are not good enough.

    A quick adaptation comes first, then a thorough one for the data sets where the quick one is not good enough. Where
    k-hat is good then, and the effective draws are still not sure, the proposal lacks a tail: a last one is broader.
    """
    quick = replace(
        global_proposal.QUICK,
        draws=min(global_proposal.QUICK.draws, thorough.draws),
        rounds=min(global_proposal.QUICK.rounds, thorough.rounds),
        ess=thorough.ess,
        khat=thorough.khat,
        early=False,
        wide_share=1.0 / EVERY,
        ess_lower_bound=True,
    )
    broad = replace(thorough, defensive_share=BROAD_DEFENSIVE_SHARE, wide_share=BROAD_WIDE_SHARE)
    defensive = None
    for limits, purpose in ((quick, "adapt"), (thorough, "adapt"), (broad, "adapt-broad")):
        enough = (info.khat < limits.khat) & (info.ess >= limits.ess)
        wanted = network.usable & ~enough & np.isfinite(drawn.log_weight).any(axis=1)
        if limits is broad:
            wanted &= info.khat < limits.khat
        poor = np.flatnonzero(wanted)
        if not poor.size or not limits.rounds:
            return
        if defensive is None:
            # The prior draws are those of the whole batch, whose shape is compiled already.
            prior_keys = seeds.jax_keys(batched.batch.ids, "prior", 1)[:, 0]
            defensive = defensive_mixture(
                batched.unconstrain(batched.sample_prior(prior_keys, PRIOR_DRAWS)), PRIOR_INFLATION
            )
        part = batched.take(poor)
        log_density = np.where(np.isfinite(drawn.log_weight[poor]), drawn.log_density[poor], -np.inf)
        log_q = np.where(np.isfinite(log_density), drawn.log_q[poor], 0.0)
        log_denominator = log_q + np.log(drawn.count[poor])[:, None]
        wide = Mixture(*(array[poor] for array in defensive))
        start = Start(drawn.z[poor], log_density, log_denominator, wide)
        keys = seeds.jax_keys(part.batch.ids, purpose, 1)[:, 0]
        found = importance.adapt(target_of(part), start, keys, limits)
        better = _rank(found.khat, found.ess, limits) > _rank(info.khat[poor], info.ess[poor], limits)
        new, old = poor[better], np.flatnonzero(better)
        info.rounds[poor] += found.rounds
        if not new.size:
            continue
        last = limits.draws
        drawn.log_weight[new] = -np.inf
        drawn.z[new, :last], drawn.log_weight[new, :last] = found.z[old], found.log_weight[old]
        drawn.log_density[new, :last] = _density_of(batched, new, found.z[old])
        drawn.count[new] = last
        for name in ("khat", "ess", "log_evidence", "log_evidence_se"):
            getattr(info, name)[new] = getattr(found, name)[old]
        info.is_efficiency[new] = efficiency(found.log_weight[old])


def _rank(khat: Floats, ess: Floats, limits: importance.Settings) -> Floats:
    """The score that orders results: a good k-hat counts first, then the effective draws."""
    usable = np.where(np.isfinite(ess), ess, 0.0)
    return np.where(khat < limits.khat, 1e9, 0.0) + usable


def _constrained_density(batched: BatchedProblem, z: Floats, theta: Floats, log_density: Floats) -> Floats:
    """The constrained log density at ``theta`` that belongs to the unconstrained ``log_density`` at ``z``.

    A slow host likelihood is not called again. Both densities of a JAX model are computed again for the log Jacobian;
    a change of the model since the draws is kept in the result, so that later checks can detect it.
    """
    if batched.problem.has_jax_likelihood:
        with np.errstate(invalid="ignore"):  # both are -inf where a draw has no density
            change = log_density - batched.log_density_unconstrained(z)
        return batched.log_density(theta) + np.where(np.isfinite(change), change, 0.0)
    log_prior_z = -batched.potential(z)
    return batched.log_prior(theta) + log_density - log_prior_z


def _blank(failed: list[int], theta: Floats, lp: Floats, log_weight: Floats, info: Info) -> None:
    for values in (theta, lp, log_weight, *(getattr(info, field.name) for field in fields(Info))):
        values[failed] = np.nan


def chains_of(state: State) -> Chains:
    """The result of a whole batch, one chain of weighted draws for each data set."""
    failures = state.failures()
    return Chains(
        kind=DrawKind.WEIGHTED,
        theta=state.draws["theta"][:, None],
        sample_stats={name: state.draws[name][:, None] for name in ("lp", "log_weight")},
        n_draws=state.count,
        info={field.name: getattr(state.info, field.name) for field in fields(Info)},
        failures=failures,
    )
