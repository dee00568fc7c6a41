"""Verdicts: may the draws of a data set be trusted, and the one-line reason.

Every figure may be NaN, which never passes. The thresholds are those of ``[verdict]``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainsweep.config.campaign import VerdictSection


class Verdict(enum.StrEnum):
    """What became of one data set with one engine."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not_converged"
    FAILED = "failed"
    BAD_DATA = "bad_data"


@dataclass(frozen=True)
class Check:
    """One figure against its limit, over data sets; ``passed`` is False where the figure is NaN."""

    label: str
    """A format string of the figure, such as ``R-hat {:.3f}``."""
    values: NDArray[np.float64]
    passed: NDArray[np.bool_]
    limit: str
    """What the figure must satisfy, such as ``< 1.01``."""
    causes: Mapping[int, str] = field(default_factory=dict)
    """The sentences told of data sets in place of their figures; a check with no ``label`` tells nothing of others."""

    def sentence(self, position: int) -> str:
        """The figure of one data set, with the limit where it fails."""
        if position in self.causes:
            return self.causes[position]
        value = self.values[position]
        text = self.label.format(value) if np.isfinite(value) else f"{self.label.split('{')[0].strip()} undefined"
        return text if self.passed[position] or "{" not in self.label else f"{text} (must be {self.limit})"


def below(label: str, values: ArrayLike, limit: float, inclusive: bool = False) -> Check:
    """The figure must be below ``limit``."""
    array = np.asarray(values, float)
    passed = array <= limit if inclusive else array < limit
    return Check(label, array, passed, f"{'at most' if inclusive else 'below'} {limit:g}")


def above(label: str, values: ArrayLike, limit: float) -> Check:
    """The figure must be above ``limit``."""
    array = np.asarray(values, float)
    return Check(label, array, array > limit, f"above {limit:g}")


def caused(causes: Mapping[int, str], datasets: int) -> Check:
    """A check that the data sets in ``causes`` fail, each for its cause."""
    passed = np.array([i not in causes for i in range(datasets)], bool)
    return Check("", np.full(datasets, np.nan), passed, "", causes)


def markov_checks(
    limits: VerdictSection, rhat: ArrayLike, ess_bulk: ArrayLike, ess_tail: ArrayLike, divergences: ArrayLike
) -> list[Check]:
    """Independent Markov chains: rank-normalised R-hat, bulk and tail ESS, divergences."""
    return [
        below("R-hat {:.4f}", rhat, limits.rhat),
        above("bulk ESS {:.0f}", ess_bulk, limits.ess),
        above("tail ESS {:.0f}", ess_tail, limits.ess),
        below("{:.0f} divergences", divergences, limits.divergences, inclusive=True),
    ]


def ensemble_checks(
    limits: VerdictSection, tau_factor: float, rhat: ArrayLike, ess: ArrayLike, steps_over_tau: ArrayLike
) -> list[Check]:
    """Independent ensembles of walkers: R-hat between them, length in autocorrelation times, ESS."""
    return [
        below("R-hat between ensembles {:.4f}", rhat, limits.rhat),
        above("{:.0f} autocorrelation times", steps_over_tau, tau_factor),
        above("ESS {:.0f}", ess, limits.ess),
    ]


def weighted_checks(limits: VerdictSection, khat: ArrayLike, ess: ArrayLike) -> list[Check]:
    """Importance-weighted draws: Pareto k-hat and weighted ESS."""
    return [below("k-hat {:.2f}", khat, limits.khat), above("weighted ESS {:.0f}", ess, limits.ess)]


def likelihood_free_checks(limits: VerdictSection, miscalibration: ArrayLike, ood_pvalue: ArrayLike) -> list[Check]:
    """A network's own draws: is it calibrated, and is the data set like those that it was trained on?"""
    return [
        below("no likelihood; calibration of the network {:.3f} from uniform", miscalibration, limits.miscalibration),
        above("{:.2%} of the simulations are as strange", ood_pvalue, limits.min_ood_pvalue),
    ]


def verdicts(
    checks: Sequence[Check], failures: Mapping[int, str], bad_data: Mapping[int, str]
) -> tuple[list[str], list[str]]:
    """Verdict and reason of each data set; the reason names what fails first, then the figures that hold."""
    count = len(checks[0].values)
    labels, reasons = [], []
    for i in range(count):
        if i in bad_data or i in failures:
            labels.append(Verdict.BAD_DATA if i in bad_data else Verdict.FAILED)
            reasons.append(one_line(bad_data.get(i) or failures[i]))
            continue
        failing = [check.sentence(i) for check in checks if not check.passed[i]]
        passing = [check.sentence(i) for check in checks if check.passed[i] and check.label]
        labels.append(Verdict.NOT_CONVERGED if failing else Verdict.CONVERGED)
        reasons.append("; ".join(failing or passing))
    return [str(label) for label in labels], reasons


def one_line(text: str, limit: int = 300) -> str:
    """``text`` without line breaks, cut at ``limit`` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
