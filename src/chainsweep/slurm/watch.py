"""The state of the queue next to the counts from the files: waiting and running tasks, reasons of ends, and logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.folder import token_in
from chainsweep.errors import CampaignError, UnavailableError
from chainsweep.slurm import client
from chainsweep.slurm.record import SentJob, next_submission, note_sent, own_jobs, sent_jobs
from chainsweep.stages.graph import Task, target_of, work_of
from chainsweep.stages.status import CampaignProgress, campaign_status
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
"""The texts that Slurm and the scripts write into a job's output file, with the kind of end that each means."""
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
    """The elements of this campaign in the queue; ``problem`` is the reason if the queue could not be asked.

    ``unrecorded`` are the ids of waiting or running jobs whose names hold this folder's token and are not recorded:
    ``jobs.jsonl`` was removed, cut or edited. A job that was sent by hand has the name of a recorded one.
    """

    elements: tuple[client.Element, ...] = ()
    problem: str | None = None
    unrecorded: tuple[int, ...] = ()
    jobs: tuple[SentJob, ...] = ()
    """The recorded jobs of this folder, whether or not they are still in the queue."""

    def state_of(self, job: SentJob, task: int) -> client.Element | None:
        """Return the queue's line of the element that handles ``task``."""
        element = job.tasks.index(task) // job.per_element
        return next((e for e in self.elements if e.name == job.name and e.element == element), None)


def look(campaign: Campaign) -> Queue:
    """Ask the queue once for the jobs of this folder; if nothing was ever submitted, the queue is not asked.

    A job belongs to this folder if it has the recorded name and id, or the recorded name while no id is known.
    """
    jobs, token = own_jobs(campaign)
    sent = {job.name: job.job_id for job in jobs}
    if next_submission([], campaign.paths.submissions) == 1 and not sent:
        return Queue()
    try:
        found = client.queue()
    except UnavailableError as error:
        return Queue(problem=str(error), jobs=jobs)
    own = tuple(e for e in found if e.name in sent and sent[e.name] in (None, e.job_id))
    strays = {e.job_id for e in found if e.live and token_in(e.name) == token and e.name not in sent}
    return Queue(own, unrecorded=tuple(sorted(strays)), jobs=jobs)


def full_status(campaign: Campaign, progress: CampaignProgress) -> dict[str, Any]:
    """Return ``campaign_status`` with the queue's state, tasks that run outside it, and tasks that broke off."""
    found = look(campaign)
    content = campaign_status(campaign, progress)
    sent = found.jobs
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
        "asked": bool(sent) or bool(found.unrecorded),
        "problem": found.problem,
        "unrecorded": list(found.unrecorded),
        "elements": len(live),
        "states": {kind: dict(counts) for kind, counts in states.items()},
        "reasons": dict(Counter(element.reason for element in live if element.state == "PENDING")),
    }
    return content


