"""Calls of a black box's functions as values, and their answers.

An engine asks for log densities or simulations; a ``HostMap`` decides which process calls the user's function. A
failure is a value too, so it can be sent between processes, and it concerns its own data set only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from chainsweep.model.failing import Failing
from chainsweep.numerics.arrays import Floats

HostLikelihood = Callable[..., float]
HostSimulator = Callable[..., Any]


class BlackBox(Protocol):
    """The part of a problem that calls of the user's functions need."""

    @property
    def host_log_likelihood(self) -> HostLikelihood | None:
        """The function ``log_likelihood(params, **fields)`` of one data set and point."""

    @property
    def host_simulate(self) -> HostSimulator | None:
        """The function ``simulate(params, rng, **design)`` of one data set and point."""

    @property
    def observed(self) -> tuple[str, ...]:
        """The names of the fields that ``simulate`` gives."""

    @property
    def names(self) -> tuple[str, ...]:
        """Flat column names of the parameters."""

    def unflatten(self, theta: Any) -> dict[str, Any]:
        """Split ``(..., ndim)`` into arrays ``(..., *shape)`` by parameter."""


@dataclass(frozen=True)
class Simulation:
    """The request to a simulator: the seed of its random numbers, and the shape ``(point, ...)`` of each field."""

    seed: int
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class HostCall:
    """A call of the user's function for one data set at the points ``theta`` ``(row, ndim)``.

    It asks for the likelihood, or for simulations where ``simulation`` is given. ``fields`` are the unpadded fields and
    the constants, for a simulation without the observed fields; ``frozen`` is True where they are the campaign's own,
    which every process of the campaign can read for itself.
    """

    dataset_id: str
    theta: Floats
    fields: Mapping[str, Any]
    frozen: bool = True
    simulation: Simulation | None = None

    @property
    def function(self) -> str:
        """The name of the user's function."""
        return "log_likelihood" if self.simulation is None else "simulate"


@dataclass(frozen=True)
class HostAnswer:
    """The answer to a call: log likelihoods ``(row,)`` as the function gave them, -inf from the row on that failed.

    For a simulation it is the observed fields ``(row, point, ...)`` in their place, NaN from the row on that failed.
    """

    values: Floats
    failure: str = ""
    simulated: Mapping[str, Floats] = field(default_factory=dict)


HostMap = Callable[[BlackBox, Sequence[HostCall]], Iterable[HostAnswer]]
"""The function that gives one answer for each call, in the order of the calls, which are all of one function."""


def unanswered(call: HostCall, failure: str = "") -> HostAnswer:
    """The answer to ``call`` before any row of it is computed, to be filled or to report ``failure``."""
    count = len(call.theta)
    if call.simulation is None:
        return HostAnswer(np.full(count, -np.inf), failure)
    empty = {name: np.full((count, *shape), np.nan) for name, shape in call.simulation.shapes.items()}
    return HostAnswer(np.empty(0), failure, empty)


def answer(problem: BlackBox, call: HostCall, begins: Callable[[], None] = lambda: None) -> HostAnswer:
    """Call the user's function at each point, until one call raises; ``begins`` is called before each.

    ``sys.exit`` in the function is a failure like any other; only Ctrl-C is raised again.
    """
    result = unanswered(call)
    evaluate = _likelihood(problem, call, result) if call.simulation is None else _simulator(problem, call, result)
    params = problem.unflatten(np.asarray(call.theta))
    for row in range(len(call.theta)):
        begins()
        try:
            evaluate(row, {name: value[row] for name, value in params.items()})
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return replace(result, failure=f"{call.function}{Failing.RAISED}{type(error).__name__}: {error}")
    return result


def _likelihood(problem: BlackBox, call: HostCall, result: HostAnswer) -> Callable[[int, dict[str, Any]], None]:
    function = problem.host_log_likelihood
    assert function is not None

    def evaluate(row: int, params: dict[str, Any]) -> None:
        result.values[row] = float(function(params, **call.fields))

    return evaluate


def _simulator(problem: BlackBox, call: HostCall, result: HostAnswer) -> Callable[[int, dict[str, Any]], None]:
    function, simulation, observed = problem.host_simulate, call.simulation, problem.observed
    assert function is not None
    assert simulation is not None
    rng = np.random.Generator(np.random.Philox(key=simulation.seed))

    def evaluate(row: int, params: dict[str, Any]) -> None:
        simulated = function(params, rng, **call.fields)
        values = simulated if isinstance(simulated, dict) else {observed[0]: simulated}
        for name, shape in simulation.shapes.items():
            value = np.asarray(values[name], float)
            if value.shape != shape:
                raise ValueError(f"expected '{name}' of shape {shape}, got {value.shape}")
            result.simulated[name][row] = value

    return evaluate


def answer_in_turn(problem: BlackBox, calls: Sequence[HostCall]) -> Iterable[HostAnswer]:
    """The ``HostMap`` that answers all calls in this process, one after the other."""
    return (answer(problem, call) for call in calls)


def combined(parts: Sequence[HostAnswer]) -> HostAnswer:
    """Combine the log likelihoods of consecutive rows of one call to one answer, with the first failure of them."""
    failure = next((part.failure for part in parts if part.failure), "")
    return HostAnswer(np.concatenate([part.values for part in parts]), failure)
