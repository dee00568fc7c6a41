"""The jobs of a submission: arrays over the missing tasks, split and packed to fit the cluster's limits.

No process keeps running to feed the queue. If the tasks are more than the elements that the queue takes, each array
element handles several tasks, one after another, and work that its walltime cuts off continues in its next attempt. So
all jobs are submitted at once, with dependencies, and never more than the queue takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ConfigError, UnavailableError
from chainsweep.forecast.pilot import Spread
from chainsweep.publish import write_below
from chainsweep.slurm.job import STAGE_OF, Job, is_array
from chainsweep.slurm.site import Site
from chainsweep.stages.graph import WORK, Task

BEFORE = {"train": "simulate", **{name: "train" for name, engine in ENGINES.items() if engine.trains}}
"""The kinds of jobs that wait for another kind."""
SINGLE_JOBS = 3
"""The number of places in the queue that are kept for training, merge and report."""
QUEUE_SHARE = 0.5
"""The share of the cluster's MaxJobCount, which all its users share, that one submission may fill."""


@dataclass(frozen=True)
class Limits:
    """The limits of the cluster: indices of an array stay below ``max_array_size``; the queue takes ``max_jobs``."""

    max_array_size: int
    max_jobs: int


@dataclass(frozen=True)
class SubmissionOrder:
    """The request for a submission: its ``number``, the ``missing`` tasks by kind, the elements ``queued`` already."""

    number: int
    token: str
    """The token of the folder, which the names of its jobs hold."""
    missing: Mapping[str, Sequence[Task]]
    spread: Spread
    """The work that MPI ranks share."""
    queued: int = 0
    finish: bool = True
    """True where merge and report follow."""


def plan_jobs(campaign: Campaign, site: Site, limits: Limits, order: SubmissionOrder) -> tuple[Job, ...]:
    """Return the jobs of one submission, in the order in which they are sent.

    Raises
    ------
    ConfigError
        The site's settings contradict each other.
    UnavailableError
        The queue has no room for even one element of each kind.
    """
    maker = _Maker(campaign, site, order)
    missing = {kind: tasks for kind, tasks in order.missing.items() if tasks}
    arrays = {kind: tasks for kind, tasks in missing.items() if is_array(STAGE_OF[kind], len(tasks))}
    per_element = _packed(site, limits, order, arrays)
    largest = min(limits.max_array_size, site.max_array_size or limits.max_array_size)
    jobs: list[Job] = []
    for kind, tasks in missing.items():
        if STAGE_OF[kind] not in WORK:
            continue
        after = tuple(job.name for job in jobs if job.kind == BEFORE.get(kind))
        step = largest * per_element.get(kind, 1)
        for part, start in enumerate(range(0, len(tasks), step)):
            jobs.append(maker.job(kind, part, tasks[start : start + step], per_element.get(kind, 1), after))
    if order.finish:
        jobs.append(maker.job("merge", 0, order.missing["merge"], 1, tuple(job.name for job in jobs)))
        jobs.append(maker.job("report", 0, order.missing["report"], 1, (jobs[-1].name,)))
    return tuple(jobs)


@dataclass(frozen=True)
class _Maker:
    campaign: Campaign
    site: Site
    order: SubmissionOrder

    def job(self, kind: str, part: int, tasks: Sequence[Task], per_element: int, after: tuple[str, ...]) -> Job:
        settings = self.site.job_settings(kind)
        if self.site.signal_lead_s >= settings.walltime_min * 60:
            raise ConfigError(
                f"site {self.site.name}: signal_lead_s = {self.site.signal_lead_s} leaves a {kind} job of "
                f"{settings.walltime_min} min no time to work; lower it, or raise walltime_min"
            )
        ranks, form, why = 1, "", ""
        if shares_ranks(kind):
            form, why = self.order.spread
            ranks = settings.ranks if form == "walkers" else min(settings.ranks, per_element, len(tasks))
        return Job(
            name=f"cs-{self.campaign.hash[:10]}-{self.order.token}-{self.order.number}-{kind}-{part}",
            kind=kind,
            part=part,
            tasks=tuple(task.index for task in tasks),
            per_element=per_element,
            ranks=ranks,
            form=form,
            gpu=self.site.uses_gpu(kind),
            after=after,
            folder=self.campaign.paths.submission(self.order.number),
            logs=self.campaign.paths.logs,
            why=why,
        )


def shares_ranks(kind: str) -> bool:
    """Return True if the MPI ranks of a job of this kind share its work."""
    return kind in ENGINES and ENGINES[kind].shares_ranks


def tasks_per_element(site: Site, kind: str, form: str) -> int:
    """Return the tasks of one array element if the queue has room: as the site says, else one, or one per rank."""
    settings = site.job_settings(kind)
    if settings.tasks_per_element is not None:
        return settings.tasks_per_element
    return settings.ranks if shares_ranks(kind) and form == "datasets" else 1


def _packed(site: Site, limits: Limits, order: SubmissionOrder, arrays: Mapping[str, Sequence[Task]]) -> dict[str, int]:
    """Return the tasks per array element of each kind, raised evenly until all elements fit into the queue."""
    room = min(site.max_submitted or limits.max_jobs, max(int(limits.max_jobs * QUEUE_SHARE), SINGLE_JOBS + 1))
    room -= SINGLE_JOBS + order.queued
    if arrays and room < len(arrays):
        raise UnavailableError(
            f"the queue has no room: {order.queued} elements of this campaign are in it, and the site takes "
            f"{site.max_submitted or limits.max_jobs}; submit again when some have ended"
        )
    packed = {kind: tasks_per_element(site, kind, order.spread.form) for kind in arrays}
    while sum(math.ceil(len(tasks) / packed[kind]) for kind, tasks in arrays.items()) > room:
        most = max(arrays, key=lambda kind: math.ceil(len(arrays[kind]) / packed[kind]))
        elements = math.ceil(len(arrays[most]) / packed[most])
        packed[most] = math.ceil(len(arrays[most]) / max(1, min(elements - 1, math.ceil(elements * 0.9))))
    return packed


def command(job: Job, ids: Mapping[str, str], also_after: Sequence[int] = ()) -> list[str]:
    """Return the sbatch command of ``job``; ``ids`` gives the job id (or its placeholder) of each name in ``after``."""
    after = [str(number) for number in also_after] + [ids[name] for name in job.after]
    dependency = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    return ["sbatch", "--parsable", *dependency, str(job.script)]


def write_scripts(root: Path, jobs: Sequence[Job], texts: Sequence[str]) -> None:
    """Write the scripts of a submission into its folder below ``root``, without following links."""
    for job, text in zip(jobs, texts, strict=True):
        write_below(root, job.script, text.encode(), mode=0o755)
