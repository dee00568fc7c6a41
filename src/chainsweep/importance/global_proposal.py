r"""The global proposal of the chains of a data set: a mixture that approximates its posterior, a metric, and starts.

Adaptive importance sampling from prior draws and the modes that descents found (``importance/adaptive.py``) gives
exactly weighted draws. Their covariance is the chains' metric; chains start at draws chosen with tempered weights, so
the starts are overdispersed; and a mixture fitted to the draws proposes the independence Metropolis steps of the chains
(``engines/nuts/kernels.py``), by which a chain goes from one mode to another, or along a ridge that is too long for
trajectories.

The result never depends on the quality of a global proposal: the steps are accepted by the exact density, and a data
set whose weights are not reliable (``trusted`` is False) starts in its modes, with a metric from the warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from chainsweep.diagnostics.thinning import even_indices
from chainsweep.diagnostics.weights import normalised_weights
from chainsweep.importance.adaptive import Settings, adapt, lanes_here
from chainsweep.importance.mixture import combine, draw, log_density
from chainsweep.importance.mixture_density import Mixture, Prepared, prepared
from chainsweep.importance.mixture_fit import fit, place
from chainsweep.importance.modes import Modes, Pool, find_modes, no_modes, prior_pool
from chainsweep.importance.target import Target, from_chains, from_modes, from_prior, target_of
from chainsweep.importance.tempered import Particles, on_particles, particle_peaks, tempered
from chainsweep.model.batched import BatchedProblem, blocks_of
from chainsweep.numerics.arrays import Arrays, Bools, Floats, Ints
from chainsweep.numerics.factors import cholesky_factors
from chainsweep.numerics.loops import on_cpu
from chainsweep.numerics.resampling import distinct, systematic
from chainsweep.numerics.seeds import Seeds

MOST_DIMENSIONS = 10
"""The largest number of unconstrained parameters with importance sampling. With more parameters it costs more than it
gains (with 15, 3.3 s for each data set in place of 0.4), and the global proposal consists of Laplace fits of modes."""
DESCENTS = 12
"""The number of descents of a data set, unless settings say otherwise."""
LEAST_ESS = 30.0
"""The least number of effective draws from which a deep search makes a global proposal, whatever their k-hat."""
SHARES = {"defensive": 0.05, "modes": 0.1, "fit": 0.85}
"""The shares of the parts of the mixture that proposes."""
START_POWER = 0.5
"""The power to which weights are raised for the choice of the draws at which chains start."""
QUICK = Settings(
    draws=1500, rounds=6, components=96, points=1024, effective=100.0, mode_share=0.1, ess=400.0, early=True
)
"""The settings of the search for every data set, and of the fit to its draws."""
DEEP = Settings(draws=8000, rounds=8, components=512, points=4096, effective=1000.0, mode_share=0.2, ess=400.0, lanes=4)
"""The settings of the search where the quick one gives no reliable weights, or where chains with its proposal fail:
these are posteriors along ridges, with parts that few prior draws meet. There are few lanes, since idle ones cost as
much as busy ones."""
DEEP_PRIOR_DRAWS = 1 << 17
DEEP_EVALUATIONS = 1 << 23
"""The largest product of the number of prior draws of a deep search and the number of points of the data set."""
DEEP_FIT = Settings(draws=4000, components=224, points=2048, lanes=DEEP.lanes)
"""The settings of the fit to the draws of a deep search: it has fewer components than the search, since each component
costs time in every independence step of the chains."""


@dataclass(eq=False)
class GlobalProposal:
    """The global proposals of some data sets: arrays ``(dataset, ...)`` in the unconstrained space.

    ``log_weight`` ``(component,)``, ``mean`` ``(component, n)`` and ``chol`` ``(component, n, n)`` are the mixture of
    the independence steps; ``center`` ``(n,)`` and ``factor`` ``(n, n)`` whiten; ``starts`` are
    ``(attempt, chain, n)``; ``trusted`` is True where all this comes from reliable weighted draws, ``deep`` where there
    was a deep search; ``refits`` counts how often the mixture was fitted again to the draws of chains.
    """

    log_weight: Floats
    mean: Floats
    chol: Floats
    center: Floats
    factor: Floats
    starts: Floats
    trusted: Bools
    deep: Bools
    refits: Ints

    @property
    def is_enlarged(self) -> Bools:
        """True where the mixture has more components than a quick search fits, shape ``(dataset,)``."""
        return self.deep | (self.refits > 0)

    @property
    def has_fitted_components(self) -> bool:
        """True where the mixtures have a fitted part."""
        return self.log_weight.shape[1] > DEEP_FIT.components

    def arrays(self) -> Arrays:
        """The fields as arrays by name; ``GlobalProposal(**arrays)`` is the inverse."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def fixed_components(self) -> int:
        """The number of components before the fitted ones."""
        return self.log_weight.shape[1] - DEEP_FIT.components * self.has_fitted_components

    def mixture(self, rows: Ints, enlarged: bool | None = None) -> Mixture:
        """The mixtures of the data sets ``rows``, with all components that have weight.

        Without ``enlarged``, an accelerator gets only as many components as these need; a processor gets all, since
        those without weight cost nothing there. With ``enlarged`` True it is all components, with False as many as a
        quick search fits.
        """
        all_of_them = (on_cpu() or self.is_enlarged[rows].any()) if enlarged is None else enlarged
        used = slice(
            None if all_of_them or not self.has_fitted_components else self.fixed_components + QUICK.components
        )
        return Mixture(self.log_weight[rows, used], self.mean[rows, used], self.chol[rows, used])

    def put(self, rows: Ints, part: GlobalProposal) -> None:
        """Replace the global proposals of the data sets ``rows`` by those of ``part``."""
        for name, array in self.arrays().items():
            array[rows] = getattr(part, name)

    def take(self, rows: Ints) -> GlobalProposal:
        """The global proposals of the data sets ``rows``."""
        return GlobalProposal(**{name: array[rows] for name, array in self.arrays().items()})


