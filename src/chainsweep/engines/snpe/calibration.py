"""Tests of a trained network on held-out simulations: is it calibrated, and which data sets are out of distribution?

The network draws for simulations that training never saw. The levels of their truths say whether the posteriors are
right on average (``diagnostics/calibration.py``). The distances of their summaries from the mean summary define which
distance is in distribution, so that a data set unlike any simulation is detected, because its posterior may be wrong in
any way.

Reference: Schmitt et al. 2022, arXiv:2112.08866 (distance in the space of the learned summary).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from chainsweep.diagnostics.calibration import CalibrationFigure, density_levels, findings, rank_levels, tarp_levels
from chainsweep.engines.snpe.estimator import Ensemble, Sampler
from chainsweep.engines.snpe.simulator import Pairs
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Floats
from chainsweep.numerics.factors import cholesky_factors

MOST_SIMULATIONS = 2048
DRAWS = 100
"""The number of draws for each simulation."""
TAIL = 0.9
STREAM = 0xCA11B
"""The second word of the key of the random numbers, far from block numbers."""


def findings_of(problem: Problem, levels: Mapping[str, Floats]) -> list[CalibrationFigure]:
    """The findings from ``levels``; parameters have their own names where the unconstrained space has as many."""
    names = problem.unconstrained_columns
    return findings(names, levels["rank"], levels["density"], levels["tarp"], levels["information"])


def levels_of(sampler: Sampler | Ensemble, pairs: Pairs, seed: int) -> Arrays:
    """The levels ``rank`` ``(simulation, parameter)``, and ``density``, ``tarp``, ``information`` ``(simulation,)``.

    They are computed in the working space, where the prior is near a unit normal; ``information`` is the mean over
    parameters of the log of the prior's standard deviation over the posterior's, in nats.
    """
    packed, truth = pairs[0][:MOST_SIMULATIONS], np.asarray(pairs[1][:MOST_SIMULATIONS], np.float64)
    rng = np.random.Generator(np.random.Philox(key=[seed, STREAM]))
    draws, log_q = sampler.draw(packed, rng.standard_normal((len(truth), DRAWS, truth.shape[1])))
    at_truth = sampler.log_prob(packed, truth[:, None])[:, 0]
    return {
        "rank": rank_levels(truth, draws),
        "density": density_levels(at_truth, log_q),
        "tarp": tarp_levels(truth, draws, rng.standard_normal(truth.shape)),
        "information": -np.log(draws.std(axis=1)).mean(axis=1),
    }


def reference_summaries(sampler: Sampler | Ensemble, packed: NDArray[np.float32]) -> Arrays:
    """The distribution of the summaries of simulations with features ``packed``.

    ``mean`` ``(embedding,)`` and ``whitener`` ``(embedding, embedding)`` are those of one half of the simulations;
    ``distances`` are those of the other half from the mean, ascending.
    """
    summary = sampler.summary(packed[: 2 * MOST_SIMULATIONS])
    fitted, others = summary[::2], summary[1::2]
    mean = fitted.mean(axis=0)
    covariance = np.cov(fitted, rowvar=False, ddof=0).reshape(2 * mean.shape)
    # The covariance is shrunk towards its diagonal, since few simulations do not determine all correlations.
    variance, share = np.diagonal(covariance), len(mean) / (len(mean) + len(fitted))
    covariance = (1 - share) * covariance + np.diag(share * variance + 1e-9 * variance.max() + 1e-12)
    reference = {"mean": mean, "whitener": np.linalg.inv(cholesky_factors(covariance))}
    return reference | {"distances": np.sort(_distance(others, reference))}


def ood_test(
    sampler: Sampler | Ensemble, packed: NDArray[np.float32], reference: Mapping[str, Floats]
) -> tuple[Floats, Floats]:
    """The distance of each data set's summary from the mean one, and the share of simulations that lie farther out.

    Both are ``(dataset,)``; the distance is in units of the median one of simulations. Beyond all simulations the share
    falls exponentially with the distance, at the rate of the outermost tenth of them.
    """
    distance = _distance(sampler.summary(packed), reference)
    known = reference["distances"]
    farther = (len(known) - np.searchsorted(known, distance, side="left")).astype(float)
    tail = known[int(TAIL * len(known)) :]
    beyond = distance > known[-1]
    farther[beyond] = np.exp(-(distance[beyond] - known[-1]) / (tail.mean() - tail[0] + 1e-300)) - 1.0
    return distance / float(np.median(known)), np.asarray((1.0 + farther) / (1.0 + len(known)), np.float64)


def _distance(summary: Floats, reference: Mapping[str, Floats]) -> Floats:
    return np.asarray(np.linalg.norm((summary - reference["mean"]) @ reference["whitener"].T, axis=1), float)
