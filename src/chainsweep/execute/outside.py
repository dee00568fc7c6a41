"""The mode check of one block of chains: what lies outside is searched for anew, with seeds of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chainsweep.diagnostics.thinning import even_indices
from chainsweep.engines.base import Chains, Seeds
from chainsweep.engines.importance_start import from_modes, from_prior, target_of
from chainsweep.engines.modecheck import ModeCheck, mode_check
from chainsweep.engines.starts import find_modes, prior_pool
from chainsweep.model.batched import BatchedProblem

PRIOR_DRAWS = 2048
DESCENTS = 12
CHAIN_DRAWS = 400
"""Draws of all chains of a data set together that the check compares with."""


def check_chains(batched: BatchedProblem, chains: Chains, ess: NDArray[np.float64], seeds: Seeds) -> ModeCheck:
    """Look for posterior mass that the chains of each data set lack.

    ``ess`` ``(dataset,)`` is the effective number of draws behind the chains' means. The candidates are prior draws
    and, where the model can be differentiated, the ends of optimiser descents.
    """
    ids = batched.batch.ids
    pool = prior_pool(batched, seeds.jax_keys(ids, "check-prior", 1)[:, 0], PRIOR_DRAWS)
    start = from_prior(target_of(batched), pool)
    if batched.problem.has_jax_likelihood:
        generators = [seeds.generator(name, "check-descents") for name in ids]
        start = start._replace(known=from_modes(find_modes(batched, pool, DESCENTS, generators)))
    keys = seeds.jax_keys(ids, "check", 1)[:, 0]
    effective = np.where(np.isfinite(ess), np.maximum(ess, 1.0), 1.0)
    return mode_check(batched, _thinned(batched, chains), start, keys, chain_ess=effective)


def _thinned(batched: BatchedProblem, chains: Chains) -> NDArray[np.float64]:
    """``(dataset, CHAIN_DRAWS, n)`` unconstrained draws taken evenly from all chains; NaN rows are padding."""
    theta = np.asarray(batched.problem.flatten(chains.posterior), float)
    points = np.full((len(theta), CHAIN_DRAWS, theta.shape[-1]), np.nan)
    for row, length in enumerate(chains.n_draws):
        draws = theta[row, :, :length].reshape(-1, theta.shape[-1])
        index = even_indices(len(draws), CHAIN_DRAWS)
        points[row, : len(index)] = draws[index]
    filled = np.where(np.isfinite(points), points, 0.5)
    return np.where(np.isfinite(points).all(axis=-1, keepdims=True), batched.unconstrain(filled), np.nan)
