"""Calls of a black-box likelihood as values: what is evaluated where, and what came of it.

An engine asks for log densities; a ``HostMap`` decides which process calls the user's function. A failure is a
value, so it can travel, and it stays with its data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chainsweep.model.problem import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HostCall:
    """The likelihood of one data set at the points ``theta`` ``(row, ndim)``.

    ``fields`` are the unpadded fields and the constants; ``frozen`` says that they are the campaign's own, which
    every process of the campaign can read for itself.
    """

    dataset_id: str
    theta: Floats
    fields: Mapping[str, Any]
    frozen: bool = True


@dataclass(frozen=True)
class HostAnswer:
    """Log likelihoods ``(row,)``, NaN where the function gave no number; -inf from the row on that failed."""

    values: Floats
    failure: str = ""


HostMap = Callable[["Problem", Sequence[HostCall]], Iterable[HostAnswer]]
"""One answer a call, in the order of the calls."""


def answer(problem: Problem, call: HostCall) -> HostAnswer:
    """Call the user's function at each point, until one call raises.

    ``sys.exit`` in it is a failure like any other; only Ctrl-C goes on.
    """
    function = problem.host_log_likelihood
    assert function is not None
    params = problem.unflatten(np.asarray(call.theta))
    values = np.full(len(call.theta), -np.inf)
    for row in range(len(values)):
        try:
            values[row] = float(function({name: value[row] for name, value in params.items()}, **call.fields))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return HostAnswer(values, f"log_likelihood raised {type(error).__name__}: {error}")
    return HostAnswer(values)


def answer_in_turn(problem: Problem, calls: Sequence[HostCall]) -> Iterable[HostAnswer]:
    """The map of a process on its own."""
    return (answer(problem, call) for call in calls)


def combined(parts: Sequence[HostAnswer]) -> HostAnswer:
    """Answers to consecutive rows of one call as one: the first failure is the call's."""
    failure = next((part.failure for part in parts if part.failure), "")
    return HostAnswer(np.concatenate([part.values for part in parts]), failure)