def _unfinished(
    campaign: Campaign, progress: CampaignProgress, sent: Sequence[SentJob], found: Queue
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the tasks outside the queue that began and are not done: those that run, and those that broke off.

    A task runs while the process that began it runs (``here``), such as a worker of ``chainsweep run``. A process of
    another machine cannot be seen: its task counts as running unless a job had it, which the queue would show. A job
    may have ended before it began its task; then only its output file has the reason. While the queue cannot be asked,
    no task counts as broken off, because it may be running.
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
    """Return the log that shows how a task ended; None if the task never began and there is no output file."""
    if was_started(target_of(campaign, task)):
        return campaign.paths.log(task.stage, task.index)
    output = None if last_job is None else last_job.output_of(task.index)
    return output if output is not None and output.exists() else None


def _from_slurm(job: SentJob | None, found: Queue, index: int, kind: Kind) -> dict[str, Any]:
    """Return Slurm's knowledge of a task's last job: its output file, and the kind of end if the task gave none."""
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


def _last_job(sent: Sequence[SentJob], stage: str, index: int) -> SentJob | None:
    """Return the last job that was to do a task."""
    return next((job for job in reversed(sent) if job.stage == stage and index in job.tasks), None)


def sign_in(text: str) -> Kind | None:
    """Return the last end that Slurm announced in an output file; None if there is no such line."""
    places = [(text.rfind(words), kind) for words, kind in SIGNS if words in text]
    return max(places)[1] if places else None


def tail(path: Path) -> str:
    """Return the end of a log; empty if there is no log."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL_BYTES))
            return handle.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def last_lines(path: Path | str, count: int = 5) -> list[str]:
    """Return the last lines of a log that are not blank."""
    return [line for line in tail(Path(path)).splitlines() if line.strip()][-count:]


def logs_of(campaign: Campaign, tasks: list[Task]) -> list[dict[str, Any]]:
    """Return the log files of tasks: their own, and Slurm's of each job that handled them."""
    sent = sent_jobs(campaign.paths.jobs)
    listed = []
    for task in tasks:
        slurm = [job.output_of(task.index) for job in sent if job.stage == task.stage and task.index in job.tasks]
        files = [campaign.paths.log(task.stage, task.index), *(path for path in slurm if path is not None)]
        listed.append({"task": task.label, "files": [str(path) for path in files if path.exists()]})
    return listed


def tasks_with_logs(campaign: Campaign, dataset_id: str | None) -> list[Task]:
    """Return the tasks that handle a data set and have a log; without an id those that failed or broke off."""
    progress = CampaignProgress(campaign)
    if dataset_id is None:
        return [*progress.failed, *(task for task in progress.open if _broke_off(target_of(campaign, task)))]
    plan, _ = campaign.locate(campaign.collection.position(dataset_id))
    tasks = [task for task in work_of(progress.tasks) if task.shard in (None, plan.index)]
    return [task for task in tasks if campaign.paths.log(task.stage, task.index).exists()]


def _broke_off(target: Path) -> bool:
    """Return True if an attempt began, is not done, and its process does not run on this machine."""
    owner = owner_of(target)
    return was_started(target) and not (owner is not None and owner.is_running())


def cancel_jobs(campaign: Campaign) -> list[int]:
    """Cancel all recorded jobs of this folder in the queue, and return their ids.

    A job is cancelled only if Slurm itself lists its id under a name of this folder, whatever ``jobs.jsonl`` says.

    Raises
    ------
    CampaignError
        Jobs of this folder stay in the queue, because ``jobs.jsonl`` does not record them; the others are cancelled.
    UnavailableError
        The queue cannot be asked.
    """
    found = look_or_raise(campaign)
    recorded = adopt(campaign, found)
    ids = sorted({e.job_id for e in found.elements if e.live and recorded[e.name].job_id == e.job_id})
    if ids:
        client.cancel(ids)
    if found.unrecorded:
        done = f"cancelled: {', '.join(map(str, ids))}" if ids else "nothing was cancelled"
        raise CampaignError(f"{told_unrecorded(campaign, found)}; {done}")
    return ids


def told_unrecorded(campaign: Campaign, found: Queue) -> str:
    """Return the sentence that names the jobs of this folder that ``jobs.jsonl`` does not record."""
    numbers = " ".join(map(str, found.unrecorded))
    return (
        f"{campaign.paths.jobs}: does not record all jobs of this folder in the queue ({numbers}), so it was removed, "
        f"cut or edited. Restore it, or take them out yourself: scancel {numbers}"
    )


def adopt(campaign: Campaign, found: Queue) -> dict[str, SentJob]:
    """Return this folder's jobs by name, and record the id of a queued job that was sent without an answer.

    The id of a job whose name holds no token is not recorded, because another folder may have sent it.
    """
    jobs = {job.name: job for job in found.jobs}
    for element in found.elements:
        if element.live and jobs[element.name].job_id is None and token_in(element.name) is not None:
            note_sent(campaign.paths.jobs, element.name, element.job_id)
            jobs[element.name] = replace(jobs[element.name], job_id=element.job_id)
    return jobs


def look_or_raise(campaign: Campaign) -> Queue:
    """Return what ``look`` finds, or raise ``UnavailableError`` if the queue cannot be asked."""
    found = look(campaign)
    if found.problem is not None:
        raise UnavailableError(found.problem)
    return found
