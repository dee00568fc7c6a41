"""Do the chains hold all of the posterior? Exact importance weights answer, where R-hat cannot.

R-hat compares chains with each other and is blind to a mode that none of them visits. Here a defensive mixture
(kernels on the chains' draws, Laplace kernels on modes found elsewhere, a broad component of the prior's size) is
adapted for a few rounds, also to likely prior draws, and its exactly weighted draws are compared with the
chains': means and sds of every parameter, and the mass that lies where the chains' own density has no draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chainsweep.diagnostics.weights import normalised_weights
from chainsweep.engines.importance import Settings, adapt
from chainsweep.engines.importance_start import Start, from_chains, target_of
from chainsweep.engines.mixture import Mixture, combine, log_density
from chainsweep.model.batched import BatchedProblem

Floats = NDArray[np.float64]

CHAIN_SHARE = 0.5
"""Share of the chains' kernels in what is known; the modes have the rest."""
OUTSIDE_SLACK = 3.0
"""A point is outside where the chains' density is this much (in logs) below that at their loneliest draw."""
LEAST_ESS = 100.0
"""Effective draws below which a check proves nothing, whatever its k-hat."""

MODE_CHECK = Settings(
    draws=1000, rounds=5, components=32, points=512, effective=100.0, broad_share=0.15, known_share=0.35, ess=200.0
)
"""A check is cheaper than an answer: its errors need only be small beside the shifts that matter."""


@dataclass(frozen=True)
class ModeCheck:
    """What the check found; every array ``(dataset,)``.

    ``shift`` is the largest distance between the means of a constrained parameter, in sds of the weighted draws, and
    ``shift_se`` its Monte-Carlo error, that of the chains included. ``sd_ratio`` is the chains' sd over the weighted
    draws' for the parameter where it is furthest from 1. ``mass_outside`` in 0..1 is the posterior mass far from
    every chain draw and ``mass_outside_se`` its error. Where the weights are unusable or a chain has no finite draw,
    all of these are NaN. Where ``conclusive`` is False (k-hat or effective draws do not suffice) they prove nothing,
    neither that a mode is missing nor that none is.
    """

    shift: Floats
    shift_se: Floats
    sd_ratio: Floats
    mass_outside: Floats
    mass_outside_se: Floats
    khat: Floats
    ess: Floats
    log_evidence: Floats
    log_evidence_se: Floats
    conclusive: NDArray[np.bool_]


def mode_check(
    batched: BatchedProblem,
    chain_z: Floats,
    start: Start,
    keys: NDArray[np.uint32],
    settings: Settings = MODE_CHECK,
    chain_ess: Floats | None = None,
) -> ModeCheck:
    """Compare the chains of each data set with exactly weighted draws.

    Parameters
    ----------
    chain_z
        Unconstrained draws of all chains, thinned to a few hundred, ``(dataset, draw, nz)``; NaN rows are padding.
    start
        Where else mass may lie: prior draws (``from_prior``) and, as its ``known`` part, modes (``from_modes``) or
        the kernels of another engine's draws (``from_chains``).
    keys
        Raw keys ``(dataset, 2)``, one a data set.
    chain_ess
        Effective draws behind the chains' means, ``(dataset,)``; by default the draws given, as if independent.
    """
    target = target_of(batched)
    present = np.asarray(np.isfinite(chain_z).all(axis=-1))
    count = present.sum(axis=1)
    kernels = from_chains(target, chain_z, keys)
    known = kernels if start.known is None else combine((CHAIN_SHARE, kernels), (1.0 - CHAIN_SHARE, start.known))
    weighted = adapt(target, start._replace(known=known), keys, settings)
    usable = (count > 1) & (weighted.ess > 0.0)
    filled = np.where(present[..., None], chain_z, 0.0)
    drawn = np.where(usable[:, None, None], weighted.z, 0.0)
    weights = normalised_weights(np.where(usable[:, None], weighted.log_weight, np.nan))
    chain = _moments(batched.constrain(filled), present / np.maximum(count, 1)[:, None])
    exact = _moments(batched.constrain(drawn), weights)
    effective = np.maximum(count, 1) if chain_ess is None else np.asarray(chain_ess)
    outside, outside_se = _mass_outside(kernels, filled, present, drawn, weights)
    shift, shift_se, sd_ratio = _compare(chain, exact, effective)
    return ModeCheck(
        shift=np.where(usable, shift, np.nan),
        shift_se=np.where(usable, shift_se, np.nan),
        sd_ratio=np.where(usable, sd_ratio, np.nan),
        mass_outside=outside,
        mass_outside_se=outside_se,
        khat=weighted.khat,
        ess=weighted.ess,
        log_evidence=weighted.log_evidence,
        log_evidence_se=weighted.log_evidence_se,
        conclusive=usable & (weighted.khat < settings.khat) & (weighted.ess >= LEAST_ESS),
    )


@dataclass(frozen=True)
class _Moments:
    """Mean, sd and error of the mean of each parameter, ``(dataset, ndim)``."""

    mean: Floats
    sd: Floats
    error: Floats


def _moments(theta: Floats, weights: Floats) -> _Moments:
    """The error counts a weighted draw by its weight squared."""
    theta = np.where(weights[..., None] > 0.0, theta, 0.0)
    mean = np.einsum("dn,dnp->dp", weights, theta)
    squares = (theta - mean[:, None]) ** 2
    sd = np.sqrt(np.einsum("dn,dnp->dp", weights, squares))
    return _Moments(mean, sd, np.sqrt(np.einsum("dn,dnp->dp", weights**2, squares)))


def _compare(chain: _Moments, exact: _Moments, effective: Floats) -> tuple[Floats, Floats, Floats]:
    """Shift and its error for the parameter with the largest, and the sd ratio furthest from 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.abs(exact.mean - chain.mean) / exact.sd
        error = np.hypot(exact.error, chain.sd / np.sqrt(effective)[:, None]) / exact.sd
        ratio = chain.sd / exact.sd
        extreme = np.abs(np.log(ratio))
    rows = np.arange(len(shift))
    worst = np.argmax(np.where(np.isnan(shift), -1.0, shift), axis=1)
    furthest = np.argmax(np.where(np.isnan(extreme), -1.0, extreme), axis=1)
    return shift[rows, worst], error[rows, worst], ratio[rows, furthest]


def _mass_outside(
    kernels: Mixture, chain_z: Floats, present: NDArray[np.bool_], z: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Posterior mass where the chains' density is far below that at every chain draw, and its error."""
    at_chain = np.where(present, np.asarray(log_density(kernels, chain_z)), np.inf)
    outside = np.asarray(log_density(kernels, z)) < at_chain.min(axis=1, keepdims=True) - OUTSIDE_SLACK
    mass = np.where(outside, weights, 0.0).sum(axis=1)
    mass = np.where(np.isnan(weights[:, 0]), np.nan, mass)
    return mass, np.sqrt((weights**2 * (outside - mass[:, None]) ** 2).sum(axis=1))
