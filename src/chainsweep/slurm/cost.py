"""The predicted cost of a submission, from the data sets that are done or from a pilot, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from chainsweep.campaign.campaign import Campaign
from chainsweep.forecast.pilot import Timing, read_pilot
from chainsweep.slurm.job import Job
from chainsweep.slurm.site import Site
from chainsweep.stages.networks import own_settings
from chainsweep.store.shard import ShardError, read_summary

MAX_SHARDS_READ = 64
UPPER = 0.95
"""The probability below the upper end of the range, and above its lower end."""
CLOCK_ERROR = 0.05
"""The least relative standard error of repeated timings of one program."""
SETUP_ERROR = 0.3
"""The relative difference of the start of a process from the one that was timed, because of disks and other users."""
UNKNOWN = dict.fromkeys(("hours", "low", "high", "core_hours", "gpu_hours", "element_hours", "walltime_hours"))


def predict_cost(campaign: Campaign, site: Site, jobs: Sequence[Job]) -> dict[str, Any]:
    """Predict core- and GPU-hours by kind of job, null where nothing is known; merge and report are not counted.

    ``hours`` is the work of all ranks; ``low`` and ``high`` hold it with 90 % probability, as far as the data sets
    timed stand for the others, and are null where only one was timed. ``element_hours`` is how long the first array
    element (or the single job) runs, against the ``walltime_hours`` that the site gives it. ``total`` is of the kinds
    that are known, ``complete`` when all are.
    """
    kinds = dict.fromkeys(job.kind for job in jobs if job.requeues)
    pilot = read_pilot(campaign)
    content: dict[str, Any] = {}
    for kind in kinds:
        work = _Work(campaign, site, kind, [job for job in jobs if job.kind == kind])
        # times of data sets whose walkers were on several ranks do not give one rank's work
        published = None if work.over_walkers else _published(campaign, kind)
        timing = published or pilot.get(kind)
        content[kind] = {"units": work.units} | (work.entry(timing) if timing else _unknown())
    known = [entry for entry in content.values() if entry["hours"] is not None]
    total = {what: sum(entry[what] for entry in known) if known else None for what in ("core_hours", "gpu_hours")}
    return {"jobs": content, "total": total, "complete": len(known) == len(content)}


def _unknown() -> dict[str, Any]:
    return UNKNOWN | {"basis": "not timed: plan --pilot N", "where": None, "note": ""}


@dataclass(frozen=True)
class _Work:
    """The jobs of one kind."""

    campaign: Campaign
    site: Site
    kind: str
    jobs: Sequence[Job]

    @property
    def over_walkers(self) -> bool:
        """True where the ranks of an element share the walkers of one data set after another."""
        return any(job.form == "walkers" and job.ranks > 1 for job in self.jobs)

    @property
    def units(self) -> int:
        """The number of data sets of the jobs' tasks; of steps for training, of simulations for simulating."""
        return sum(self._sizes(job.tasks) for job in self.jobs)

    @property
    def _tasks(self) -> int:
        return sum(len(job.tasks) for job in self.jobs)

    def _sizes(self, tasks: Sequence[int]) -> int:
        if self.kind == "train":
            return len(tasks) * own_settings(self.campaign).train_steps
        if self.kind == "simulate":
            own = own_settings(self.campaign)
            whole = own.tuning.simulations_per_task
            return sum(min(whole, own.bank_simulations - task * whole) for task in tasks)
        count = len(self.campaign.shards)
        return sum(int(self.campaign.shards[task % count].positions.size) for task in tasks)

    def entry(self, timing: Timing) -> dict[str, Any]:
        """Return the forecast from ``timing``."""
        seconds = np.asarray(timing.seconds)
        mean, error = float(seconds.mean()), _mean_error(seconds, self.units)
        hours, low, high = self._hours(timing.setup_s, mean), None, None
        if error is not None:
            low = self._hours(timing.setup_s * (1 - SETUP_ERROR), max(mean - error, 0.0))
            high = self._hours(timing.setup_s * (1 + SETUP_ERROR), mean + error)
        settings = self.site.job_settings(self.kind)
        return {
            "hours": hours,
            "low": low,
            "high": high,
            "core_hours": hours * settings.cpus,
            "gpu_hours": hours if self.site.uses_gpu(self.kind) else 0.0,
            "element_hours": max(self._element_hours(job, timing.setup_s, mean) for job in self.jobs),
            "walltime_hours": settings.walltime_min / 60,
            "basis": _basis(self.kind, timing),
            "where": timing.where or None,
            "note": "; ".join(part for part in (timing.note, self._device_note(timing)) if part),
        }

    def _hours(self, setup_s: float, unit_s: float) -> float:
        """Return the hours of all ranks: each process starts once, each data set is done once."""
        if self.over_walkers:
            return sum(self._element_hours(job, setup_s, unit_s, whole=True) * job.ranks for job in self.jobs)
        if self.kind == "train":
            return self._tasks * self._training_hours(setup_s, unit_s)
        processes = sum(min(len(job.tasks), job.elements * job.ranks) for job in self.jobs)
        return (setup_s * processes + self.units * unit_s) / 3600

    def _training_hours(self, setup_s: float, step_s: float) -> float:
        own = own_settings(self.campaign)
        minutes, steps = own.train_minutes, own.train_steps * step_s / 3600
        return setup_s / 3600 + (steps if minutes is None else min(steps, minutes / 60))

    def _element_hours(self, job: Job, setup_s: float, unit_s: float, whole: bool = False) -> float:
        """Return the hours of the first element of ``job``, one of the longest; if ``whole``, of all in sequence."""
        if self.kind == "train":
            return self._training_hours(setup_s, unit_s)
        elements = job.elements if whole else 1
        tasks = job.tasks if whole else job.tasks[: job.per_element]
        # with shared walkers, rank 0 only hands out work; with shared data sets, the busiest rank decides
        helpers = max(job.ranks - 1, 1) if self.over_walkers else len(tasks) / math.ceil(len(tasks) / job.ranks)
        return (setup_s * elements + self._sizes(tasks) * unit_s / helpers) / 3600

    def _device_note(self, timing: Timing) -> str:
        return "will differ on a GPU" if self.site.uses_gpu(self.kind) and "no GPU" in timing.where else ""


def _mean_error(seconds: NDArray, units: int) -> float | None:
    """Return half the width of the range of the mean of ``units`` further data sets; None if only one was timed."""
    if seconds.size < 2:
        return None
    error = float(seconds.std(ddof=1)) * math.sqrt(1 / seconds.size + 1 / units)
    return float(stdtrit(seconds.size - 1, UPPER)) * math.hypot(error, CLOCK_ERROR * float(seconds.mean()))


def _basis(kind: str, timing: Timing) -> str:
    what = {"train": "step", "simulate": "simulation"}.get(kind, "data set")
    how = "timed" if timing.where else "already done"
    return f"{timing.units} {what}{'s' if timing.units > 1 else ''} {how}"


def _published(campaign: Campaign, engine: str) -> Timing | None:
    """Return the times of the data sets that this engine has done in this campaign."""
    seconds: list[NDArray] = []
    for plan in campaign.shards:
        if len(seconds) == MAX_SHARDS_READ:
            break
        path = campaign.paths.shard(engine, plan.index)
        if path.exists():
            try:
                seconds.append(np.asarray(read_summary(path, ["seconds"])["seconds"], float))
            except ShardError:
                continue  # a damaged file is handled by the task that replaces it
    known = np.concatenate(seconds) if seconds else np.empty(0)
    known = known[np.isfinite(known)]
    return Timing(0.0, tuple(known.tolist()), known.size, "") if known.size else None
