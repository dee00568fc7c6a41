r"""Simulations that are not finite, which no network learns from: how many, why, and do parameters decide which?

A network that learns from kept simulations alone has the prior of the kept ones. With :math:`\epsilon` the share that
is dropped, that prior is at most :math:`\epsilon` (total variation) from the one that was asked for, and equal to it
where dropping does not depend on the parameters. Averaged over data sets drawn from the model, the posterior mass that
the network lacks is at most :math:`\epsilon` too; so at `LEAST_SHARE` no more than a tenth of them can lack the 1 %
that the mode check allows.

Reference: Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018 (energy distance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtri

from chainsweep.numerics.arrays import Bools, Floats

LEAST_SHARE = 1e-3
"""The share of dropped simulations below which they are reported, and calibration does not fail because of them."""
ALARM = 1e-3
"""The false alarm rate: how often simulations that are dropped at random seem to be dropped by their parameters."""
COMPARED = 750
"""The most kept and the most dropped simulations whose parameters are compared all together."""
PERMUTATIONS = 1999
MOST_PAIRED = 30
"""The largest number of parameters for which each pair is tested too."""
TOGETHER = "several parameters together"
BY_DESIGN = -1
"""The value in place of the entry of a p-value where every simulation of the data set's design was dropped."""


@dataclass(frozen=True)
class Dropping:
    """The fate of simulations of parameters ``names``; ``pvalues`` are those of `dependence`."""

    names: tuple[str, ...]
    simulated: int
    causes: Mapping[str, int]
    """The number of dropped simulations by their first cause."""
    pvalues: Floats

    @property
    def dropped(self) -> int:
        """The number of dropped simulations, of all causes together."""
        return sum(self.causes.values())

    @property
    def share(self) -> float:
        """The dropped simulations as a share of all simulations."""
        return self.dropped / self.simulated

    @property
    def by(self) -> int | None:
        """The entry of ``pvalues`` that shows that dropping depends on parameters.

        None where less than ``LEAST_SHARE`` was dropped, or where dropping may be independent of the parameters.
        """
        least = int(np.argmin(self.pvalues))
        return least if self.share >= LEAST_SHARE and self.pvalues[least] <= ALARM else None

    @property
    def parameter(self) -> str | None:
        """The name of the parameter, pair or group that entry ``by`` belongs to; None where ``by`` is None."""
        return None if self.by is None else subjects(self.names)[self.by]

    def sentence(self) -> str:
        """The fate of the simulations as one sentence for messages."""
        if not self.dropped:
            return f"none of {self.simulated} simulations was dropped"
        why = ", ".join(f"{count} {cause}" for cause, count in self.causes.items() if count)
        told = f"{self.share:.2%} of {self.simulated} simulations are no numbers and were dropped ({why})"
        if self.parameter is not None:
            return f"{told}; which ones depends on {self.parameter}"
        if self.share < LEAST_SHARE:
            return f"{told}; so few that they can change no posterior by much"
        return f"{told}; independently of the parameters, as far as a two-sample test can tell"

    def as_json(self) -> dict[str, Any]:
        """The fate of the simulations as plain values for a JSON file."""
        return {
            "simulated": self.simulated,
            "dropped": self.dropped,
            "share": self.share,
            "causes": dict(self.causes),
            "pvalues": dict(zip(subjects(self.names), (float(p) for p in self.pvalues), strict=True)),
            "depends_on": self.parameter,
            "sentence": self.sentence(),
        }


def subjects(names: Sequence[str]) -> tuple[str, ...]:
    """The subject of each p-value of `dependence`: a parameter, a pair of them, or all."""
    pairs = combinations(names, 2) if len(names) <= MOST_PAIRED else ()
    return (*names, *(f"{one} and {other} together" for one, other in pairs), TOGETHER)


def culprit(names: Sequence[str], by: int) -> str:
    """Return the name of what decides which simulations are dropped, by the entry of its p-value, or ``BY_DESIGN``."""
    return "the design" if by == BY_DESIGN else subjects(names)[by]


def dependence(parameters: Floats, dropped: Bools, seed: Sequence[int]) -> Floats:
    """P-values ``(subjects,)`` of whether kept and dropped ``parameters`` ``(simulation, parameter)`` are alike.

    There is one Kolmogorov-Smirnov test for each parameter and for each product of the normal scores of two, and last
    one test of all parameters together (the energy distance between the scores of some, by permutation). Each p-value
    is multiplied by a factor so that the least of them is below `ALARM` by chance at a rate of at most `ALARM`. NaN
    counts as +inf.
    """
    from scipy.stats import ks_2samp, rankdata

    dim = parameters.shape[1]
    if not 0 < dropped.sum() < len(dropped):
        return np.ones(len(subjects([""] * dim)))
    ranks = rankdata(np.where(np.isnan(parameters), np.inf, parameters), axis=0)
    scores = ndtri(ranks / (len(ranks) + 1))
    pairs = combinations(scores.T, 2) if dim <= MOST_PAIRED else ()
    columns = [*scores.T, *(one * other for one, other in pairs)]
    single = [ks_2samp(column[dropped], column[~dropped], method="asymp").pvalue for column in columns]
    rng = np.random.Generator(np.random.Philox(key=seed))
    chosen = [rng.permutation(np.flatnonzero(part))[:COMPARED] for part in (dropped, ~dropped)]
    together = _energy_pvalue(scores[np.concatenate(chosen)], len(chosen[0]), rng)
    return np.minimum(1.0, 2 * np.array([*(len(columns) * p for p in single), together]))


def _energy_pvalue(points: Floats, first: int, rng: np.random.Generator) -> float:
    """The share of permutations whose ``first`` points are as far from the others as those of ``points`` are."""
    from scipy.spatial.distance import cdist

    distance = cdist(points, points)
    labels = np.zeros((PERMUTATIONS + 1, len(points)))
    labels[:, :first] = 1.0
    labels[1:] = rng.permuted(labels[1:], axis=1)
    to_all, second = labels @ distance.sum(axis=1), len(points) - first
    within = np.einsum("ij,ij->i", labels @ distance, labels)
    between, others = to_all - within, distance.sum() - 2 * to_all + within
    energy = 2 * between / (first * second) - within / first**2 - others / second**2
    return float(np.mean(energy >= energy[0] - 1e-9))