def joined(proposals: Sequence[GlobalProposal | None]) -> GlobalProposal | None:
    """Join the global proposals of several groups of data sets to one; None where there is none."""
    present = [proposal.arrays() for proposal in proposals if proposal is not None]
    return (
        GlobalProposal(**{name: np.concatenate([arrays[name] for arrays in present]) for name in present[0]})
        if present
        else None
    )


def search(
    batched: BatchedProblem,
    seeds: Seeds,
    shape: tuple[int, int],
    prior_draws: int,
    descents: int,
    draws: Floats | None = None,
) -> tuple[Pool, Modes, GlobalProposal]:
    """Prior draws, the modes that are found, and the global proposal of every data set of a batch.

    ``shape`` is the number of chains and of attempts. ``draws`` ``(dataset, draw, n)`` come from another engine, NaN
    where there are none. A black box has no gradients, so it gets no descents, and no deep search either, which would
    call it 100,000 times.
    """
    ids = batched.batch.ids
    pool = prior_pool(batched, seeds.jax_keys(ids, "prior", 1)[:, 0], prior_draws)
    if not batched.problem.has_jax_likelihood:
        modes = no_modes(pool)
        return pool, modes, find_global_proposal(batched, pool, modes, seeds, shape, draws)
    target = target_of(batched)
    particles = tempered(target, from_prior(target, pool), [seeds.generator(name, "tempered") for name in ids])
    generators = [seeds.generator(name, "descents") for name in ids]
    modes = find_modes(batched, pool, descents, generators, particle_peaks(particles))
    return pool, modes, find_global_proposal(batched, pool, modes, seeds, shape, draws, particles)


