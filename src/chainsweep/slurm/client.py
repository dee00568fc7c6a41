"""The one module that runs Slurm's commands. Each call is one command with a time limit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from chainsweep.errors import UnavailableError
from chainsweep.slurm.plan import Limits

COMMAND_TIMEOUT_S = 60.0
QUEUE_FORMAT = "%F|%K|%T|%j|%r|%M|%N"
"""The fields asked of squeue: array job (or job) id, array index, state, job name, reason, time used, nodes."""
ENDED = frozenset(
    {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"}
)
"""The final states of an element. PREEMPTED is not one of them because chainsweep's jobs are requeued."""


@dataclass(frozen=True)
class Element:
    """One array element (or one single job, with ``element`` 0) as the queue shows it."""

    job_id: int
    element: int
    name: str
    state: str
    reason: str
    time_used: str
    nodes: str

    @property
    def live(self) -> bool:
        """True where the element waits, runs, or will run again."""
        return self.state not in ENDED


class NoAnswer(UnavailableError):
    """A command reached its time limit, so it is unknown whether Slurm carried it out."""


def run_command(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Run a Slurm command, and return its standard output.

    Raises
    ------
    NoAnswer
        The command did not end in time.
    UnavailableError
        The command is not installed, or ended with an error; the message holds its output.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise UnavailableError(f"no {command[0]} on the path: this machine cannot reach a Slurm cluster") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{command[0]} did not answer within {timeout_s:g} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or "it said nothing"
        raise UnavailableError(f"{command[0]} ended with exit code {done.returncode}: {said}")
    return done.stdout


def sbatch(command: Sequence[str], timeout_s: float) -> int:
    """Submit a script, and return the job id. Raises like ``run_command``."""
    answer = run_command(command, timeout_s).strip()
    match = re.match(r"(\d+)", answer.splitlines()[-1] if answer else "")
    if match is None:
        raise UnavailableError(f"sbatch --parsable: expected a job id, got {answer!r}")
    return int(match.group(1))


def queue(names: Sequence[str] = ()) -> list[Element]:
    """Return this user's array elements that wait, run, or ended lately, only those of ``names`` if given."""
    chosen = [f"--name={','.join(names)}"] if names else []
    listed = run_command(["squeue", "--me", "-h", "-r", "-t", "all", "-o", QUEUE_FORMAT, *chosen])
    elements = []
    for line in listed.splitlines():
        fields = line.strip().split("|")
        if len(fields) != QUEUE_FORMAT.count("|") + 1:
            continue  # another job of this user, whose name contains a "|"
        job_id, index, state, name, reason, used, nodes = fields
        elements.append(Element(int(job_id), int(index) if index.isdigit() else 0, name, state, reason, used, nodes))
    return elements


def cancel(job_ids: Sequence[int]) -> None:
    """Cancel jobs, arrays as a whole."""
    run_command(["scancel", *map(str, job_ids)])


def limits() -> Limits:
    """Return the limits of the cluster's configuration."""
    shown = run_command(["scontrol", "show", "config"])
    return Limits(_number(shown, "MaxArraySize"), _number(shown, "MaxJobCount"))


def _number(shown: str, name: str) -> int:
    match = re.search(rf"^{name}\s*=\s*(\d+)", shown, re.MULTILINE)
    if match is None:
        raise UnavailableError(f"scontrol show config names no {name}")
    return int(match.group(1))
