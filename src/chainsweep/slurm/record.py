"""``jobs.jsonl``: every job that was sent, one line per event, appended and never rewritten.

A line is written before ``sbatch`` is called (``sending``) and after it answered (``sent``, with the job id). So a job
whose ``sbatch`` gave no answer is known by its unique name, and can be looked up in the queue.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.folder import identity_of
from chainsweep.errors import CampaignError
from chainsweep.publish import append_below, check_below
from chainsweep.slurm.job import STAGE_OF, Job, ranges_read, ranges_text


@dataclass(frozen=True)
class SentJob:
    """The record of one job; ``job_id`` is None while it is not known whether Slurm accepted the job."""

    name: str
    submission: int
    kind: str
    tasks: tuple[int, ...]
    per_element: int
    output: str
    job_id: int | None

    @property
    def stage(self) -> str:
        """The stage of the job's tasks."""
        return STAGE_OF[self.kind]

    def tasks_of(self, element: int) -> tuple[int, ...]:
        """Return the tasks of one array element."""
        return self.tasks[element * self.per_element : (element + 1) * self.per_element]

    def output_of(self, task: int) -> Path | None:
        """Return Slurm's output file of the element that handles ``task``; None if no job id is known."""
        if self.job_id is None:
            return None
        element = self.tasks.index(task) // self.per_element
        numbered = self.output.replace("%A", str(self.job_id)).replace("%a", str(element))
        return Path(numbered.replace("%j", str(self.job_id)).replace("%%", "%"))


def note_sending(path: Path, job: Job, submission: int) -> None:
    """Record that ``job`` is about to be sent."""
    content = {
        "event": "sending",
        "name": job.name,
        "submission": submission,
        "kind": job.kind,
        "tasks": ranges_text(job.tasks),
        "per_element": job.per_element,
        "ranks": job.ranks,
        "script": str(job.script),
        "output": job.output,
    }
    _append(path, content)


def note_sent(path: Path, name: str, job_id: int) -> None:
    """Record the id that Slurm gave a job."""
    _append(path, {"event": "sent", "name": name, "job_id": job_id})


def note_refused(path: Path, name: str, reason: str) -> None:
    """Record that Slurm did not accept a job."""
    _append(path, {"event": "refused", "name": name, "reason": reason})


def sent_jobs(path: Path) -> list[SentJob]:
    """Return every job that Slurm accepted or may have accepted, oldest first.

    Raises
    ------
    CampaignError
        The file is a link, or a line is damaged. A last line that a killed process left half written is ignored.
    """
    check_below(path.parent, path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = text.splitlines()
    jobs: dict[str, SentJob] = {}
    for number, line in enumerate(lines, start=1):
        try:
            _take(json.loads(line), jobs)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise CampaignError(
                f"{path}, line {number}: expected a JSON object that says what became of a job "
                f"({type(error).__name__}: {error}); remove that line"
            ) from error
    return list(jobs.values())


def _take(event: dict[str, Any], jobs: dict[str, SentJob]) -> None:
    """Apply one event to ``jobs``."""
    name = event["name"]
    if event["event"] == "sending":
        if event["kind"] not in STAGE_OF:
            raise ValueError(f"no kind of job: {event['kind']}")
        jobs[name] = SentJob(
            name=name,
            submission=int(event["submission"]),
            kind=event["kind"],
            tasks=ranges_read(str(event["tasks"])),
            per_element=int(event["per_element"]),
            output=event["output"],
            job_id=None,
        )
    elif event["event"] == "sent":
        jobs[name] = replace(jobs[name], job_id=int(event["job_id"]))
    else:
        jobs.pop(name, None)


def own_jobs(campaign: Campaign) -> tuple[tuple[SentJob, ...], str]:
    """Return the recorded jobs that this folder sent, by their names, and the folder's token.

    In a copy of a folder, the jobs of the original are not its own.

    Raises
    ------
    CampaignError
        As ``sent_jobs`` and ``identity_of``.
    """
    jobs = sent_jobs(campaign.paths.jobs)
    submissions = max((job.submission for job in jobs), default=0)
    identity = identity_of(campaign.paths.root, submissions, [job.name for job in jobs])
    return tuple(job for job in jobs if identity.owns(job.name)), identity.token


def next_submission(jobs: Iterable[SentJob], folder: Path) -> int:
    """Return the number after the last submission that left a record or a folder."""
    made = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return 1 + max([0, *made, *(job.submission for job in jobs)])


def _append(path: Path, content: dict[str, object]) -> None:
    append_below(path.parent, path, json.dumps(content | {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}))
