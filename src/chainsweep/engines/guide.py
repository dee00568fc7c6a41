r"""What guides the chains of a data set: a mixture that follows its posterior, a metric, and starts.

Adaptive importance sampling from prior draws and the modes that descents found (``engines/importance.py``) gives
exactly weighted draws. Their covariance is the chains' metric; chains start at draws chosen with tempered weights,
so overdispersed; and a mixture fitted to them proposes the *jumps* of the chains (``engines/nuts_program.py``), by
which a chain goes from one mode to another, or along a ridge that is too long for trajectories.

A guide is never trusted with the answer: jumps are Metropolis steps towards the exact density, and a data set whose
weights prove nothing (``trusted`` is False) starts in its modes, with a metric from scouts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from chainsweep.diagnostics.thinning import even_indices
from chainsweep.diagnostics.weights import normalised_weights, resample
from chainsweep.engines.base import Arrays, Seeds
from chainsweep.engines.importance import Settings, WeightedDraws, adapt
from chainsweep.engines.importance_start import Start, Target, from_modes, from_prior, target_of
from chainsweep.engines.mixture import Mixture, Prepared, combine, draw, log_density, prepared
from chainsweep.engines.mixture_fit import fit, place
from chainsweep.engines.starts import Modes, Pool
from chainsweep.model.batched import BatchedProblem

Floats = NDArray[np.float64]

MOST_DIMENSIONS = 20
"""Beyond, importance sampling is hopeless, and the guide is the modes' Laplace fits."""
LEAST_ESS = 30.0
"""Effective draws below which weights guide nothing, whatever their k-hat."""
SHARES = {"broad": 0.05, "modes": 0.1, "fit": 0.85}
"""Parts of the mixture that proposes jumps."""
START_POWER = 0.5
"""Chains start at draws chosen with their weights to this power."""
COMPONENTS = 96
"""Of the fitted part: chains pay for each with every jump, and more find little more."""
PASSES = (
    Settings(draws=1500, rounds=6, components=COMPONENTS, points=1024, effective=100.0, known_share=0.1, ess=400.0),
    Settings(draws=4000, rounds=8, components=COMPONENTS, points=2048, effective=300.0, known_share=0.2, ess=200.0),
)
"""A quick search for every data set, then a thorough one where the quick one proves nothing."""
THOROUGH = PASSES[-1]


