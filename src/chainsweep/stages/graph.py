"""The task graph: simulate -> train -> infer -> merge -> report, and the execution of one task.

A task is done if its published file is there and valid. The same function runs a task inside a Slurm job
(``chainsweep task DIR STAGE INDEX``) and in a worker process of ``chainsweep run``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.base import Deadline
from chainsweep.errors import ChainsweepError, UsageError
from chainsweep.machine.devices import device_faults
from chainsweep.stages.fingerprint import check_density
from chainsweep.stages.networks import is_member, member_path, members_of, needs_training, simulates
from chainsweep.stages.simulate import bank_path, is_simulated, parts_of, simulate
from chainsweep.stages.train import train
from chainsweep.store.shard import ShardError, validate_shard
from chainsweep.tasks.attempt import Report, note_stopped
from chainsweep.tasks.failures import forget_failure
from chainsweep.tasks.provenance import allow_mixed_images, note_image

WORK = ("simulate", "train", "infer")
"""The stages whose tasks each publish a file, and continue where an attempt ended."""
STAGES = (*WORK, "merge", "report")


@dataclass(frozen=True)
class Task:
    """The task of ``chainsweep task DIR stage index``; ``engine`` and ``shard`` say what that index stands for."""

    stage: str
    index: int
    engine: str | None = None
    shard: int | None = None

    def engine_and_shard(self) -> tuple[str, int]:
        """Return engine and shard of an ``infer`` task."""
        if self.engine is None or self.shard is None:
            raise ChainsweepError(f"task '{self.label}' works on no shard")
        return self.engine, self.shard

    @property
    def label(self) -> str:
        """The task's name in messages, such as ``infer nuts 3``; a number 0 is left out except for ``infer``."""
        number = self.shard if self.stage == "infer" else self.index or None
        return " ".join(str(part) for part in (self.stage, self.engine, number) if part is not None)


class Result(enum.Enum):
    """The end of a task; the values are the sentences of the log."""

    DONE = "done"
    ALREADY_DONE = "already done: its published file is valid"
    STOPPED = "stopped early, state saved; run again to continue"
    INCOMPLETE = "done with what is there; shards are missing or failed, see status"


def tasks_of(campaign: Campaign) -> dict[str, list[Task]]:
    """Return the tasks by stage. Indices of ``infer`` count the shards of the first engine, then of the second ..."""
    shards = len(campaign.shards)
    infer = [
        Task("infer", number * shards + shard, engine, shard)
        for number, engine in enumerate(campaign.engines)
        for shard in range(shards)
    ]
    networks = members_of(campaign) if needs_training(campaign) else 0
    train = [Task("train", member, campaign.trainer) for member in range(networks)]
    parts = parts_of(campaign) if simulates(campaign) else 0
    simulate = [Task("simulate", part, campaign.trainer) for part in range(parts)]
    return {
        "simulate": simulate,
        "train": train,
        "infer": infer,
        "merge": [Task("merge", 0)],
        "report": [Task("report", 0)],
    }


def work_of(tasks: Mapping[str, list[Task]]) -> list[Task]:
    """Return the tasks of the stages ``WORK``, in the order in which they can be done."""
    return [task for stage in WORK for task in tasks[stage]]


def find_task(campaign: Campaign, stage: str, index: int) -> Task:
    """Return the task of ``stage`` with this index.

    Raises
    ------
    UsageError
        There is no such stage or index.
    """
    tasks = tasks_of(campaign)
    if stage not in tasks:
        raise UsageError(f"no stage '{stage}'; stages: {', '.join(STAGES)}")
    if not 0 <= index < len(tasks[stage]):
        raise UsageError(
            f"stage '{stage}' of {campaign.paths.root} has {len(tasks[stage])} tasks (0 to "
            f"{len(tasks[stage]) - 1}), got index {index}"
        )
    return tasks[stage][index]


