"""The mode check of one block of chains, with a new search, with separate seeds, for mass outside the chains."""

from __future__ import annotations

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.thinning import even_indices
from chainsweep.engines.chains import Chains
from chainsweep.importance.global_proposal import DESCENTS
from chainsweep.importance.mixture import combine
from chainsweep.importance.modes import find_modes, prior_pool
from chainsweep.importance.target import from_modes, from_prior, target_of
from chainsweep.importance.tempered import Tempering, on_particles, particle_peaks, tempered
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.arrays import Floats
from chainsweep.numerics.resampling import systematic
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.mode_check import (
    DEFAULT_LIMITS,
    MANY_PARAMETERS,
    MOST_DRAWS,
    ModeCheck,
    mode_check,
    replaced,
    unchecked,
)

PRIOR_DRAWS = 4096
BLACK_BOX_TEMPERING = Tempering(particles=256, moves=3)
"""The effort of the tempered search where each density is a call of the user's function."""
CHAIN_DRAWS = 2000
"""The number of draws, from all chains of a data set, that the check compares with."""
MOST_NUMBERS = 1 << 24
"""The most numbers in an array of the data sets that are checked together."""
CHAIN_DRAWS_OF_MANY = 6000
"""The same where there are many parameters, whose covariance takes more of them."""


def check_chains(
    batched: BatchedProblem, chains: Chains, ess: Floats, seeds: Seeds, limits: VerdictSection = DEFAULT_LIMITS
) -> ModeCheck:
    """Look for posterior mass that the chains of each data set lack.

    ``ess`` ``(dataset,)`` is the effective number of draws behind the chains' means. The candidates are prior draws,
    tempered particles and, where the model can be differentiated, the ends of optimiser descents.
    """
    together = max(1, MOST_NUMBERS // (MOST_DRAWS * batched.problem.ndim_unconstrained))
    check = unchecked(len(batched.batch))
    for first in range(0, len(batched.batch), together):
        rows = np.arange(first, min(first + together, len(batched.batch)))
        some = batched.take(rows)
        check = replaced(check, _check_some(some, chains.take(rows), ess[rows], seeds, limits), rows)
        batched.failures.update({int(rows[k]): reason for k, reason in some.failures.items()})
    return check


def _check_some(
    batched: BatchedProblem, chains: Chains, ess: Floats, seeds: Seeds, limits: VerdictSection
) -> ModeCheck:
    """Return the check of data sets whose arrays fit into memory together."""
    ids = batched.batch.ids
    pool = prior_pool(batched, seeds.jax_keys(ids, "check-prior", 1)[:, 0], PRIOR_DRAWS)
    target = target_of(batched)
    start = from_prior(target, pool)
    with_gradients = batched.problem.has_jax_likelihood
    effort = Tempering() if with_gradients else BLACK_BOX_TEMPERING
    particles = tempered(target, start, [seeds.generator(name, "check-tempered") for name in ids], effort)
    kernels = on_particles(target, particles, seeds.jax_keys(ids, "check-kernels", 1)[:, 0])
    if with_gradients:
        generators = [seeds.generator(name, "check-descents") for name in ids]
        modes = from_modes(find_modes(batched, pool, DESCENTS, generators, particle_peaks(particles)))
        kernels = combine((0.5, modes), (0.5, kernels))
    start = start._replace(mode_components=kernels)
    keys = seeds.jax_keys(ids, "check", 1)[:, 0]
    effective = np.where(np.isfinite(ess), np.maximum(ess, 1.0), 1.0)
    return mode_check(batched, _unconstrained(batched, chains, seeds), start, keys, chain_ess=effective, limits=limits)


def _unconstrained(batched: BatchedProblem, chains: Chains, seeds: Seeds) -> Floats:
    """Return unconstrained draws ``(dataset, draw, n)`` of all chains; NaN rows are padding."""
    count = CHAIN_DRAWS_OF_MANY if batched.problem.ndim_unconstrained >= MANY_PARAMETERS else CHAIN_DRAWS
    points = equal_draws(chains, chains.theta, batched.batch.ids, count, seeds, "check-draws")
    return batched.unconstrain_padded(points)


def equal_draws(chains: Chains, theta: Floats, ids: tuple[str, ...], count: int, seeds: Seeds, purpose: str) -> Floats:
    """Return equally weighted draws ``(dataset, count, ndim)``, taken evenly from all chains or resampled by weight.

    If a data set has fewer draws, the remaining rows are NaN.
    """
    points = np.full((len(theta), count, theta.shape[-1]), np.nan)
    for row, length in enumerate(chains.n_draws):
        draws = theta[row, :, :length].reshape(-1, theta.shape[-1])
        index = even_indices(len(draws), count)
        if "log_weight" in chains.sample_stats:
            log_weight = chains.sample_stats["log_weight"][row, :, :length].ravel()
            uniform = seeds.generator(ids[row], purpose).uniform()
            usable = np.isfinite(log_weight).any()
            index = systematic(log_weight, count, uniform) if usable else np.empty(0, np.int64)
        points[row, : len(index)] = draws[index]
    return points