def find_global_proposal(
    batched: BatchedProblem,
    pool: Pool,
    modes: Modes,
    seeds: Seeds,
    shape: tuple[int, int],
    draws: Floats | None = None,
    particles: Particles | None = None,
) -> GlobalProposal:
    """The global proposal of every data set of a batch, from its prior draws, modes and particles; see ``search``."""
    (chains, attempts), count = shape, len(batched.batch)
    best = np.argmax(modes.log_mass, axis=1)
    rows = np.arange(count)
    center, factor = modes.z[rows, best].copy(), _cholesky(modes.covariance[rows, best])
    starts = np.stack(
        [
            [_over_modes(modes, i, chains, seeds.generator(name, f"start-{k}")) for k in range(attempts)]
            for i, name in enumerate(batched.batch.ids)
        ]
    )
    target, mode_components = target_of(batched), from_modes(modes)
    if draws is not None:
        mode_components = combine(
            (0.5, mode_components),
            (0.5, from_chains(target, draws, seeds.jax_keys(batched.batch.ids, "given", 1)[:, 0])),
        )
        for i, given in enumerate(draws):
            given = given[np.isfinite(given).all(axis=-1)]
            if len(given) >= chains * attempts:
                rng = seeds.generator(batched.batch.ids[i], "start-given")
                starts[i] = _overdispersed((given, np.zeros(len(given))), starts[i], rng)
    start = from_prior(target, pool, QUICK.draws)
    parts = [(SHARES["defensive"], start.defensive), (SHARES["modes"], mode_components)]
    trusted, deep, refits = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int64)
    if center.shape[1] > MOST_DIMENSIONS:
        return GlobalProposal(*_arrays(*parts), center, factor, starts, trusted, deep, refits)
    keys = seeds.jax_keys(batched.batch.ids, "guide", 3)
    if particles is not None:
        mode_components = combine((0.5, mode_components), (0.5, on_particles(target, particles, keys[:, 2])))
    found = adapt(target, start._replace(mode_components=mode_components), keys[:, 0], QUICK)
    weighted: Weighted = list(zip(found.z, found.log_weight, strict=True))
    parts.append((SHARES["fit"], _padded(_fitted(target, weighted, keys[:, 1], QUICK))))
    trusted = (found.khat < QUICK.khat) & (found.ess >= QUICK.ess)
    proposal = GlobalProposal(*_arrays(*parts), center, factor, starts, trusted, deep, refits)
    for row in np.flatnonzero(trusted).tolist():
        _rely_on(proposal, row, weighted[row], seeds.generator(batched.batch.ids[row], "start"))
    if not batched.problem.has_jax_likelihood:
        return proposal
    return with_deep_search(proposal, batched, np.flatnonzero(~trusted), seeds)


