"""What a submission will cost: from the data sets that are done, or from a pilot, with the spread of that guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainsweep.campaign import Campaign
from chainsweep.execute.pilot import Timing, read_pilot
from chainsweep.site import Site
from chainsweep.slurm.job import Job
from chainsweep.store.shard import ShardError, read_summary

MAX_SHARDS_READ = 64
MOST_LIKELY = 1.645
"""Standard errors on both sides that hold 90 % of a normal distribution."""


def predict_cost(campaign: Campaign, site: Site, jobs: Sequence[Job]) -> dict[str, Any]:
    """Core- and GPU-hours by kind of job; ``hours`` is the work of one rank, null where nothing is known yet.

    ``low`` and ``high`` hold it with 90 % probability, as far as the data sets timed stand for the others.
    """
    kinds = dict.fromkeys(job.kind for job in jobs if job.requeues)
    pilot = read_pilot(campaign)
    content: dict[str, Any] = {}
    for kind in kinds:
        own = [job for job in jobs if job.kind == kind]
        timing = _published(campaign, kind) or pilot.get(kind)
        content[kind] = _entry(campaign, site, kind, own, timing)
    known = [entry for entry in content.values() if entry["hours"] is not None]
    total = {what: sum(entry[what] for entry in known) for what in ("core_hours", "gpu_hours")}
    return {"jobs": content, "total": total, "complete": len(known) == len(content)}


def _entry(campaign: Campaign, site: Site, kind: str, jobs: Sequence[Job], timing: Timing | None) -> dict[str, Any]:
    units = _units(campaign, kind, jobs)
    if timing is None:
        empty = dict.fromkeys(("hours", "low", "high", "core_hours", "gpu_hours"))
        return {"units": units, **empty, "basis": "nothing timed yet: plan --pilot N"}
    seconds = np.asarray(timing.seconds)
    setup = timing.setup_s * sum(len(job.tasks) if kind != "train" else 1 for job in jobs)
    error = seconds.std(ddof=1) / np.sqrt(seconds.size) if seconds.size > 1 else seconds.mean()
    hours, low, high = (
        (setup + units * max(seconds.mean() + shift * MOST_LIKELY * error, 0.0)) / 3600 for shift in (0, -1, 1)
    )
    settings = site.job_settings(kind)
    basis = f"{timing.units} {'steps' if kind == 'train' else 'data sets'} on {timing.where}"
    return {
        "units": units,
        "hours": float(hours),
        "low": float(low),
        "high": float(high),
        "core_hours": float(hours) * settings.cpus,
        "gpu_hours": float(hours) if site.uses_gpu(kind) else 0.0,
        "basis": f"{basis} ({timing.note})" if timing.note else basis,
    }


def _units(campaign: Campaign, kind: str, jobs: Sequence[Job]) -> int:
    """Data sets of the jobs' tasks; steps where it is training."""
    if kind == "train":
        return campaign.config.engines.snpe.train_steps
    count = len(campaign.shards)
    return sum(int(campaign.shards[task % count].positions.size) for job in jobs for task in job.tasks)


def _published(campaign: Campaign, engine: str) -> Timing | None:
    """Seconds of the data sets that this engine has done in this campaign."""
    seconds: list[NDArray] = []
    for plan in campaign.shards:
        if len(seconds) == MAX_SHARDS_READ:
            break
        path = campaign.paths.shard(engine, plan.index)
        if path.exists():
            try:
                seconds.append(np.asarray(read_summary(path, ["seconds"])["seconds"], float))
            except ShardError:
                continue  # a damaged file is a matter of the task that will replace it
    known = np.concatenate(seconds) if seconds else np.empty(0)
    known = known[np.isfinite(known)]
    return Timing(0.0, tuple(known.tolist()), known.size, "whatever did them") if known.size else None
