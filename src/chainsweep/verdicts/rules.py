"""The rules of verdicts: whether the draws of a data set can be trusted, with a one-line reason.

Every figure may be NaN, which never passes. The thresholds are those of ``[verdict]``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from chainsweep.config.sections import VerdictSection
from chainsweep.numerics.arrays import Bools, Floats
from chainsweep.verdicts.causes import Cause, Finding


class Verdict(enum.StrEnum):
    """The verdict on one data set with one engine."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not_converged"
    FAILED = "failed"
    BAD_DATA = "bad_data"


PENDING = "pending"
"""The word in place of a verdict if nothing is published yet."""


@dataclass(frozen=True)
class Rule:
    """The limit of one figure; NaN never passes."""

    figure: str
    """The name of the figure, such as ``R-hat``."""
    limit: float
    better: Literal["below", "above", "at most"]
    decimals: int = 0
    unit: Literal["", "%", "sd"] = ""
    """The unit in which figure and limit are written; ``%`` is for a share in 0..1."""
    cause: Cause = Cause.TOO_FEW_DRAWS
    """The cause of a data set that fails, where nothing tells more."""
    symptom: bool = False
    """True for a figure that goes wrong with others, so that its cause counts only where it fails alone."""

    def passed(self, values: Floats) -> Bools:
        """True where a figure is within the limit."""
        compare = {"below": np.less, "above": np.greater, "at most": np.less_equal}[self.better]
        return np.asarray(compare(values, self.limit), bool)

    def sentence(self, value: float, of: str = "") -> str:
        """Return text on the figure of one data set, ``of`` its worst parameter, with the limit if it does not pass."""
        if self.passed(np.asarray(value)):
            return f"{self.figure} {self._number(value, f'.{self.decimals}f')}"
        told = self._number(value, f".{self.decimals}f") if np.isfinite(value) else "undefined"
        return f"{self.figure}{of and f' of {of}'} {told}, limit {self._number(self.limit, 'g')}"

    def _number(self, value: float, form: str) -> str:
        number = format(100 * value if self.unit == "%" else value, form)
        return f"{number} {self.unit}" if self.unit else number


@dataclass(frozen=True)
class Check:
    """A figure of each data set, compared with its rule."""

    rule: Rule
    values: Floats
    of: Sequence[str] = ()
    """The parameter that each figure belongs to, if it is the worst of several."""

    @property
    def symptom(self) -> bool:
        """True for a figure that goes wrong with others."""
        return self.rule.symptom

    @property
    def passed(self) -> Bools:
        """True where the figure is within its limit."""
        return self.rule.passed(self.values)

    def sentence(self, position: int) -> str:
        """Return text on the figure of one data set, with the limit if it fails."""
        return self.rule.sentence(float(self.values[position]), self.of[position] if self.of else "")

    def cause(self, position: int) -> Cause:
        """Return the cause of one data set that fails."""
        return self.rule.cause

    def at(self, position: int) -> str:
        """Return the figure of one data set, with its parameter and without the limit."""
        return self.sentence(position).partition(", limit ")[0]


@dataclass(frozen=True)
class Caused:
    """A check that the data sets in ``findings`` fail, each with its cause; for the others its sentence is empty."""

    findings: Mapping[int, Finding]
    datasets: int
    symptom: bool = False

    @property
    def passed(self) -> Bools:
        """True where nothing is found."""
        return np.array([i not in self.findings for i in range(self.datasets)], bool)

    def sentence(self, position: int) -> str:
        """Return the sentence on one data set; empty if nothing is found."""
        return self.findings[position].sentence if position in self.findings else ""

    def cause(self, position: int) -> Cause:
        """Return the cause of one data set that fails."""
        return self.findings[position].cause

    def at(self, position: int) -> str:
        """Return the parameter and value at which the cause of one data set was found."""
        return self.findings[position].at


def checks_of(
    rules: Sequence[Rule], figures: Sequence[ArrayLike], of: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[Check]:
    """Compare ``figures``, ``(dataset,)`` each, with ``rules``; ``of`` has the worst parameters by figure."""
    return [
        Check(rule, np.asarray(values, float), of.get(rule.figure, ()))
        for rule, values in zip(rules, figures, strict=True)
    ]


def markov_rules(limits: VerdictSection) -> list[Rule]:
    """Return the rules of independent Markov chains: rank-normalised R-hat, bulk and tail ESS, divergences."""
    return [
        Rule("R-hat", limits.rhat, "below", 4),
        Rule("bulk ESS", limits.ess, "above"),
        Rule("tail ESS", limits.ess, "above"),
        Rule("divergences", limits.divergences, "at most", cause=Cause.DIVERGENCES),
    ]


def ensemble_rules(limits: VerdictSection) -> list[Rule]:
    """Return the rules of independent ensembles of walkers: R-hat, length in autocorrelation times, ESS."""
    return [
        Rule("R-hat between ensembles", limits.rhat, "below", 4),
        Rule("autocorrelation times", limits.tau, "above"),
        Rule("ESS", limits.ess, "above"),
    ]


def weighted_rules(limits: VerdictSection) -> list[Rule]:
    """Return the rules of importance-weighted draws: Pareto k-hat and weighted ESS."""
    return [
        Rule("k-hat", limits.khat, "below", 2, cause=Cause.POOR_PROPOSAL),
        Rule("weighted ESS", limits.ess, "above"),
    ]


def likelihood_free_rules(limits: VerdictSection) -> list[Rule]:
    """Return the rules of a network's unweighted draws: its calibration, and likeness of data set and training set."""
    return [
        Rule(
            "no likelihood; distance of the network's calibration from uniform",
            limits.miscalibration,
            "below",
            3,
            cause=Cause.CALIBRATION,
        ),
        Rule(
            "simulations as far out of distribution",
            limits.min_ood_pvalue,
            "above",
            2,
            "%",
            cause=Cause.UNLIKE_TRAINING,
        ),
    ]


def mode_rules(limits: VerdictSection) -> list[Rule]:
    """Return the rules on posterior mass that the chains lack: the shift of a mean, the share, the ratio of sds."""
    elsewhere = Cause.MASS_ELSEWHERE
    return [
        Rule("mode check: shift of a mean", limits.mode_shift, "below", 2, "sd", elsewhere, symptom=True),
        Rule("mass where no chain went", limits.mass_outside, "below", 1, "%", elsewhere),
        Rule("log ratio of sds", limits.mode_spread, "below", 2, cause=elsewhere, symptom=True),
    ]


def verdicts(checks: Sequence[Check | Caused], failures: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Return verdict and reason of each data set; the reason names failed figures first, then those that pass.

    The position of a data set without draws is in ``failures``, with the reason.
    """
    passed = [check.passed for check in checks]
    count = len(passed[0])
    labels, reasons = [], []
    for i in range(count):
        if i in failures:
            labels.append(Verdict.FAILED)
            reasons.append(one_line(failures[i]))
            continue
        told = [(holds[i], check.sentence(i)) for check, holds in zip(checks, passed, strict=True)]
        failing = [sentence for holds, sentence in told if not holds]
        passing = [sentence for _, sentence in told if sentence]
        labels.append(Verdict.NOT_CONVERGED if failing else Verdict.CONVERGED)
        reasons.append("; ".join(failing or passing))
    return [str(label) for label in labels], reasons


def one_line(text: str, limit: int = 300) -> str:
    """Return ``text`` without line breaks, cut at ``limit`` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