def with_deep_search(proposal: GlobalProposal, batched: BatchedProblem, rows: Ints, seeds: Seeds) -> GlobalProposal:
    """Return ``proposal`` after a deep search for the data sets ``rows``, none of which had one before.

    Where ``proposal`` has no fitted part, these data sets are only marked as ``deep``.
    """
    new = proposal.take(np.arange(len(proposal.trusted)))
    if not proposal.has_fitted_components:
        new.deep[rows] = True
        return new
    fixed = proposal.fixed_components
    for members in blocks_of(rows.size, lanes_here(DEEP)):
        group = rows[members]
        part = BatchedProblem(batched.problem, batched.batch.take(group))
        target, keys = target_of(part), seeds.jax_keys(part.batch.ids, "guide-deep", 3)
        draws = min(DEEP_PRIOR_DRAWS, max(1 << 12, DEEP_EVALUATIONS // max(1, part.batch.width)))
        mode_components = Mixture(*(array[:, 1:fixed] for array in proposal.mixture(group)))
        start = from_prior(target, prior_pool(part, keys[:, 0], draws))
        found = adapt(target, start._replace(mode_components=_normalised(mode_components)), keys[:, 1], DEEP)
        weighted: Weighted = list(zip(found.z, found.log_weight, strict=True))
        fit = _fitted(target, weighted, keys[:, 2], DEEP_FIT)
        for whole, fitted in zip((new.log_weight, new.mean, new.chol), fit, strict=True):
            whole[group, fixed:] = np.asarray(fitted)
        new.log_weight[group, fixed:] += np.log(SHARES["fit"])
        for k, i in enumerate(group):
            new.trusted[i], new.deep[i] = found.ess[k] >= LEAST_ESS, True
            if new.trusted[i]:
                _rely_on(new, int(i), weighted[k], seeds.generator(batched.batch.ids[i], "start-deep"))
    return new


def refit_from_chains(
    proposal: GlobalProposal, batched: BatchedProblem, draws: Sequence[Floats], seeds: Seeds
) -> GlobalProposal:
    """Return ``proposal`` with mixtures fitted again to chains' ``draws`` ``(draw, ndim)`` of each data set.

    Of many draws evenly spaced ones are used.
    """
    new = proposal.take(np.arange(len(proposal.trusted)))
    for row, theta in enumerate(draws):
        this = np.array([row])
        one = BatchedProblem(batched.problem, batched.batch.take(this))
        points = np.full((1, DEEP_FIT.draws // 2, theta.shape[1]), np.nan)
        even = even_indices(len(theta), points.shape[1])
        points[0, : len(even)] = theta[even]
        z = one.unconstrain_padded(points)[0]
        z = z[np.isfinite(z).all(axis=1)]
        if len(z):
            fitted = refit(
                one, proposal.mixture(this, enlarged=True), [z], seeds, f"learned-{int(proposal.refits[row])}"
            )
            for whole, part in zip((new.log_weight, new.mean, new.chol), fitted, strict=True):
                whole[row] = np.asarray(part)[0]
    new.refits[:] += 1
    return new


def _rely_on(proposal: GlobalProposal, row: int, weighted: tuple[Floats, Floats], rng: np.random.Generator) -> None:
    """Set the metric and starts of one data set from its weighted draws."""
    proposal.center[row], proposal.factor[row] = _moments(weighted)
    proposal.starts[row] = _overdispersed(weighted, proposal.starts[row], rng)


def _arrays(*parts: tuple[float, Mixture]) -> tuple[Floats, Floats, Floats]:
    """The mixture of ``parts`` with their shares, as the three arrays that a GlobalProposal holds."""
    log_weight, mean, chol = (np.array(part, float) for part in combine(*parts))
    return log_weight, mean, chol


def _normalised(mixture: Mixture) -> Mixture:
    """The same mixture with weights that sum to 1, unless all are 0."""
    total = logsumexp(mixture.log_weight, axis=1, keepdims=True)
    return mixture._replace(log_weight=np.asarray(mixture.log_weight) - np.where(np.isfinite(total), total, 0.0))


def refit(batched: BatchedProblem, mixture: Mixture, draws: list[Floats], seeds: Seeds, purpose: str) -> Mixture:
    """Return ``mixture`` with its fitted part fitted again, to draws of its own and to chains' ``draws`` ``(draw, n)``.

    Chains stay long at places where the mixture is thin; after the fit it has kernels there.
    """

    def of(rows: Ints) -> Mixture:
        part = BatchedProblem(batched.problem, batched.batch.take(rows))
        some = Mixture(*(np.asarray(array)[rows] for array in mixture))
        return _refit(part, some, [draws[row] for row in rows], seeds, purpose)

    return _by_groups(of, len(draws), lanes_here(DEEP_FIT))


def _refit(batched: BatchedProblem, mixture: Mixture, draws: list[Floats], seeds: Seeds, purpose: str) -> Mixture:
    keys = seeds.jax_keys(batched.batch.ids, purpose, 2)
    half = DEEP_FIT.draws // 2
    z = np.asarray(draw(mixture, keys[:, 0], half))
    log_weight = batched.log_density_unconstrained(z) - np.asarray(log_density(mixture, z))
    clouds = []
    for own, weights, found in zip(z, log_weight, draws, strict=True):
        even = found[even_indices(len(found), half)]
        again = own[systematic(weights, half, 0.5)] if np.isfinite(weights).any() else even
        clouds.append((np.concatenate([even, again]), np.zeros(len(even) + len(again))))
    fixed = mixture.log_weight.shape[1] - DEEP_FIT.components
    kept = Mixture(*(part[:, :fixed] for part in mixture))
    fit_share = SHARES["fit"] / (1.0 - SHARES["fit"])
    fitted = _fitted(target_of(batched), clouds, keys[:, 1], DEEP_FIT)
    return combine((1.0, _normalised(kept)), (fit_share, fitted))


Weighted = list[tuple[Floats, Floats]]
"""Draws ``(draw, n)`` and log weights ``(draw,)`` of each data set."""


def _padded(mixture: Mixture) -> Mixture:
    """The same mixture, padded with components without weight to as many as the fit to a deep search has."""
    missing = DEEP_FIT.components - mixture.log_weight.shape[1]
    log_weight, mean, chol = (np.asarray(part) for part in mixture)
    rest = np.broadcast_to(np.eye(mean.shape[-1]), (len(mean), missing, *chol.shape[2:]))
    return Mixture(
        np.pad(log_weight, ((0, 0), (0, missing)), constant_values=-np.inf),
        np.pad(mean, ((0, 0), (0, missing), (0, 0))),
        np.concatenate([chol, rest], axis=1),
    )


def _by_groups(function: Callable[[Ints], Mixture], count: int, lanes: int) -> Mixture:
    """The mixtures that ``function`` gives for the rows below ``count``, ``lanes`` of them at a time."""
    parts = [function(np.unique(rows) if on_cpu() else rows) for rows in blocks_of(count, lanes)]
    return Mixture(*(np.concatenate([np.asarray(a) for a in arrays])[:count] for arrays in zip(*parts, strict=True)))


def _fitted(target: Target, weighted: Weighted, keys: NDArray[np.uint32], settings: Settings) -> Mixture:
    """The mixtures fitted to weighted draws, in the way in which ``adapt`` with ``settings`` fits its mixtures."""
    count, n = len(weighted), weighted[0][0].shape[-1]
    points = np.zeros((count, settings.draws, n))
    log_weight = np.full((count, settings.draws), -np.inf)
    for i, (z, weights) in enumerate(weighted):
        if np.isfinite(weights).any():
            points[i] = z[systematic(weights, settings.draws, 0.5)]
            log_weight[i] = 0.0

    def of(rows: Ints) -> Mixture:
        kernels = place(keys[rows], points[rows], log_weight[rows], settings.effective, settings.components)
        precision = target.precision(np.asarray(kernels.center), rows)
        return fit(keys[rows], points[rows], log_weight[rows], kernels, precision, settings.points)

    return _by_groups(of, count, min(count, lanes_here(settings)))


def _moments(weighted: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Mean and Cholesky factor of the covariance of weighted draws."""
    z, log_weight = weighted
    weights = normalised_weights(log_weight)
    massive = np.where((weights > 0.0)[:, None], z, 0.0)
    mean = weights @ massive
    deviation = np.where((weights > 0.0)[:, None], massive - mean, 0.0)
    return mean, _cholesky((deviation * weights[:, None]).T @ deviation)


def _overdispersed(weighted: tuple[Floats, Floats], starts: Floats, rng: np.random.Generator) -> Floats:
    """Starts of the shape of ``starts`` ``(attempt, chain, n)``: distinct draws chosen with tempered weights."""
    z, log_weight = weighted
    attempts, chains, n = starts.shape
    return z[distinct(log_weight, START_POWER, attempts * chains, rng)].reshape(attempts, chains, n)


def _over_modes(modes: Modes, position: int, chains: int, rng: np.random.Generator) -> Floats:
    """Starts ``(chain, n)``: modes chosen systematically by Laplace mass, spread by their covariance."""
    mass = modes.log_mass[position]
    chosen = systematic(mass if np.isfinite(mass).any() else np.zeros_like(mass), chains, rng.uniform())
    factors = cholesky_factors(modes.covariance[position, chosen])
    noise = rng.standard_normal((chains, modes.z.shape[-1], 1))
    return modes.z[position, chosen] + (factors @ noise)[..., 0]


def _cholesky(covariance: Floats) -> Floats:
    """Cholesky factors of covariances ``(..., n, n)``, a little widened along their diagonal."""
    variance = np.maximum(np.einsum("...ii->...i", covariance), 1e-20)
    return cholesky_factors(covariance + 1e-9 * variance[..., None] * np.eye(covariance.shape[-1]))


@jax.jit
def whitened(mixture: Mixture, center: Floats, inverse: Floats) -> Prepared:
    """The mixtures in ``w``, prepared, of mixtures in ``z = center + factor @ w``, given the inverse of ``factor``."""
    mean = jnp.einsum("lij,lkj->lki", inverse, mixture.mean - center[:, None])
    return jax.vmap(prepared)(Mixture(mixture.log_weight, mean, jnp.einsum("lij,lkjm->lkim", inverse, mixture.chol)))
