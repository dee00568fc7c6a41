"""The work of ``plan`` and ``submit``: missing tasks that are not queued become arrays that depend on each other."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.folder import identity_of, keep
from chainsweep.errors import CampaignError, UnavailableError, UsageError
from chainsweep.forecast.pilot import Spread, spread_of
from chainsweep.publish import check_below, write_below
from chainsweep.run.requeue import forgive
from chainsweep.slurm import client
from chainsweep.slurm.image import ABSENT, Image, images_of, read_remembered, remember
from chainsweep.slurm.job import STAGE_OF, Job
from chainsweep.slurm.plan import BEFORE, Limits, SubmissionOrder, command, plan_jobs, shares_ranks, write_scripts
from chainsweep.slurm.record import SentJob, next_submission, note_refused, note_sending, note_sent, sent_jobs
from chainsweep.slurm.render import render
from chainsweep.slurm.site import Site
from chainsweep.slurm.watch import Queue, adopt, look_or_raise, told_unrecorded
from chainsweep.stages.graph import WORK, Task, is_done, target_of, tasks_of, work_of
from chainsweep.tasks.failures import read_failure
from chainsweep.tasks.provenance import NO_IMAGE, check_image

DEFAULT_LIMITS = Limits(max_array_size=1001, max_jobs=10_000)
"""Slurm's own defaults."""
LOOKUPS = 5
LOOKUP_PAUSE_S = 2.0
"""The number of searches of the queue for a job whose sbatch gave no answer, and the seconds between them."""


@dataclass(frozen=True)
class Selection:
    """The tasks that a submission is about: those of ``engines``, and with ``only_failed`` only those that failed."""

    engines: tuple[str, ...]
    only_failed: bool = False


@dataclass(frozen=True)
class Queued:
    """The part of this campaign in the queue: live jobs by name, the number of their elements, and their tasks."""

    jobs: dict[str, SentJob] = field(default_factory=dict)
    elements: int = 0
    tasks: frozenset[tuple[str, int]] = frozenset()

    @property
    def ids(self) -> list[int]:
        """The ids of the live jobs."""
        return sorted(job.job_id for job in self.jobs.values() if job.job_id is not None)


@dataclass(frozen=True)
class Submission:
    """A planned submission: its jobs and scripts, and the part of the campaign that is in the queue already."""

    number: int
    jobs: tuple[Job, ...]
    scripts: tuple[str, ...]
    queued: Queued
    images: tuple[Image, ...] = ()
    unreached: str | None = None
    """The reason why the cluster could not be asked for its limits and queue; None if it could."""

    @property
    def absent_images(self) -> list[str]:
        """The images that the site names and that are missing here, so that a submit would be refused."""
        return sorted({str(image.path) for image in self.images if image.sha256 == ABSENT})

    def commands(self) -> list[list[str]]:
        """Return the sbatch commands, with ``$name`` for the id of an earlier job."""
        ids = {job.name: f"${job.variable}" for job in self.jobs}
        return [command(job, ids, self.waits(job)) for job in self.jobs]

    def waits(self, job: Job) -> tuple[int, ...]:
        """Return the ids of earlier jobs that ``job`` waits for: merging waits for all that may still publish."""
        if job.kind == "merge":
            return tuple(self.queued.ids)
        before = BEFORE.get(job.kind)
        sent = self.queued.jobs.values()
        return tuple(one.job_id for one in sent if one.kind == before and one.job_id is not None)


def plan_submission(campaign: Campaign, site: Site, chosen: Selection) -> Submission:
    """Return the submission that a submit would make now; nothing is written and nothing is sent.

    If no cluster can be reached, the limits are Slurm's defaults, no job counts as queued, and ``unreached`` gives the
    reason. Images may be missing here; ``absent_images`` names these.
    """
    try:
        limits, queued = client.limits(), queued_jobs(campaign, look_or_raise(campaign))
    except UnavailableError as error:
        return replace(_prepare(campaign, site, chosen, DEFAULT_LIMITS, Queued(), True), unreached=str(error))
    return _prepare(campaign, site, chosen, limits, queued, True)


