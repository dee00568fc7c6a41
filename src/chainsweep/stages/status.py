"""The state of a campaign, counted from the published files alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from chainsweep.campaign.aside import set_aside
from chainsweep.campaign.campaign import Campaign
from chainsweep.stages.graph import Task, is_done, target_of, tasks_of, work_of
from chainsweep.store.shard import read_summary
from chainsweep.tasks.failures import CAUSES, Failure, read_failure
from chainsweep.verdicts.causes import Cause
from chainsweep.verdicts.rules import PENDING, Verdict


class CampaignProgress:
    """The verdicts and failures of a campaign, read from its files; ``update`` skips tasks that were done before."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.tasks = tasks_of(campaign)
        self.aside = len(set_aside(campaign))
        self.done: dict[Task, Counter[str]] = {}
        self.caused: dict[Task, Counter[str]] = {}
        self.failed: dict[Task, Failure] = {}
        self.update()

    @property
    def open(self) -> list[Task]:
        """The tasks of simulation, training and inference that are neither done nor failed."""
        listed = work_of(self.tasks)
        return [task for task in listed if task not in self.done and task not in self.failed]

    def update(self) -> None:
        """Read again the files of every task that was not done."""
        self.failed = {}
        for task in work_of(self.tasks):
            if task in self.done:
                continue
            if is_done(self.campaign, task):
                self.done[task], self.caused[task] = self._counts(task)
            elif (failure := read_failure(target_of(self.campaign, task))) is not None:
                self.failed[task] = failure

    def _counts(self, task: Task) -> tuple[Counter[str], Counter[str]]:
        """Count the verdicts and the causes of a published shard; one of an earlier version has no causes."""
        if task.stage != "infer":
            return Counter(), Counter()
        summary = read_summary(self.campaign.paths.shard(*task.engine_and_shard()), ["verdict", "cause"])
        causes = [str(cause) for cause in summary.get("cause", []) if cause]
        return Counter(str(verdict) for verdict in summary["verdict"]), Counter(causes)

    def engines(self) -> dict[str, dict[str, int]]:
        """Return the number of data sets by engine and verdict, as in the catalogue.

        Data sets that ``init`` set aside are ``bad_data``, those of a failed task are ``failed``, and those of an open
        task are ``pending``.
        """
        none = {str(verdict): 0 for verdict in Verdict} | {PENDING: 0} | {str(Verdict.BAD_DATA): self.aside}
        counts: dict[str, Counter[str]] = {engine: Counter(none) for engine in self.campaign.engines}
        for task in self.tasks["infer"]:
            engine, shard = task.engine_and_shard()
            if task in self.done:
                counts[engine].update(self.done[task])
            else:
                size = self.campaign.shards[shard].positions.size
                counts[engine][str(Verdict.FAILED) if task in self.failed else PENDING] += size
        return {engine: {name: int(n) for name, n in count.items()} for engine, count in counts.items()}

    def causes(self) -> dict[str, dict[str, int]]:
        """Return the number of data sets by engine and cause, most fundamental cause first; without those of none."""
        counts: dict[str, Counter[str]] = {
            engine: Counter({str(Cause.BAD_DATA): self.aside}) for engine in self.campaign.engines
        }
        for task in self.tasks["infer"]:
            engine, shard = task.engine_and_shard()
            counts[engine].update(self.caused.get(task, Counter()))
            if task in self.failed:
                counts[engine][str(CAUSES[self.failed[task].kind])] += self.campaign.shards[shard].positions.size
        return {
            engine: {str(cause): int(count[cause]) for cause in Cause if count[cause]}
            for engine, count in counts.items()
        }

    def stages(self) -> dict[str, dict[str, int]]:
        """Return for each stage the numbers of all tasks, of done tasks and of failed tasks."""
        paths = self.campaign.paths
        finished = {"merge": paths.catalogue.exists(), "report": paths.report_page.exists()}
        return {
            stage: {
                "total": len(listed),
                "done": int(finished[stage]) if stage in finished else sum(task in self.done for task in listed),
                "failed": sum(task in self.failed for task in listed),
            }
            for stage, listed in self.tasks.items()
        }


def campaign_status(campaign: Campaign, progress: CampaignProgress | None = None) -> dict[str, Any]:
    """Return the part of ``chainsweep status --json`` that files decide; without a valid shard it is ``pending``."""
    progress = progress if progress is not None else CampaignProgress(campaign)
    return {
        "campaign": campaign.name,
        "datasets": len(campaign.collection.ids),
        "quarantined": campaign.quarantined,
        "engines": progress.engines(),
        "causes": progress.causes(),
        "tasks": progress.stages(),
        "failed_tasks": [
            {"task": task.label, "stage": task.stage, "index": task.index, "kind": str(failure.kind)}
            | {"reason": failure.reason, "at": failure.at, "log": str(campaign.paths.log(task.stage, task.index))}
            for task, failure in progress.failed.items()
        ],
    }
