"""Queue state beside the counts from the files: what waits and runs, why tasks ended, and their logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.folder import has_token
from chainsweep.errors import UnavailableError
from chainsweep.slurm import client
from chainsweep.slurm.record import SentJob, note_sent, own_jobs, sent_jobs
from chainsweep.stages.graph import Task, target_of, work_of
from chainsweep.stages.status import Progress, campaign_status
from chainsweep.tasks.attempt import owner_of, was_started, was_stopped
from chainsweep.tasks.failures import Kind

TAIL_BYTES = 16_384
SIGNS = (
    ("oom-kill", Kind.OUT_OF_MEMORY),
    ("oom_kill", Kind.OUT_OF_MEMORY),
    ("Out Of Memory", Kind.OUT_OF_MEMORY),
    ("emory limit", Kind.OUT_OF_MEMORY),
    ("MemoryError", Kind.OUT_OF_MEMORY),
    ("DUE TO TIME LIMIT", Kind.TIME_LIMIT),
    ("DUE TO NODE FAILURE", Kind.NODE_FAILURE),
    ("NODE FAIL", Kind.NODE_FAILURE),
    (": no image: ", Kind.UNAVAILABLE),
    (": not the image that was submitted: ", Kind.CHANGED),
)
"""What Slurm and the scripts write into a job's output file, and what it means."""
STATES = {
    "OUT_OF_MEMORY": Kind.OUT_OF_MEMORY,
    "CANCELLED": Kind.CANCELLED,
    "TIMEOUT": Kind.TIME_LIMIT,
    "DEADLINE": Kind.TIME_LIMIT,
    "NODE_FAIL": Kind.NODE_FAILURE,
    "BOOT_FAIL": Kind.NODE_FAILURE,
}


@dataclass(frozen=True)
class Queue:
    """The queue's elements of this campaign; ``problem`` says why it could not be asked, if so."""

    elements: tuple[client.Element, ...] = ()
    problem: str | None = None

    def state_of(self, job: SentJob, task: int) -> client.Element | None:
        """The queue's line of the element that handles ``task``."""
        element = job.tasks.index(task) // job.per_element
        return next((e for e in self.elements if e.name == job.name and e.element == element), None)


def look(campaign: Campaign) -> Queue:
    """Ask the queue once, for the jobs of this folder. Nothing was ever submitted: it is not asked at all.

    A job is this folder's where it has the name and the id that were recorded; or the name, as long as no id is known.
    """
    sent = {job.name: job.job_id for job in own_jobs(campaign)}
    if not sent:
        return Queue()
    try:
        found = client.queue()
    except UnavailableError as error:
        return Queue(problem=str(error))
    return Queue(tuple(e for e in found if e.name in sent and sent[e.name] in (None, e.job_id)))


def full_status(campaign: Campaign, progress: Progress) -> dict[str, Any]:
    """``campaign_status`` with the queue's state, tasks that run outside of it, and those that ended without a file."""
    found = look(campaign)
    content = campaign_status(campaign, progress)
    sent = own_jobs(campaign)
    for entry in content["failed_tasks"]:
        job = _last_job(sent, entry["stage"], entry["index"])
        entry |= _from_slurm(job, found, entry["index"], Kind(entry["kind"]))
        entry["last_lines"] = last_lines(Path(entry["log"]))
    content["running_tasks"], content["interrupted_tasks"] = _unfinished(campaign, progress, sent, found)
    live = [element for element in found.elements if element.live]
    kinds = {job.name: job.kind for job in sent}
    states: dict[str, Counter[str]] = {}
    for element in live:
        states.setdefault(kinds[element.name], Counter())[element.state] += 1
    content["queue"] = {
        "asked": bool(sent),
        "problem": found.problem,
        "elements": len(live),
        "states": {kind: dict(counts) for kind, counts in states.items()},
        "reasons": dict(Counter(element.reason for element in live if element.state == "PENDING")),
    }
    return content


