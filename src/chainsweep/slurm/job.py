"""A planned Slurm job, with the tasks that each of its array elements handles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chainsweep.engines.registry import ENGINES
from chainsweep.stages.graph import WORK

_OWN = ("simulate", "train", "merge", "report")
STAGE_OF = dict.fromkeys(ENGINES, "infer") | {kind: kind for kind in _OWN}
"""The stage that a job of each kind runs."""
ARRAYS = ("simulate", "infer")
"""The stages whose jobs are arrays; training is an array only for an ensemble."""


def is_array(stage: str, tasks: int) -> bool:
    """Return True if a job of ``stage`` with this number of ``tasks`` is an array."""
    return stage in ARRAYS or (stage == "train" and tasks > 1)


@dataclass(frozen=True)
class Job:
    """A job of ``kind``: element ``i`` of its array handles ``per_element`` tasks from ``tasks[i * per_element]`` on.

    ``name`` is unique in the cluster's queue: campaign, the folder's token, submission, kind and part. ``after`` names
    the jobs of the same submission that must have ended before it starts. ``form`` says what the ranks of a job share
    out, and ``why``, for its log; both are empty unless the engine has ranks.
    """

    name: str
    kind: str
    part: int
    tasks: tuple[int, ...]
    per_element: int
    ranks: int
    form: str
    gpu: bool
    after: tuple[str, ...]
    folder: Path
    logs: Path
    why: str = ""

    @property
    def stage(self) -> str:
        """The stage of the job's tasks."""
        return STAGE_OF[self.kind]

    @property
    def is_array(self) -> bool:
        """True where it is a job array; training of one network, merge and report are single jobs."""
        return is_array(self.stage, len(self.tasks))

    @property
    def requeues(self) -> bool:
        """True where a task that stops early is requeued; merge and report run again in the next submission."""
        return self.stage in WORK

    @property
    def elements(self) -> int:
        """The number of array elements."""
        return math.ceil(len(self.tasks) / self.per_element)

    @property
    def file(self) -> str:
        """The name of its script."""
        return f"{self.kind}-{self.part}.sbatch" if self.is_array else f"{self.kind}.sbatch"

    @property
    def script(self) -> Path:
        """The path of its script."""
        return self.folder / self.file

    @property
    def output(self) -> str:
        """Slurm's pattern for the output file of each element; ``%`` of the path is doubled."""
        pattern = "%A_%a" if self.is_array else "%j"
        return str(self.logs).replace("%", "%%") + f"/slurm-{self.kind}-{pattern}.out"

    @property
    def variable(self) -> str:
        """The name that stands for its job id where commands are shown."""
        return self.file.removesuffix(".sbatch").replace("-", "_")


def as_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as inclusive ranges: ``[0, 1, 2, 7]`` gives ``[(0, 2), (7, 7)]``."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def ranges_text(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text such as ``0-2,7``, the form of tasks in ``jobs.jsonl``."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in as_ranges(numbers))


def ranges_read(text: str) -> tuple[int, ...]:
    """Return the numbers of a text that ``ranges_text`` made."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)
