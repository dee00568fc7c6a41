"""From a trained network to weighted draws: exact weights, and adaptation where they do not suffice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from chainsweep.config import SnpeSettings
from chainsweep.diagnostics.weights import effective_sample_size, log_evidence, psis_khat
from chainsweep.engines import importance
from chainsweep.engines.base import Arrays, Chains, DrawKind, Seeds
from chainsweep.engines.importance_start import PRIOR_INFLATION, Start, broad_of, target_of
from chainsweep.engines.snpe_trained import Network
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Problem

Floats = NDArray[np.float64]

PRIOR_DRAWS = 1024
"""Prior draws that give the adaptation its broad component."""
REASON_BYTES = 300
NOT_FINITE = "observations, errors or constants are not finite, or the prior is improper for them"
NO_DENSITY = "no draw of the network has a finite log density"


@dataclass(frozen=True)
class Info:
    """Figures of each data set, all ``(dataset,)`` float64; NaN where there is no likelihood or no draw."""

    khat: Floats
    """Pareto k-hat of the returned draws."""
    is_efficiency: Floats
    """Effective sample size of the returned draws, per draw."""
    ess: Floats
    log_evidence: Floats
    log_evidence_se: Floats
    proposal_khat: Floats
    """Pareto k-hat of the network alone."""
    proposal_efficiency: Floats
    """Effective sample size per draw of the network alone."""
    rounds: Floats
    """Rounds of adaptive importance sampling, 0 where the network sufficed."""
    exact_weights: Floats
    """1 where the weights are exact, 0 where a model without likelihood leaves the network's own draws."""
    ood_distance: Floats
    """Distance of the learned summary from those of simulations, 1 is usual."""
    ood_pvalue: Floats
    """Share of simulations whose summaries lie farther out, the data set itself counted in."""
    miscalibration: Floats
    """Of the network: largest distance from uniform of its calibration figures, beyond chance."""
    seconds: Floats
    """Wall time, shared equally among data sets that were handled together."""

    @classmethod
    def empty(cls, datasets: int) -> Info:
        """All NaN."""
        return cls(**{field.name: np.full(datasets, np.nan) for field in fields(cls)})


@dataclass(frozen=True)
class Weighted:
    """Draws of some data sets: ``theta`` ``(dataset, draw, ndim)`` constrained, ``lp`` its log density."""

    theta: Floats
    lp: Floats
    log_weight: Floats
    info: Info
    failures: Mapping[int, str]


@dataclass
class State:
    """What has been drawn so far: the first ``done`` data sets of the batch."""

    done: int
    draws: Arrays
    info: Info
    reasons: NDArray[np.uint8]
    """Why a data set has no draws, UTF-8 in ``(dataset, byte)``; all zero where it has some."""

    @classmethod
    def empty(cls, datasets: int, draws: int, ndim: int) -> State:
        """Nothing drawn yet."""
        shape = (datasets, draws)
        arrays = {
            "theta": np.full((*shape, ndim), np.nan),
            "lp": np.full(shape, np.nan),
            "log_weight": np.full(shape, np.nan),
        }
        return cls(0, arrays, Info.empty(datasets), np.zeros((datasets, REASON_BYTES), np.uint8))

    def store(self, positions: NDArray[np.int64], part: Weighted) -> None:
        """Take over a finished block."""
        for name in self.draws:
            self.draws[name][positions] = getattr(part, name)
        for field in fields(Info):
            getattr(self.info, field.name)[positions] = getattr(part.info, field.name)
        for position, reason in part.failures.items():
            text = np.frombuffer(reason.encode()[:REASON_BYTES], np.uint8)
            self.reasons[positions[position], : len(text)] = text
        self.done = int(positions[-1]) + 1

    def arrays(self) -> Arrays:
        """As flat arrays."""
        info = {f"info/{field.name}": getattr(self.info, field.name) for field in fields(Info)}
        return {"done": np.array(self.done), "reasons": self.reasons, **self.draws, **info}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> State:
        """The inverse of `arrays`."""
        draws = {name: np.array(arrays[name]) for name in ("theta", "lp", "log_weight")}
        info = Info(**{field.name: np.array(arrays[f"info/{field.name}"]) for field in fields(Info)})
        return cls(int(arrays["done"]), draws, info, np.array(arrays["reasons"]))

    def failures(self) -> dict[int, str]:
        """Reasons by position."""
        failed = np.flatnonzero(self.reasons.any(axis=1))
        return {int(i): bytes(self.reasons[i]).rstrip(b"\0").decode(errors="replace") for i in failed}


def weigh(batched: BatchedProblem, network: Network, settings: SnpeSettings, seeds: Seeds) -> Weighted:
    """Draws of the network with their exact weights; adapted draws where these are not good enough."""
    started = time.monotonic()
    ids = batched.batch.ids
    dim = batched.problem.ndim_unconstrained
    base = np.stack([seeds.generator(i, "network").standard_normal((settings.draws, dim)) for i in ids])
    z, log_q = network.draw(base)
    info = Info.empty(len(ids))
    exact = batched.problem.has_likelihood
    info.exact_weights[:], info.rounds[:] = float(exact), 0.0
    info.ood_distance[:], info.ood_pvalue[:] = network.strangeness()
    info.miscalibration[:] = network.miscalibration
    failures = dict.fromkeys(np.flatnonzero(~network.usable).tolist(), NOT_FINITE) | network.refused
    if exact:
        log_weight = _density(batched, z) - log_q
        _note_proposal(info, log_weight)
        network_draws = _Proposal(z, log_q, log_weight)
        z, log_weight, log_density = _adapted(batched, network, network_draws, info, settings, seeds)
        theta = batched.constrain(z)
        lp = _constrained_density(batched, z, theta, log_density)
        empty = np.flatnonzero(~np.isfinite(log_weight).any(axis=1)).tolist()
        failures = dict.fromkeys(empty, NO_DENSITY) | batched.failures | failures
    else:
        theta, log_weight, lp = batched.constrain(z), np.zeros(z.shape[:2]), np.full(z.shape[:2], np.nan)
    theta, lp, log_weight = (np.array(values) for values in (theta, lp, log_weight))
    _blank(list(failures), theta, lp, log_weight, info)
    info.seconds[:] = (time.monotonic() - started) / len(ids)
    return Weighted(theta, lp, log_weight, info, failures)