def submit_campaign(campaign: Campaign, site: Site, chosen: Selection) -> tuple[Submission, dict[str, int]]:
    """Send the missing tasks that are not queued; return the submission and its job ids by name.

    Raises
    ------
    UnavailableError
        Slurm cannot be reached, refuses a job, or gives no answer.
    CampaignError
        The queue has jobs of this folder that ``jobs.jsonl`` does not record.
    UsageError
        Another submit of this campaign is running.
    """
    with submission_lock(campaign):
        limits = client.limits()
        queued = queued_jobs(campaign, look_or_raise(campaign))
        submission = _prepare(campaign, site, chosen, limits, queued)
        return submission, send(campaign, site, submission)


def queued_jobs(campaign: Campaign, found: Queue) -> Queued:
    """Match the queue with ``jobs.jsonl``; a job that was sent without an answer is found by its name.

    Raises
    ------
    CampaignError
        The queue has jobs of this folder that ``jobs.jsonl`` does not record: nothing says which tasks they do.
    """
    if found.unrecorded:
        raise CampaignError(f"{told_unrecorded(campaign, found)}; nothing was submitted, for no task may run twice")
    elements, sent = found.elements, adopt(campaign, found)
    live: dict[str, SentJob] = {}
    tasks: set[tuple[str, int]] = set()
    count = 0
    for element in elements:
        job = sent[element.name]
        if not element.live or job.job_id not in (None, element.job_id):
            continue
        live[job.name] = job = replace(job, job_id=element.job_id)
        count += 1
        tasks.update((job.stage, task) for task in job.tasks_of(element.element))
    return Queued(live, count, frozenset(tasks))


def _prepare(
    campaign: Campaign, site: Site, chosen: Selection, limits: Limits, queued: Queued, absent_too: bool = False
) -> Submission:
    missing = missing_tasks(campaign, chosen, queued)
    several = [kind for kind in missing if shares_ranks(kind) and missing[kind] and site.job_settings(kind).ranks > 1]
    spread = spread_of(campaign, several[0]) if several else Spread("datasets", "")
    number = next_submission(sent_jobs(campaign.paths.jobs), campaign.paths.submissions)
    finish = any(missing[kind] for kind in missing if STAGE_OF[kind] in WORK) or (
        not any(job.kind in ("merge", "report") for job in queued.jobs.values()) and not _is_finished(campaign)
    )
    identity = identity_of(campaign.paths.root, number - 1)
    order = SubmissionOrder(number, identity.token, missing, spread, queued.elements, finish)
    jobs = plan_jobs(campaign, site, limits, order)
    remembered = read_remembered(campaign.paths.images)
    images = images_of(site, dict.fromkeys(job.kind for job in jobs), remembered, absent_too)
    for job in jobs:
        image = images[job.kind].sha256 if job.kind in images else NO_IMAGE
        if job.requeues and image != ABSENT:
            check_image(target_of(campaign, missing[job.kind][0]), image)
    scripts = tuple(render(job, campaign, site, images.get(job.kind)) for job in jobs)
    return Submission(number, jobs, scripts, queued, tuple(images.values()))


def missing_tasks(campaign: Campaign, chosen: Selection, queued: Queued) -> dict[str, list[Task]]:
    """Return the tasks, by kind of job, that are neither done nor queued."""
    tasks = tasks_of(campaign)
    missing: dict[str, list[Task]] = {"simulate": [], "train": [], **{engine: [] for engine in campaign.engines}}
    for task in work_of(tasks):
        if task.engine not in chosen.engines or (task.stage, task.index) in queued.tasks:
            continue
        if chosen.only_failed and read_failure(target_of(campaign, task)) is None:
            continue
        if not is_done(campaign, task):
            missing[str(task.engine) if task.stage == "infer" else task.stage].append(task)
    return missing | {"merge": tasks["merge"], "report": tasks["report"]}


def _is_finished(campaign: Campaign) -> bool:
    """Return True if catalogue and report are newer than every published shard."""
    page = campaign.paths.report_page
    if not (campaign.paths.catalogue.exists() and page.exists()):
        return False
    shards = [campaign.paths.shard(*task.engine_and_shard()) for task in tasks_of(campaign)["infer"]]
    newest = max((path.stat().st_mtime for path in shards if path.exists()), default=0.0)
    return newest <= campaign.paths.catalogue.stat().st_mtime <= page.stat().st_mtime