@dataclass(frozen=True)
class Guide:
    """Arrays ``(dataset, ...)`` in the unconstrained space.

    ``log_weight`` ``(component,)``, ``mean`` ``(component, n)`` and ``chol`` ``(component, n, n)`` are the mixture of
    the jumps; ``center`` ``(n,)`` and ``factor`` ``(n, n)`` whiten; ``starts`` are ``(attempt, chain, n)``; ``trusted``
    says whether there are weighted draws behind all that.
    """

    log_weight: Floats
    mean: Floats
    chol: Floats
    center: Floats
    factor: Floats
    starts: Floats
    trusted: NDArray[np.bool_]

    @property
    def fitted(self) -> bool:
        """Whether there is a fitted part."""
        return self.log_weight.shape[1] > COMPONENTS

    def arrays(self) -> Arrays:
        """As a state can hold it; ``Guide(**arrays)`` is the inverse."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def jumps(self, rows: NDArray[np.int64]) -> Mixture:
        """The mixtures of the data sets ``rows``."""
        return Mixture(self.log_weight[rows], self.mean[rows], self.chol[rows])


def find_guide(batched: BatchedProblem, pool: Pool, modes: Modes, seeds: Seeds, chains: int, attempts: int) -> Guide:
    """The guide of every data set of a batch, from its prior draws and modes."""
    count = len(batched.batch)
    best = np.argmax(modes.log_mass, axis=1)
    rows = np.arange(count)
    center, factor = modes.z[rows, best].copy(), _cholesky(modes.covariance[rows, best])
    starts = np.stack(
        [
            [_over_modes(modes, i, chains, seeds.generator(name, f"start-{k}")) for k in range(attempts)]
            for i, name in enumerate(batched.batch.ids)
        ]
    )
    target, known = target_of(batched), from_modes(modes)
    start = from_prior(target, pool)
    parts = [(SHARES["broad"], start.broad), (SHARES["modes"], known)]
    trusted = np.zeros(count, bool)
    if center.shape[1] <= MOST_DIMENSIONS:
        keys = seeds.jax_keys(batched.batch.ids, "guide", 2)
        weighted, trusted = _weighted_draws(target, start._replace(known=known), keys[:, 0])
        parts.append((SHARES["fit"], _fitted(target, weighted, keys[:, 1])))
        for i in np.flatnonzero(trusted):
            center[i], factor[i] = _moments(weighted[i])
            starts[i] = _overdispersed(weighted[i], starts[i], seeds.generator(batched.batch.ids[i], "start"))
    log_weight, mean, chol = (np.asarray(part, float) for part in combine(*parts))
    return Guide(log_weight, mean, chol, center, factor, starts, trusted)


def learned(batched: BatchedProblem, jumps: Mixture, draws: list[Floats], seeds: Seeds, purpose: str) -> Mixture:
    """``jumps`` with its fitted part fitted anew, to draws of its own and to what chains drew, ``(draw, n)`` each.

    Chains that lingered where the mixture was thin then have kernels there.
    """
    keys = seeds.jax_keys(batched.batch.ids, purpose, 2)
    half = THOROUGH.draws // 2
    z = np.asarray(draw(jumps, keys[:, 0], half))
    log_weight = batched.log_density_unconstrained(z) - np.asarray(log_density(jumps, z))
    clouds = []
    for own, weights, found in zip(z, log_weight, draws, strict=True):
        even = found[even_indices(len(found), half)]
        again = own[resample(weights, half, np.asarray(0.5))] if np.isfinite(weights).any() else even
        clouds.append((np.concatenate([even, again]), np.zeros(len(even) + len(again))))
    standing = jumps.log_weight.shape[1] - COMPONENTS
    stands = Mixture(*(part[:, :standing] for part in jumps))
    fit_share = SHARES["fit"] / (1.0 - SHARES["fit"])
    fitted = _fitted(target_of(batched), clouds, keys[:, 1])
    normal = stands.log_weight - logsumexp(stands.log_weight, axis=1, keepdims=True)
    return combine((1.0, stands._replace(log_weight=normal)), (fit_share, fitted))


Weighted = list[tuple[Floats, Floats]]
"""Draws ``(draw, n)`` and log weights ``(draw,)`` of each data set."""


def _weighted_draws(target: Target, start: Start, keys: NDArray[np.uint32]) -> tuple[Weighted, NDArray[np.bool_]]:
    """Weighted draws from the first pass that can be believed, or the last, and whether they can guide."""
    found: Weighted = [(np.empty((0, 0)), np.empty(0))] * len(start.z)
    done = trusted = np.zeros(len(start.z), bool)
    for settings in PASSES:
        left = np.flatnonzero(~done)
        if not left.size:
            break
        weighted: WeightedDraws = adapt(target, start, keys, settings, left)
        done = done | ((weighted.khat < settings.khat) & (weighted.ess >= settings.ess))
        trusted = done | (weighted.ess >= LEAST_ESS)
        for i in left:
            found[i] = weighted.z[i], weighted.log_weight[i]
    return found, trusted


def _fitted(target: Target, weighted: Weighted, keys: NDArray[np.uint32]) -> Mixture:
    """Mixtures fitted to weighted draws, in groups as importance sampling takes them."""
    count, n = len(weighted), weighted[0][0].shape[-1]
    settings = THOROUGH
    points = np.zeros((count, settings.draws, n))
    log_weight = np.full((count, settings.draws), -np.inf)
    for i, (z, weights) in enumerate(weighted):
        if np.isfinite(weights).any():
            points[i] = z[resample(weights, settings.draws, np.asarray(0.5))]
            log_weight[i] = 0.0
    parts = []
    for first in range(0, count, settings.lanes):
        # The last group repeats a data set: one shape, compiled once.
        rows = np.minimum(np.arange(first, first + settings.lanes), count - 1)
        kernels = place(keys[rows], points[rows], log_weight[rows], settings.effective, settings.components)
        precision = target.precision(np.asarray(kernels.center), rows)
        parts.append(fit(keys[rows], points[rows], log_weight[rows], kernels, precision, settings.points))
    return Mixture(*(np.concatenate([np.asarray(a) for a in arrays])[:count] for arrays in zip(*parts, strict=True)))


def _moments(weighted: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Mean and Cholesky factor of the covariance of weighted draws."""
    z, log_weight = weighted
    weights = normalised_weights(log_weight)
    massive = np.where((weights > 0.0)[:, None], z, 0.0)
    mean = weights @ massive
    deviation = np.where((weights > 0.0)[:, None], massive - mean, 0.0)
    return mean, _cholesky((deviation * weights[:, None]).T @ deviation)


def _overdispersed(weighted: tuple[Floats, Floats], starts: Floats, rng: np.random.Generator) -> Floats:
    """``starts`` ``(attempt, chain, n)`` replaced by distinct draws chosen with tempered weights."""
    z, log_weight = weighted
    attempts, chains, n = starts.shape
    score = np.where(np.isfinite(log_weight), START_POWER * log_weight, -np.inf) + rng.gumbel(size=len(z))
    return z[np.argsort(-score, kind="stable")[: attempts * chains]].reshape(attempts, chains, n)


def _over_modes(modes: Modes, position: int, chains: int, rng: np.random.Generator) -> Floats:
    """Starts ``(chain, n)``: modes chosen systematically by Laplace mass, spread by their covariance."""
    mass = modes.log_mass[position]
    weights = np.exp(mass - mass.max()) if np.isfinite(mass).any() else np.ones_like(mass)
    edges = np.cumsum(weights / weights.sum())
    chosen = np.minimum(np.searchsorted(edges, (np.arange(chains) + rng.uniform()) / chains), mass.size - 1)
    factors = np.linalg.cholesky(modes.covariance[position, chosen])
    noise = rng.standard_normal((chains, modes.z.shape[-1], 1))
    return modes.z[position, chosen] + (factors @ noise)[..., 0]


def _cholesky(covariance: Floats) -> Floats:
    """Cholesky factors of covariances ``(..., n, n)``, a little widened along their diagonal."""
    variance = np.maximum(np.einsum("...ii->...i", covariance), 1e-20)
    return np.asarray(np.linalg.cholesky(covariance + 1e-9 * variance[..., None] * np.eye(covariance.shape[-1])), float)


@jax.jit
def whitened(mixture: Mixture, center: Floats, inverse: Floats) -> Prepared:
    """Mixtures of ``z``, made ready in ``w`` with ``z = center + factor @ w``, given the inverse of ``factor``."""
    mean = jnp.einsum("lij,lkj->lki", inverse, mixture.mean - center[:, None])
    return jax.vmap(prepared)(Mixture(mixture.log_weight, mean, jnp.einsum("lij,lkjm->lkim", inverse, mixture.chol)))
