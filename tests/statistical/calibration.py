"""Simulation-based calibration: data sets from the prior, and ranks of their truth among posterior draws.

Reference: Talts et al. 2018, arXiv:1804.06788.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpy.typing import NDArray
from scipy import stats

from chainsweep.data.collection import Batch
from chainsweep.engines.chains import Chains
from chainsweep.model.load import example_observation
from chainsweep.model.problem import Problem
from chainsweep.model.trace import trace_structure

POINTS = 5


def scale_and_place(x, y=None):
    place = numpyro.sample("place", dist.Uniform(-1, 1))
    scale = numpyro.sample("scale", dist.Exponential(1.0))
    numpyro.sample("obs", dist.Normal(place + 0 * x, scale + 0.1), obs=y)


def problem_of(model, points: int = POINTS, kind: type[Problem] = Problem) -> Problem:
    example = example_observation({"x": np.linspace(-1, 1, points), "y": np.linspace(0, 1, points)}, {})
    return kind(model, trace_structure(model, Path("model.py"), example, ("y",)), ("y",))


def simulated(datasets: int) -> tuple[Batch, NDArray[np.float64]]:
    """Data sets of ``scale_and_place``, and the truth ``(dataset, parameter)``."""
    rng = np.random.default_rng(11)
    place, scale = rng.uniform(-1, 1, (datasets, 1)), rng.exponential(1.0, (datasets, 1))
    y = place + (scale + 0.1) * rng.standard_normal((datasets, POINTS))
    ids = tuple(f"sbc-{k}" for k in range(datasets))
    batch = Batch(ids, {"x": np.zeros_like(y), "y": y}, {}, np.ones(y.shape, bool))
    return batch, np.concatenate([place, scale], axis=1)


def rank_pvalues(chains: Chains, truth: NDArray[np.float64], thinned: int = 99, bins: int = 10) -> NDArray[np.float64]:
    """P-value of each parameter that the ranks of the truth among ``thinned`` posterior draws are uniform."""
    assert not chains.failures
    result = []
    for column in range(truth.shape[1]):
        ranks = []
        for row, length in enumerate(chains.n_draws):
            draws = chains.theta[row, :, :length, column].ravel()
            draws = draws[np.linspace(0, draws.size - 1, thinned).astype(int)]
            ranks.append(int((draws < truth[row, column]).sum()))
        counts = np.histogram(ranks, bins=np.arange(0, thinned + 2, bins))[0]
        result.append(stats.chisquare(counts).pvalue)
    return np.array(result)
