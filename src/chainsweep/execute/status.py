"""What is done, counted from the published files alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from chainsweep.campaign import Campaign
from chainsweep.diagnostics.verdict import Verdict
from chainsweep.execute.tasks import is_done, tasks_of
from chainsweep.store.shard import read_summary


def campaign_status(campaign: Campaign) -> dict[str, Any]:
    """The content of ``chainsweep status --json``; what has no valid shard yet is ``pending``."""
    tasks = tasks_of(campaign)
    done = {task for stage in ("train", "infer") for task in tasks[stage] if is_done(campaign, task)}
    engines: dict[str, Counter[str]] = {
        engine: Counter({str(verdict): 0 for verdict in Verdict} | {"pending": 0}) for engine in campaign.engines
    }
    for task in tasks["infer"]:
        engine, shard = task.block()
        if task not in done:
            engines[engine]["pending"] += campaign.shards[shard].positions.size
            continue
        summary = read_summary(campaign.paths.shard(engine, shard), ["verdict"])
        engines[engine].update(str(verdict) for verdict in summary["verdict"])
    finished = {
        "merge": campaign.paths.catalogue.exists(),
        "report": (campaign.paths.report / "index.html").exists(),
    }
    counts = {
        stage: {
            "total": len(listed),
            "done": int(finished[stage]) if stage in finished else sum(task in done for task in listed),
        }
        for stage, listed in tasks.items()
    }
    return {
        "campaign": campaign.name,
        "datasets": len(campaign.collection.ids),
        "quarantined": campaign.quarantined,
        "engines": {engine: {k: int(v) for k, v in count.items()} for engine, count in engines.items()},
        "tasks": counts,
    }