def send(campaign: Campaign, site: Site, submission: Submission) -> dict[str, int]:
    """Write the scripts and submit them in order; return the job ids by name.

    Raises
    ------
    UnavailableError
        Slurm refused a job or gave no answer. Sent jobs stay recorded; a second submit continues from there.
    """
    if not submission.jobs:
        return {}
    paths = campaign.paths
    keep(paths.root, identity_of(paths.root, submission.number - 1))
    paths.logs.mkdir(exist_ok=True)
    remember(paths.images, submission.images)
    write_scripts(paths.root, submission.jobs, submission.scripts)
    for job in submission.jobs:
        if job.why:
            write_below(paths.root, paths.ranks, (json.dumps({"share": job.form, "why": job.why}) + "\n").encode())
    tasks = tasks_of(campaign)
    ids: dict[str, int] = {}
    for job in submission.jobs:
        if job.requeues:
            for index in job.tasks:
                forgive(target_of(campaign, tasks[job.stage][index]))
        known = {name: str(number) for name, number in ids.items()}
        line = command(job, known, submission.waits(job))
        note_sending(paths.jobs, job, submission.number)
        try:
            ids[job.name] = _send_once(line, job.name, site.sbatch_timeout_s)
        except client.NoAnswer:
            raise
        except UnavailableError as error:
            note_refused(paths.jobs, job.name, str(error))
            raise UnavailableError(
                f"{error}\n{len(ids)} of {len(submission.jobs)} jobs were sent ({job.file} was not). If the queue is "
                "full, set max_submitted in the site file; then submit again: only what is missing is sent"
            ) from error
        note_sent(paths.jobs, job.name, ids[job.name])
    return ids


def _send_once(line: Sequence[str], name: str, timeout_s: float) -> int:
    """Run sbatch; if it does not answer, look the job up by its unique name instead of sending it again."""
    try:
        return client.sbatch(line, timeout_s)
    except client.NoAnswer as error:
        for _ in range(LOOKUPS):
            found = client.queue([name])
            if found:
                return found[0].job_id
            time.sleep(LOOKUP_PAUSE_S)
        raise client.NoAnswer(
            f"{error}, and the queue knows no job {name} yet. It may still have been accepted: submit again in a "
            "minute; jobs that turn up until then are recognised by name and not sent twice"
        ) from error


@contextmanager
def submission_lock(campaign: Campaign) -> Iterator[None]:
    """Hold the lock that allows only one submit at a time; a lock of a dead process of this machine is taken over.

    Raises
    ------
    CampaignError
        The files of a submit would be written through a link.
    UsageError
        Another submit is running.
    """
    path = campaign.paths.submit_lock
    for each in (path, campaign.paths.images, campaign.paths.jobs):
        check_below(campaign.paths.root, each)
    path.parent.mkdir(exist_ok=True)
    mine = f"{socket.gethostname()} {os.getpid()}"
    try:
        _create(path, mine)
    except FileExistsError:
        holder = path.read_text(encoding="utf-8")
        host, _, process = holder.partition(" ")
        if host != socket.gethostname() or not process.isdigit() or Path(f"/proc/{process}").exists():
            raise UsageError(
                f"{path}: another submit holds it (host and process: {holder}); wait for it, "
                "or remove the file if that process is gone"
            ) from None
        path.unlink()
        _create(path, mine)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o644)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)


def describe(submission: Submission, ids: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the submission as plain values, for ``--json``; ``ids`` are given once it is sent."""
    return {
        "submission": submission.number,
        "jobs": [
            {
                "name": job.name,
                "kind": job.kind,
                "stage": job.stage,
                "tasks": len(job.tasks),
                "elements": job.elements,
                "tasks_per_element": job.per_element,
                "ranks": job.ranks,
                "share": job.form or None,
                "why": job.why or None,
                "array": f"0-{job.elements - 1}" if job.is_array else None,
                "after": list(job.after),
                "script": str(job.script),
                "command": line,
                "text": text,
                "job_id": None if ids is None else ids.get(job.name),
            }
            for job, line, text in zip(submission.jobs, submission.commands(), submission.scripts, strict=True)
        ],
        "unreached": submission.unreached,
        "absent_images": submission.absent_images,
        "queued": {"jobs": submission.queued.ids, "elements": submission.queued.elements},
    }
