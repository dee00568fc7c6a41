"""The draws of a batch in one type: engines fill it, verdicts judge it, and a shard stores what is kept of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from chainsweep.diagnostics.thinning import even_indices, optimal_resample
from chainsweep.numerics.arrays import Arrays, Floats, Ints
from chainsweep.numerics.seeds import Seeds


class DrawKind(enum.StrEnum):
    """The dependence between the draws of an engine, which decides which diagnostics apply."""

    ENSEMBLE = "ensemble"
    """Chains of interacting walkers: the chain axis holds independent ensembles; tau applies."""
    MARKOV = "markov"
    """Independent Markov chains: rank-normalised R-hat, bulk and tail ESS, divergences."""
    WEIGHTED = "weighted"
    """Independent draws with importance weights: Pareto k-hat, efficiency."""


@dataclass(frozen=True)
class Chains:
    """Draws of every data set of a batch.

    ``theta`` has shape ``(dataset, chain, draw, ndim)`` in the constrained space, its last axis as the problem's
    ``names``; ``sample_stats[name]`` has shape ``(dataset, chain, draw)``. Data set ``i`` has ``n_draws[i]`` draws in
    each chain, all at the front; NaN behind them. Weighted draws have the statistic ``log_weight``. ``info[name]`` has
    shape ``(dataset,)`` or ``(dataset, chain)``: figures that diagnostics need, but no later step. ``failures`` maps
    the position of a data set in the batch to the reason why it has no draws (its ``n_draws`` is 0).
    """

    kind: DrawKind
    theta: Floats
    sample_stats: Arrays
    n_draws: Ints
    info: Arrays = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)

    def take(self, rows: Ints) -> Chains:
        """Return the draws of the data sets at positions ``rows``."""
        stats, info = (
            {name: values[rows] for name, values in arrays.items()} for arrays in (self.sample_stats, self.info)
        )
        failures = {k: self.failures[int(row)] for k, row in enumerate(rows) if int(row) in self.failures}
        return Chains(self.kind, self.theta[rows], stats, self.n_draws[rows], info, failures)

    def thinned(self, ids: Sequence[str], max_draws: int, seeds: Seeds) -> Chains:
        """Return at most ``max_draws`` draws per data set, over all its chains; weighted sums stay unbiased."""
        n_chains = self.theta.shape[1]
        keep = max(1, max_draws // n_chains)
        longest = min(keep, int(self.n_draws.max(initial=0)))
        theta = np.full((len(ids), n_chains, longest, self.theta.shape[-1]), np.nan)
        stats = {name: np.full((len(ids), n_chains, longest), np.nan) for name in self.sample_stats}
        n_draws = np.zeros(len(ids), np.int64)
        for i, name in enumerate(ids):
            length = int(self.n_draws[i])
            log_weight = None
            if self.kind is DrawKind.WEIGHTED and length > keep:
                uniform = float(seeds.generator(name, "thin").uniform())
                index, log_weight = optimal_resample(self.sample_stats["log_weight"][i, 0, :length], keep, uniform)
            else:
                index = even_indices(length, keep)
            n_draws[i] = len(index)
            theta[i, :, : len(index)] = self.theta[i][:, index]
            for stat, values in self.sample_stats.items():
                stats[stat][i, :, : len(index)] = values[i][:, index]
            if log_weight is not None:
                stats["log_weight"][i, 0, : len(index)] = log_weight
        return replace(self, theta=theta, sample_stats=stats, n_draws=n_draws)


def without_draws(kind: DrawKind, ndim: int, reason: str) -> Chains:
    """Return the chains of one data set on which an engine failed."""
    return Chains(kind, np.empty((1, 1, 0, ndim)), {}, np.zeros(1, np.int64), {"seconds": np.zeros(1)}, {0: reason})


def joined(parts: Sequence[Chains]) -> Chains:
    """Join the chains of consecutive blocks of data sets, padded with NaN to the longest; info gets one dtype."""
    counts = [len(part.n_draws) for part in parts]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return Chains(
        parts[0].kind,
        _stacked([{"theta": part.theta} for part in parts], counts)["theta"],
        _stacked([part.sample_stats for part in parts], counts),
        np.concatenate([part.n_draws for part in parts]),
        _stacked([part.info for part in parts], counts),
        {
            int(start) + i: reason
            for start, part in zip(starts, parts, strict=True)
            for i, reason in part.failures.items()
        },
    )


def _stacked(parts: list[Arrays], counts: list[int]) -> Arrays:
    """Concatenate along data sets; where a part lacks an array, or has a shorter one, the result is NaN."""
    result = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        known = [np.asarray(part[name], float) for part in parts if name in part]
        longest = tuple(np.max([array.shape[1:] for array in known], axis=0).astype(int)) if known[0].ndim > 1 else ()
        rows = np.full((sum(counts), *longest), np.nan)
        start = 0
        for part, count in zip(parts, counts, strict=True):
            if name in part:
                array = np.asarray(part[name], float)
                rows[(slice(start, start + count), *(slice(0, size) for size in array.shape[1:]))] = array
            start += count
        result[name] = rows
    return result
