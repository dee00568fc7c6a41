"""The cause and the hint of each data set, from what fails and from the evidence on why it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainsweep.verdicts.causes import Cause, cause_of_failure, hint_of, most_fundamental
from chainsweep.verdicts.rules import Caused, Check

Causes = Mapping[Cause, str]
"""The causes that there is evidence of, each with the parameter and value that it was seen at."""

EXPLAINS: Mapping[Cause, frozenset[Cause]] = {
    Cause.TOO_FEW_DRAWS: frozenset(
        {Cause.UNDERFLOW, Cause.STUCK, Cause.SEVERAL_MODES, Cause.PRIOR_EDGE, Cause.MISFIT, Cause.UNLIKE_TRAINING}
    ),
    Cause.POOR_PROPOSAL: frozenset({Cause.UNDERFLOW, Cause.MISFIT, Cause.UNLIKE_TRAINING}),
    Cause.MASS_ELSEWHERE: frozenset({Cause.SEVERAL_MODES}),
    Cause.MODE_CHECK_INCONCLUSIVE: frozenset({Cause.UNDERFLOW, Cause.MISFIT, Cause.PRIOR_EDGE}),
}
"""The evidence that counts where a check of this cause fails; other checks name their cause themselves."""


def explained(
    checks: Sequence[Check | Caused], failures: Mapping[int, str], seen: Mapping[int, Causes], budget: str
) -> tuple[list[str], list[str]]:
    """Return the cause and the hint of each data set; both are empty for one that passes every check.

    ``seen`` holds the evidence by position, and ``budget`` names the setting that allows more draws.
    """
    passed = [check.passed for check in checks]
    causes, hints = [], []
    for i in range(len(passed[0])):
        if i in failures:
            found = _of_failure(failures[i], seen.get(i, {}))
        else:
            failing = [check for check, holds in zip(checks, passed, strict=True) if not holds[i]]
            found = _of_checks(failing, i, seen.get(i, {}))
        cause = most_fundamental(found) if found else None
        causes.append("" if cause is None else str(cause))
        hints.append("" if cause is None else hint_of(cause, found[cause], budget))
    return causes, hints


def _of_failure(sentence: str, seen: Causes) -> Causes:
    """Return the cause of a data set without draws: what prior draws show, or else what its failure says."""
    return seen or {cause_of_failure(sentence): ""}


def _of_checks(failing: Sequence[Check | Caused], i: int, seen: Causes) -> dict[Cause, str]:
    """Return the causes of the checks that data set ``i`` fails, and the evidence that explains them.

    A symptom, such as a mean that is off, counts only where nothing else fails: it follows from most other causes.
    """
    counted = [check for check in failing if not check.symptom] or failing
    found: dict[Cause, str] = {}
    for check in counted:
        found.setdefault(check.cause(i), check.at(i))
    told = set().union(*(EXPLAINS.get(cause, frozenset()) for cause in found))
    return {cause: at for cause, at in seen.items() if cause in told} | {
        cause: at for cause, at in found.items() if cause not in seen or cause not in told
    }
