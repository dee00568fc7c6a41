"""Is a network's posterior calibrated? Where the known truth of simulated data sets lies among the draws for them.

Three figures between 0 and 1 for each simulation, all uniform where the posterior is the right one: the *rank* of each
parameter's truth among the draws; the *density* level, the share of draws of higher density than the truth (expected
coverage); and the *TARP* level, the share of draws that lie nearer than the truth to a random point. Ranks detect
wrong centres and widths of single parameters, density levels a wrong volume of the posterior, and TARP errors that
both can miss. The figures are also computed for each third of the simulations, sorted by how informative their data
are, which detects a network that is right only on average.

Reference: Talts et al. 2018, arXiv:1804.06788 (ranks); Hermans et al. 2022, arXiv:2110.06581 (expected coverage); Lemos
et al. 2023, arXiv:2302.03026 (TARP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import kolmogi

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.dropping import Dropping
from chainsweep.numerics.arrays import Floats

ALARM = 1e-3
"""The probability that a calibrated network shows a deviation beyond its noise in any of all figures."""
ALL = "all"
STRATA = ("little", "more", "most")
"""The names of the thirds of the simulations, from the least to the most informative data."""
COVERAGES = (0.5, 0.8, 0.9, 0.95)
DENSITY, TARP = "density", "tarp"


def rank_levels(truth: Floats, draws: Floats) -> Floats:
    """Ranks of ``truth`` ``(simulation, parameter)`` among ``draws`` ``(simulation, draw, parameter)``, in 0..1."""
    return ((draws < truth[:, None]).sum(axis=1) + 0.5) / (draws.shape[1] + 1)


def density_levels(at_truth: Floats, at_draws: Floats) -> Floats:
    """Share ``(simulation,)`` of draws whose log density ``(simulation, draw)`` exceeds that at the truth."""
    return ((at_draws > at_truth[:, None]).sum(axis=1) + 0.5) / (at_draws.shape[1] + 1)


def tarp_levels(truth: Floats, draws: Floats, reference: Floats) -> Floats:
    """Share ``(simulation,)`` of draws nearer than the truth to a ``reference`` ``(simulation, parameter)`` point.

    References must not depend on the simulation's truth; distances are Euclidean, so parameters need one scale.
    """
    nearer = np.linalg.norm(draws - reference[:, None], axis=2) < np.linalg.norm(truth - reference, axis=1)[:, None]
    return (nearer.sum(axis=1) + 0.5) / (draws.shape[1] + 1)


def deviation(levels: Floats) -> float:
    """Largest distance between the distribution of ``levels`` ``(simulation,)`` and the uniform one, 0..1."""
    ordered, steps = np.sort(levels), np.arange(len(levels) + 1) / len(levels)
    return float(max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1])))


def shortfall(inside: Floats) -> float:
    """The most by which the share of ``inside`` ``(simulation,)`` below some level is less than that level, 0..1."""
    ordered = np.sort(inside)
    return float(max(0.0, np.max(ordered - np.arange(len(inside)) / len(inside))))


@dataclass(frozen=True)
class CalibrationFigure:
    """A figure over some simulations: its distance from a uniform distribution, and how much of it may be chance."""

    figure: str
    stratum: str
    simulations: int
    deviation: float
    noise: float
    overconfidence: float
    """The largest amount, 0..1, by which the share of truths inside an interval is less than the nominal share of the
    interval; 0 for TARP, whose levels do not say whether a posterior is too narrow or too wide."""
    coverage: Mapping[float, float]
    """Share of the truths within the central (of a rank) or smallest (of the others) interval of a nominal share."""

    @property
    def sure(self) -> float:
        """The deviation minus its noise, at least 0."""
        return max(0.0, self.deviation - self.noise)

    @property
    def sure_overconfidence(self) -> float:
        """The overconfidence minus the noise, at least 0."""
        return max(0.0, self.overconfidence - self.noise)

    def sentence(self) -> str:
        """The finding as one sentence for messages."""
        where = "" if self.stratum == ALL else f", data that say {self.stratum}"
        claims = ", ".join(f"{nominal:.0%} intervals hold {actual:.1%}" for nominal, actual in self.coverage.items())
        return (
            f"{self.figure}{where}: {claims} of {self.simulations} truths; {self.sure:.3f} from uniform beyond chance"
        )

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values for a JSON file."""
        return {
            "figure": self.figure,
            "stratum": self.stratum,
            "simulations": self.simulations,
            "deviation": round(self.deviation, 4),
            "noise": round(self.noise, 4),
            "sure": round(self.sure, 4),
            "sure_overconfidence": round(self.sure_overconfidence, 4),
            "coverage": {f"{nominal:g}": round(actual, 4) for nominal, actual in self.coverage.items()},
        }


def findings(
    names: Sequence[str], rank: Floats, density: Floats, tarp: Floats, information: Floats
) -> list[CalibrationFigure]:
    """The findings of all figures, over all simulations and over thirds of them.

    Parameters
    ----------
    names
        The names of the parameters, one for each column of ``rank`` ``(simulation, parameter)``.
    density, tarp
        Levels ``(simulation,)``.
    information
        How informative the data of each simulation are, ``(simulation,)``; it grows with the signal to noise ratio.
    """
    columns = {**{name: rank[:, i] for i, name in enumerate(names)}, DENSITY: density, TARP: tarp}
    order = np.argsort(information, kind="stable")
    strata = {ALL: order} | dict(zip(STRATA, np.array_split(order, len(STRATA)), strict=True))
    alarm = ALARM / (len(columns) * len(strata))
    found = []
    for stratum, rows in strata.items():
        if not rows.size:
            continue
        noise = float(kolmogi(alarm) / np.sqrt(rows.size))
        for name, levels in columns.items():
            own = levels[rows]
            inside = np.abs(2 * own - 1) if name in names else own
            coverage = {nominal: float(np.mean(inside < nominal)) for nominal in COVERAGES}
            missing = 0.0 if name == TARP else shortfall(inside)
            found.append(CalibrationFigure(name, stratum, int(rows.size), deviation(own), noise, missing, coverage))
    return found


def worst(found: Sequence[CalibrationFigure]) -> CalibrationFigure:
    """The finding with the largest deviation beyond its noise."""
    return max(found, key=lambda finding: finding.sure)


def most_overconfident(found: Sequence[CalibrationFigure]) -> CalibrationFigure:
    """The finding with the largest overconfidence beyond its noise."""
    return max(found, key=lambda finding: finding.sure_overconfidence)


def calibration_record(
    found: Sequence[CalibrationFigure], limits: VerdictSection, dropping: Dropping
) -> dict[str, Any]:
    """The content of ``calibration.json`` as a dict of plain values.

    ``passed`` is True where, beyond noise, no figure is farther from uniform than ``limits`` allow and no parameter
    decides which simulations are dropped; ``usable`` is True where, beyond noise, no interval holds fewer truths than
    ``limits`` allow.
    """
    return {
        "passed": worst(found).sure < limits.miscalibration and dropping.by is None,
        "usable": most_overconfident(found).sure_overconfidence < limits.overconfidence,
        "limits": {"miscalibration": limits.miscalibration, "overconfidence": limits.overconfidence},
        "worst": worst(found).sentence(),
        "most_overconfident": most_overconfident(found).sentence(),
        "dropped": dropping.as_json(),
        "figures": [finding.as_json() for finding in found],
    }