def _unfinished(
    campaign: Campaign, progress: Progress, sent: list[SentJob], found: Queue
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tasks that began, are not done and that nothing in the queue continues: those that run, and those that broke off.

    A task runs while the process that began it does (``here``), as one of ``chainsweep run``. That of another machine
    cannot be seen: it counts as running unless a job had it, for the queue would know. A job may have ended before
    it began its task: then its output file alone says why. No task broke off while the queue cannot be asked: it may
    well be running.
    """
    live = {
        (job.stage, task)
        for element in found.elements
        if element.live
        for job in sent
        if job.name == element.name
        for task in job.tasks_of(element.element)
    }
    running, broken = [], []
    for task in progress.open:
        if (task.stage, task.index) in live:
            continue
        entry: dict[str, Any] = {"task": task.label, "stage": task.stage, "index": task.index}
        last_job = _last_job(sent, task.stage, task.index)
        owner = owner_of(target_of(campaign, task))
        stopped = was_stopped(target_of(campaign, task))
        runs = owner.is_running() if owner is not None and not stopped else False
        if owner is not None and (runs or (runs is None and last_job is None)):
            running.append(entry | {"host": owner.host, "pid": owner.pid, "here": bool(runs)})
        elif found.problem is None and (log := _log_of_broken(campaign, task, last_job)) is not None:
            kind = Kind.STOPPED if stopped else Kind.KILLED
            entry |= {"kind": str(kind), "log": str(log), "last_lines": last_lines(log)}
            broken.append(entry | _from_slurm(last_job, found, task.index, kind))
    return running, broken


def _log_of_broken(campaign: Campaign, task: Task, last_job: SentJob | None) -> Path | None:
    """Where it says how a task ended; None where it never began."""
    if was_started(target_of(campaign, task)):
        return campaign.paths.log(task.stage, task.index)
    output = None if last_job is None else last_job.output_of(task.index)
    return output if output is not None and output.exists() else None


def _from_slurm(job: SentJob | None, found: Queue, index: int, kind: Kind) -> dict[str, Any]:
    """What Slurm knows of a task's last job: its output file, and the kind of end where the task could not tell."""
    if job is None or job.job_id is None:
        return {}
    output = job.output_of(index)
    known: dict[str, Any] = {"job_id": job.job_id, "slurm_log": str(output)}
    if kind not in (Kind.KILLED, Kind.STOPPED, Kind.TIME_LIMIT):
        return known
    element = found.state_of(job, index)
    if element is not None and element.state in STATES:
        return known | {"kind": str(STATES[element.state])}
    sign = sign_in(tail(output)) if output is not None else None
    return known | ({"kind": str(sign)} if sign is not None else {})


def _last_job(sent: list[SentJob], stage: str, index: int) -> SentJob | None:
    """The last job that was to do a task."""
    return next((job for job in reversed(sent) if job.stage == stage and index in job.tasks), None)


def sign_in(text: str) -> Kind | None:
    """The last end that Slurm itself announced in an output file; None where there is no such line."""
    places = [(text.rfind(words), kind) for words, kind in SIGNS if words in text]
    return max(places)[1] if places else None


def tail(path: Path) -> str:
    """The end of a log; empty where there is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL_BYTES))
            return handle.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def last_lines(path: Path | str, count: int = 5) -> list[str]:
    """The last lines of a log that are not blank."""
    return [line for line in tail(Path(path)).splitlines() if line.strip()][-count:]


def logs_of(campaign: Campaign, tasks: list[Task]) -> list[dict[str, Any]]:
    """The log files of tasks: their own, and Slurm's of each job that handled them."""
    sent = sent_jobs(campaign.paths.jobs)
    listed = []
    for task in tasks:
        slurm = [job.output_of(task.index) for job in sent if job.stage == task.stage and task.index in job.tasks]
        files = [campaign.paths.log(task.stage, task.index), *(path for path in slurm if path is not None)]
        listed.append({"task": task.label, "files": [str(path) for path in files if path.exists()]})
    return listed


def tasks_with_logs(campaign: Campaign, dataset_id: str | None) -> list[Task]:
    """The tasks that handle a data set and have a log; without an id the ones that failed or broke off."""
    progress = Progress(campaign)
    if dataset_id is None:
        return [*progress.failed, *(task for task in progress.open if _broke_off(target_of(campaign, task)))]
    plan, _ = campaign.locate(campaign.collection.position(dataset_id))
    tasks = [task for task in work_of(progress.tasks) if task.shard in (None, plan.index)]
    return [task for task in tasks if campaign.paths.log(task.stage, task.index).exists()]


def _broke_off(target: Path) -> bool:
    """Whether an attempt began that is not done, and whose process does not run on this machine."""
    owner = owner_of(target)
    return was_started(target) and not (owner is not None and owner.is_running())


def cancel_jobs(campaign: Campaign) -> list[int]:
    """Cancel everything of this folder that is in the queue; the ids.

    Whatever ``jobs.jsonl`` says, Slurm must know an id under a name of this folder for it to be cancelled.
    """
    elements = look_or_raise(campaign)
    recorded = adopt(campaign, elements)
    ids = sorted({e.job_id for e in elements if e.live and recorded[e.name].job_id == e.job_id})
    if ids:
        client.cancel(ids)
    return ids


def adopt(campaign: Campaign, elements: Sequence[client.Element]) -> dict[str, SentJob]:
    """This folder's jobs by name; one that was sent without an answer, and is in the queue, has its id recorded now.

    Not one whose name holds no token: another folder may have sent it.
    """
    jobs = {job.name: job for job in own_jobs(campaign)}
    for element in elements:
        if element.live and jobs[element.name].job_id is None and has_token(element.name):
            note_sent(campaign.paths.jobs, element.name, element.job_id)
            jobs[element.name] = replace(jobs[element.name], job_id=element.job_id)
    return jobs


def look_or_raise(campaign: Campaign) -> tuple[client.Element, ...]:
    """``look``, for those who cannot do without an answer. Raises ``UnavailableError``."""
    found = look(campaign)
    if found.problem is not None:
        raise UnavailableError(found.problem)
    return found.elements
