r"""The space the network works in: per data set and parameter, the prior is close to a unit normal there.

With :math:`z` the unconstrained parameter (``model/transforms.py``: a uniform prior is normal there) and :math:`c, h`
the median and half-width (16 % to 84 %) of its prior for the design of one data set::

    w = (z - c) / h
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chainsweep.data.collection import Batch
from chainsweep.model.batched import BatchedProblem, blocks_of
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Floats, Ints

NORMAL_QUANTILES = (0.15865525, 0.5, 0.84134475)
DESIGN_BLOCK = 64
"""The number of designs of one compiled call; one size serves any number of designs."""
PRIOR_DRAWS = 2048
"""Prior draws per design. All designs share the random numbers, so equal priors give equal quantiles."""


@dataclass(frozen=True)
class Space:
    """The maps of some data sets to the working space: ``centre`` and ``halfwidth`` ``(dataset, dim)``."""

    centre: Floats
    halfwidth: Floats

    def take(self, index: Ints) -> Space:
        """The maps of the data sets at ``index``."""
        return Space(self.centre[index], self.halfwidth[index])

    def to_working(self, z: Floats) -> tuple[Floats, Floats]:
        """Map ``z`` ``(dataset, draw, dim)`` to ``w``; return it and ``log |dw/dz|`` ``(dataset, draw)``."""
        return working(z, self.centre[:, None], self.halfwidth[:, None]), self._log_scale(z)

    def from_working(self, w: Floats) -> tuple[Floats, Floats]:
        """Map ``w`` ``(dataset, draw, dim)`` to ``z``; return it and ``log |dw/dz|`` ``(dataset, draw)`` there."""
        return self.centre[:, None] + self.halfwidth[:, None] * w, self._log_scale(w)

    def _log_scale(self, points: Floats) -> Floats:
        return np.broadcast_to(-np.log(self.halfwidth).sum(axis=-1)[:, None], points.shape[:2]).copy()


def working(z: Any, centre: Any, halfwidth: Any) -> Any:
    """The working-space ``w`` of ``z``, elementwise."""
    return (z - centre) / halfwidth


def space_of(problem: Problem, batch: Batch) -> Space:
    """Centre and half-width of the prior, which depend on the design alone.

    NaN where the prior draws of a data set are NaN (because a constant is out of range).
    """
    low, centre, high = prior_quantiles(problem, batch, unconstrained=True)
    return Space(centre, np.where(high > low, (high - low) / 2, np.nan))


def prior_quantiles(problem: Problem, batch: Batch, unconstrained: bool) -> Floats:
    """The ``NORMAL_QUANTILES`` of the parameters over prior draws, ``(quantile, dataset, dim)``."""
    some = BatchedProblem(problem, batch)
    if some.one_prior:
        return np.repeat(_quantiles(problem, batch.take(np.zeros(1, np.int64)), unconstrained), len(batch), axis=1)
    parts = [_quantiles(problem, batch.take(rows), unconstrained) for rows in blocks_of(len(batch), DESIGN_BLOCK)]
    return np.concatenate(parts, axis=1)[:, : len(batch)]


def _quantiles(problem: Problem, batch: Batch, unconstrained: bool) -> Floats:
    some = BatchedProblem(problem, batch)
    theta = some.sample_prior(np.zeros((len(batch), 2), np.uint32), PRIOR_DRAWS)
    return np.quantile(some.unconstrain(theta) if unconstrained else theta, NORMAL_QUANTILES, axis=1)


def fixed_space(z: Floats) -> Space:
    """The map from draws ``z`` ``(draw, dim)`` of one truncated prior, for one data set."""
    low, centre, high = np.quantile(z, NORMAL_QUANTILES, axis=0)
    return Space(centre[None], (high - low)[None] / 2)