def _density(batched: BatchedProblem, z: Floats) -> Floats:
    density = batched.log_density_unconstrained(z)
    return np.where(np.isfinite(density), density, -np.inf)


def _note_proposal(info: Info, log_weight: Floats) -> None:
    """The figures of the network alone, which stand until an adaptation replaces them."""
    info.khat[:], _ = psis_khat(log_weight)
    info.ess[:] = effective_sample_size(log_weight)
    info.log_evidence[:], info.log_evidence_se[:] = log_evidence(log_weight)
    info.is_efficiency[:] = info.ess / log_weight.shape[1]
    info.proposal_khat[:], info.proposal_efficiency[:] = info.khat, info.is_efficiency


@dataclass(frozen=True)
class _Proposal:
    """Draws ``(dataset, draw, dim)`` of the network; log density and log weight ``(dataset, draw)``."""

    z: Floats
    log_q: Floats
    log_weight: Floats


def _adapted(
    batched: BatchedProblem,
    network: Network,
    proposal: _Proposal,
    info: Info,
    settings: SnpeSettings,
    seeds: Seeds,
) -> tuple[Floats, Floats, Floats]:
    """Draws, weights and unconstrained log densities, adapted where the network's weights do not suffice."""
    z, log_q, log_weight = proposal.z, proposal.log_q, proposal.log_weight
    log_density = log_weight + log_q
    limits = importance.Settings(
        draws=settings.draws, rounds=settings.adaptive_rounds, ess=settings.target_ess, khat=settings.target_khat
    )
    enough = (info.khat < limits.khat) & (info.ess >= limits.ess)
    poor = np.flatnonzero(network.usable & ~enough & np.isfinite(log_weight).any(axis=1))
    if not len(poor) or settings.adaptive_rounds == 0:
        return z, log_weight, log_density
    part = BatchedProblem(batched.problem, batched.batch.take(poor), batched.compiled)
    prior_keys, keys = (seeds.jax_keys(part.batch.ids, purpose, 1)[:, 0] for purpose in ("prior", "adapt"))
    prior = part.unconstrain(part.sample_prior(prior_keys, PRIOR_DRAWS))
    start = Start(z[poor], log_density[poor], log_q[poor] + np.log(settings.draws), broad_of(prior, PRIOR_INFLATION))
    found = importance.adapt(target_of(part), start, keys, limits)
    better = _rank(found.khat, found.ess, limits) > _rank(info.khat[poor], info.ess[poor], limits)
    new, old = poor[better], np.flatnonzero(better)
    z[new], log_weight[new] = found.z[old], found.log_weight[old]
    log_density[new] = _density(part, found.z)[old]
    for name in ("khat", "ess", "log_evidence", "log_evidence_se"):
        getattr(info, name)[new] = getattr(found, name)[old]
    info.is_efficiency[new] = found.ess[old] / settings.draws
    info.rounds[poor] = found.rounds
    return z, log_weight, log_density


def _rank(khat: Floats, ess: Floats, limits: importance.Settings) -> Floats:
    """A score that orders results: a good k-hat counts first, then the effective draws."""
    usable = np.where(np.isfinite(ess), ess, 0.0)
    return np.where(khat < limits.khat, 1.0, 0.0) * (1 + limits.draws) + usable


def _constrained_density(batched: BatchedProblem, z: Floats, theta: Floats, log_density: Floats) -> Floats:
    """Constrained log density; a slow host likelihood is not called again but taken from ``log_density``."""
    if batched.problem.has_jax_likelihood:
        return batched.log_density(theta)
    log_prior_z = -np.asarray(batched.compiled("potential")(z, batched.observations))
    return batched.log_prior(theta) + log_density - log_prior_z


def _blank(failed: list[int], theta: Floats, lp: Floats, log_weight: Floats, info: Info) -> None:
    for values in (theta, lp, log_weight, *(getattr(info, field.name) for field in fields(Info))):
        values[failed] = np.nan


def chains_of(problem: Problem, state: State) -> Chains:
    """The result of a whole batch, one chain of weighted draws a data set."""
    failures = state.failures()
    posterior = problem.unflatten(state.draws["theta"][:, None])
    n_draws = np.full(len(state.reasons), state.draws["lp"].shape[1], np.int64)
    n_draws[list(failures)] = 0
    return Chains(
        kind=DrawKind.WEIGHTED,
        posterior=posterior,
        sample_stats={name: state.draws[name][:, None] for name in ("lp", "log_weight")},
        n_draws=n_draws,
        info={field.name: getattr(state.info, field.name) for field in fields(Info)},
        failures=failures,
    )
