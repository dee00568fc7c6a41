"""The arguments of every way of training, and the progress of training, apart from the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chainsweep.engines.base import Deadline, Sink
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays

HISTORY = ("step", "train_loss", "validation_loss", "learning_rate", "simulations", "seconds")


@dataclass
class TrainingProgress:
    """The progress of training: all that the next step needs besides weights and moments."""

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    recent: list[float] = field(default_factory=list)
    """The losses since the last line of the history."""
    history: list[tuple[float, ...]] = field(default_factory=list)

    def arrays(self) -> Arrays:
        """The fields as flat arrays by name; ``from_arrays`` is the inverse."""
        return {
            "step": np.array(self.step),
            "seconds": np.array(self.seconds),
            "skipped": np.array(self.skipped),
            "recent": np.array(self.recent, dtype=np.float64),
            "history": np.array(self.history, dtype=np.float64).reshape(-1, len(HISTORY)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> TrainingProgress:
        """The inverse of `arrays`."""
        return cls(
            int(arrays["step"]),
            float(arrays["seconds"]),
            int(arrays["skipped"]),
            arrays["recent"].tolist(),
            [tuple(row) for row in arrays["history"].tolist()],
        )


@dataclass(frozen=True)
class Job:
    """The arguments that every way of training takes."""

    problem: Problem
    settings: SnpeSettings
    seed: int
    sink: Sink
    deadline: Deadline
    device: str
    member: int = 0
    """The number of the network in an ensemble."""