def shard_is_valid(campaign: Campaign, engine: str, shard: int, deep: bool = False) -> bool:
    """Return True if the shard's file is published and valid; ``deep`` verifies its checksum too."""
    plan = campaign.shards[shard]
    ids = [campaign.collection.ids[i] for i in plan.positions.tolist()]
    try:
        validate_shard(
            campaign.paths.shard(engine, shard),
            campaign_hash=campaign.hash,
            engine=engine,
            shard=shard,
            ids=ids,
            deep=deep,
        )
    except ShardError:
        return False
    return True


def target_of(campaign: Campaign, task: Task) -> Path:
    """Return the file whose valid presence means that a task of ``WORK`` is done."""
    if task.stage == "simulate":
        return bank_path(campaign, task.index)
    if task.stage == "train":
        return member_path(campaign, task.index)
    return campaign.paths.shard(*task.engine_and_shard())


def is_done(campaign: Campaign, task: Task) -> bool:
    """Return True if a task's published file is there and valid; False for merge and report, which always run again."""
    if task.stage == "infer":
        return shard_is_valid(campaign, *task.engine_and_shard())
    if task.stage == "train":
        return is_member(campaign, task.index)
    if task.stage == "simulate":
        return is_simulated(campaign, task.index)
    return False


def mix_images(campaign: Campaign) -> None:
    """Allow that files of this campaign, at all its stages, come from different images."""
    allow_mixed_images(target_of(campaign, task) for task in work_of(tasks_of(campaign)))


def run_task(campaign: Campaign, task: Task, report: Report, deadline: Deadline) -> Result:
    """Carry out one task, and publish its file.

    Raises
    ------
    CampaignError
        The campaign or the model's density changed since it was frozen, or its image since the first task.
    StoppedEarly
        A file that the task depends on is not there yet.
    UnavailableError
        The GPU is full or has failed.
    """
    campaign.verify()
    if is_done(campaign, task):
        return Result.ALREADY_DONE
    if task.stage in WORK:
        note_image(target_of(campaign, task))
    with device_faults():
        if task.stage in WORK:
            check_density(campaign, None if task.shard is None else campaign.shards[task.shard].width)
        result = _STAGE_FUNCTIONS[task.stage](campaign, task, report, deadline)
    if result is Result.DONE and task.stage in WORK:
        forget_failure(target_of(campaign, task))
    if result is Result.STOPPED and task.stage in WORK:
        note_stopped(target_of(campaign, task))
    return result


def _simulate(campaign: Campaign, task: Task, report: Report, deadline: Deadline) -> Result:
    return Result.DONE if simulate(campaign, task.index, report, deadline) else Result.STOPPED


def _train(campaign: Campaign, task: Task, report: Report, deadline: Deadline) -> Result:
    return Result.DONE if train(campaign, task.index, report, deadline) else Result.STOPPED


def _infer(campaign: Campaign, task: Task, report: Report, deadline: Deadline) -> Result:
    from chainsweep.stages.infer import infer

    return Result.DONE if infer(campaign, *task.engine_and_shard(), report, deadline) else Result.STOPPED


def _merge(campaign: Campaign, task: Task, report: Report, deadline: Deadline) -> Result:
    from chainsweep.stages.merge import merge_campaign, merge_shortfall

    shortfall = merge_shortfall(merge_campaign(campaign))
    report(1, 1, shortfall or "")
    return Result.DONE if shortfall is None else Result.INCOMPLETE


def _report(campaign: Campaign, task: Task, report: Report, deadline: Deadline) -> Result:
    from chainsweep.stages.report import make_report

    make_report(campaign)
    report(1, 1, "")
    return Result.DONE


_STAGE_FUNCTIONS: dict[str, Callable[[Campaign, Task, Report, Deadline], Result]] = {
    "simulate": _simulate,
    "train": _train,
    "infer": _infer,
    "merge": _merge,
    "report": _report,
}
