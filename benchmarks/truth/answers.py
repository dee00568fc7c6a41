"""Answers of a method beside exact posteriors: their errors, which are wrong, and the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.truth.exact import Exact

MOST_MEAN, MOST_SD, MOST_MASS = 0.3, 0.3, 0.05
"""The errors above which an answer is wrong: of a mean, in exact sds; of an sd, relative; of the share of a mode."""


@dataclass(frozen=True)
class Answer:
    """The answer of one method to one data set, with its errors; NaN where there are no draws.

    ``seconds`` are those of the sampler; ``calls`` those of a black box's likelihood, from ``init`` to the verdict.
    """

    family: str
    method: str
    dataset: int
    converged: bool
    mean_error: float
    sd_error: float
    mass_error: float
    seconds: float
    reason: str = ""
    calls: int | None = None

    @property
    def is_wrong(self) -> bool:
        """True where it is called converged and is not the exact posterior."""
        close = self.mean_error < MOST_MEAN and self.sd_error < MOST_SD and self.mass_error < MOST_MASS
        return self.converged and not close


def errors(
    exact: Exact,
    mean: Mapping[str, float],
    sd: Mapping[str, float],
    draws: Mapping[str, np.ndarray] | None = None,
    weights: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """The largest errors of the means, in exact sds, of the sds, relative, and of the shares of modes."""
    off = [abs(mean[name] - exact.mean[name]) / exact.sd[name] for name in exact.mean]
    ratio = [max(sd[name] / exact.sd[name], exact.sd[name] / max(sd[name], 1e-300)) - 1 for name in exact.mean]
    share = 0.0
    if exact.mode_of is not None and draws is not None:
        found = np.bincount(np.asarray(exact.mode_of(draws)).ravel(), weights, minlength=len(exact.masses))
        share = float(np.max(np.abs(found / found.sum() - exact.masses)))
    return float(np.max(off)), float(np.max(ratio)), share


def columns_of(draws: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of the catalogue, ``(draw,)`` each with its name, of draws ``(draw, ...)`` of every site."""
    for site, values in draws.items():
        for index in np.ndindex(values.shape[1:]):
            yield f"{site}[{','.join(map(str, index))}]" if index else site, values[(slice(None), *index)]


def table(answers: Sequence[Answer], took: Mapping[str, float]) -> str:
    """The answers as a Markdown table: a row for each case, which ``took`` seconds, and a column for each method."""
    methods = list(dict.fromkeys(answer.method for answer in answers))
    head = "converged, wrong, worst mean, worst sd, seconds and calls a data set"
    lines = [f"| family | {' | '.join(f'{m}: {head}' for m in methods)} | s |", "|---|" + "---|" * (len(methods) + 1)]
    for name in dict.fromkeys(answer.family for answer in answers):
        cells = [_cell([a for a in answers if (a.family, a.method) == (name, method)]) for method in methods]
        lines.append(f"| {name} | {' | '.join(cells)} | {took[name]:.0f} |")
    cells = [_cell([a for a in answers if a.method == method]) for method in methods]
    return "\n".join([*lines, f"| **all** | {' | '.join(cells)} | {sum(took.values()):.0f} |"])


def _cell(answers: Sequence[Answer]) -> str:
    if not answers:
        return "–"
    good = [answer for answer in answers if answer.converged]
    parts = [f"{len(good)}/{len(answers)}"]
    if good:
        wrong = sum(answer.is_wrong for answer in good)
        mean, sd = (max(getattr(answer, what) for answer in good) for what in ("mean_error", "sd_error"))
        parts += [f"**{wrong}**" if wrong else "0", f"{mean:.2f}", f"{sd:.0%}"]
    seconds = [answer.seconds for answer in answers if np.isfinite(answer.seconds)]
    parts += [f"{np.mean(seconds):.2g} s"] if seconds else []
    counts = [answer.calls for answer in answers if answer.calls is not None]
    return ", ".join([*parts, *([f"{np.mean(counts):,.0f} calls"] if counts else [])])
