r"""Adaptive importance sampling of many data sets at once: exact weights, whatever the start.

Each round fits a Student-t mixture to everything found so far, draws from

    q(z) = (1 - s) * fit + s * standing,

``standing`` being what must never be lost (a broad component of the prior's size, known modes), and weighs the draws by
:math:`w = p(z) / q(z)` with the target's exact density. The answer is the *last round alone*: given the rounds before it,
its draws are independent and its proposal is known, so the mean weight is an unbiased evidence and Pareto's k-hat
means what it says. Weights over all rounds (the balance heuristic) would be more efficient and biased low, since a
proposal is placed on the very points that it then weighs; they steer the adaptation only.

Reference: Bugallo et al. 2017, IEEE Signal Processing Magazine 34 (4), 60; Cappe et al. 2008, Statistics and Computing 18, 447;
Marin, Pudlo, Sedki 2019, Bernoulli 25, 1816 (bias of recycling).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.diagnostics.weights import effective_sample_size, log_evidence, psis_khat
from chainsweep.engines.mixture import (
    Mixture, combine, draw, fit, log_density, map_datasets, require_float64)
from chainsweep.engines.starts import Modes, Pool
from chainsweep.model.batched import BatchedProblem

HOOK = None
Floats = NDArray[np.float64]
Array = Any

Target = Callable[[Floats, NDArray[np.int64]], Floats]


@dataclass(frozen=True)
class Settings:
    draws: int = 4000
    rounds: int = 10
    components: int = 32
    points: int = 1024
    effective: float = 100.0
    standing: float = 0.15
    ess: float = 400.0
    khat: float = 0.7
    agreement: float = 4.0
    lanes: int = 16


class Start(NamedTuple):
    z: Floats
    log_target: Floats
    log_denominator: Floats
    standing: Mixture


@dataclass(frozen=True)
class WeightedDraws:
    z: Floats
    log_weight: Floats
    khat: Floats
    ess: Floats
    log_evidence: Floats
    log_evidence_se: Floats
    rounds: NDArray[np.int64]


class _Pool(NamedTuple):
    z: Array
    log_target: Array
    log_denominator: Array


def density_of(batched: BatchedProblem) -> Target:
    def target(z: Floats, positions: NDArray[np.int64]) -> Floats:
        part = BatchedProblem(batched.problem, batched.batch.take(positions), batched.compiled)
        return part.log_density_unconstrained(z)
    return target


def broad(z: Floats, inflate: float) -> Mixture:
    finite = np.isfinite(z).all(axis=-1, keepdims=True)
    count = np.maximum(finite.sum(axis=1), 1)
    filled = np.where(finite, z, 0.0)
    mean = filled.sum(axis=1) / count
    dev = np.where(finite, filled - mean[:, None], 0.0)
    cov = np.einsum("npi,npj->nij", dev, dev) / count[..., None]
    cov += 1e-6 * np.eye(z.shape[-1]) * np.einsum("nii->n", cov)[:, None, None] + 1e-300
    return Mixture(np.zeros((len(z), 1)), mean[:, None], np.linalg.cholesky(inflate * cov)[:, None])


def from_prior(target: Target, pool: Pool) -> Start:
    n, m = pool.log_likelihood.shape
    z = np.where(np.isfinite(pool.z), pool.z, 0.0)
    lt = target(z, np.arange(n))
    lt = np.where(np.isfinite(pool.z).all(-1), lt, -np.inf)
    ld = np.where(np.isfinite(lt), lt - pool.log_likelihood, 0.0) + np.log(m)
    return Start(z, lt, ld, broad(z, 1.5))


def modes_mixture(modes: Modes) -> Mixture:
    mass = np.where(np.isfinite(modes.log_mass), modes.log_mass, -np.inf)
    top = mass.max(1, keepdims=True)
    w = np.exp(mass - np.where(np.isfinite(top), top, 0))
    w /= np.maximum(w.sum(1, keepdims=True), 1e-300)
    found = np.isfinite(mass)
    w = .5 * w + .5 * found / np.maximum(found.sum(1, keepdims=True), 1)
    w = np.where(found.any(1, keepdims=True), w, 1 / mass.shape[1])
    with np.errstate(divide="ignore"):
        return Mixture(np.log(w), modes.z, np.linalg.cholesky(modes.covariance))


def with_modes(start: Start, mixture: Mixture, share: float) -> Start:
    return start._replace(standing=combine((1 - share, start.standing), (share, mixture)))


def adapt(target: Target, start: Start, keys: NDArray[np.uint32], settings: Settings, trace=None) -> WeightedDraws:
    require_float64()
    n, nz = start.z.shape[0], start.z.shape[2]
    kept = max(start.z.shape[1], settings.draws)
    pool = _Pool(*(np.array(a) for a in start[:3]))
    gap = kept - start.z.shape[1]
    pool = _Pool(*(np.concatenate([a, np.full((n, gap) + a.shape[2:], f)], axis=1) for a, f in zip(pool, (0., -np.inf, 0.))))
    standing = Mixture(*(np.asarray(a) for a in start.standing))
    res = WeightedDraws(np.full((n, settings.draws, nz), np.nan), np.full((n, settings.draws), -np.inf), np.full(n, np.inf),
        np.zeros(n), np.full(n, -np.inf), np.full(n, np.inf), np.zeros(n, np.int64))
    active = np.arange(n)
    known = standing.mean.shape[1] > 1
    lanes = min(settings.lanes, n)
    for r in range(settings.rounds):
        done = np.zeros(len(active), bool)
        for i in range(0, len(active), lanes):
            real = active[i:i + lanes]
            pos = np.concatenate([real, np.full(lanes - len(real), real[0])])
            k = len(real)
            share = 1.0 if (r == 0 and known) else settings.standing
            part = _Pool(*(a[pos] for a in pool))
            st = Mixture(*(a[pos] for a in standing))
            HOOK(pos) if HOOK else None
            mix, z, lq = _propose(keys[pos], r, part, st, share, settings.effective, settings.draws, settings.components, settings.points)
            z = np.asarray(z)
            lt = np.asarray(target(z, pos))
            new = _absorb(part, mix, z, lt, lq)
            for a, b in zip(pool, new):
                a[real] = np.asarray(b)[:k]
            lw = (lt - np.asarray(lq))[:k]
            kh, _ = psis_khat(lw)
            ess = effective_sample_size(lw)
            le, se = log_evidence(lw)
            tol = settings.agreement * np.sqrt(se**2 + np.minimum(res.log_evidence_se[real], 1e3)**2)
            agree = np.abs(le - res.log_evidence[real]) < tol
            good = (kh < settings.khat) & (ess >= settings.ess) & (agree)
            res.z[real], res.log_weight[real] = z[:k], lw
            res.khat[real], res.ess[real], res.log_evidence[real], res.log_evidence_se[real] = kh, ess, le, se
            res.rounds[real] = r + 1
            done[i:i + lanes][:k] = good
        if trace is not None:
            trace.append((active.copy(), res.khat.copy(), res.ess.copy(), res.log_evidence.copy()))
        active = active[~done]
        if not len(active):
            break
    return res


@partial(jax.jit, static_argnums=(6, 7, 8))
def _propose(keys, r, pool, standing, share, effective, draws, components, points):
    keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, r)))(keys.astype(jnp.uint32))
    fitted = fit(keys[:, 0], pool.z, pool.log_target - pool.log_denominator, effective, components, points).mixture
    broken = ~jnp.all(jnp.isfinite(fitted.chol), axis=(1, 2, 3)) | jnp.any(jnp.isnan(fitted.mean), axis=(1, 2))
    fitted = Mixture(jnp.where(broken[:, None], -jnp.inf, fitted.log_weight),
        jnp.where(broken[:, None, None], 0.0, fitted.mean),
        jnp.where(broken[:, None, None, None], jnp.eye(pool.z.shape[-1]), fitted.chol))
    mix = combine((1 - share, fitted), (share, standing))
    z = draw(mix, keys[:, 1], draws)
    return mix, z, log_density(mix, z)


@jax.jit
def _absorb(pool, mix, z, lt, lq):
    n = z.shape[1]
    old = jnp.logaddexp(pool.log_denominator, jnp.log(n) + log_density(mix, pool.z))
    allz = jnp.concatenate([pool.z, z], 1)
    alt = jnp.concatenate([pool.log_target, lt], 1)
    ald = jnp.concatenate([old, lq + jnp.log(n)], 1)
    _, idx = jax.lax.top_k(jnp.where(jnp.isfinite(alt), alt - ald, -jnp.inf), pool.z.shape[1])
    return _Pool(jnp.take_along_axis(allz, idx[..., None], 1), jnp.take_along_axis(alt, idx, 1), jnp.take_along_axis(ald, idx, 1))
