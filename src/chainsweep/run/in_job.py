"""The work of a job's process: check that the process is as the job asked, then run the job's tasks.

Nothing is read or written before the number of ranks has been checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.base import Deadline
from chainsweep.machine.devices import use_device
from chainsweep.machine.environment import prepare
from chainsweep.machine.programs import say_on_stderr
from chainsweep.run.logged import Finished
from chainsweep.run.mpi.ranks import Ranks, ranks, watched
from chainsweep.run.mpi.task_farm import Form, exit_code, run_tasks
from chainsweep.run.requeue import JobAttempt, run_afresh, run_bounded
from chainsweep.stages.graph import WORK, Result, Task, find_task, run_task, target_of
from chainsweep.tasks.attempt import Report


@dataclass(frozen=True)
class JobCall:
    """The arguments of ``chainsweep task``; ``attempt`` is None outside a job."""

    folder: Path
    stage: str
    indices: tuple[int, ...]
    ranks: int | None
    form: Form
    device: str | None
    attempt: JobAttempt | None


def run_job(call: JobCall, report: Report, deadline: Deadline, say: Callable[[str, bool], None]) -> int:
    """Run the tasks of ``call`` on all ranks of this job, and return the exit code of this process.

    ``say`` is called once for each task, with a text on its end, and with True if all tasks went well.

    Raises
    ------
    UnavailableError
        The number of ranks is not the one asked for, the device is missing, or the campaign cannot be written.
    """
    here = ranks()
    here.check_size(call.ranks, os.environ)
    here = watched(here)
    with here.together():
        ended = _run(call, here, report, deadline)
        code = exit_code(ended)
        if here.rank == 0:
            for one in ended:
                say(f"{one.task.label}: {Result[one.result].value if one.result else f'failed: {one.error}'}", not code)
    here.leave(code)
    return code


def _run(call: JobCall, here: Ranks, report: Report, deadline: Deadline) -> list[Finished]:
    campaign = Campaign(call.folder)
    campaign.require_writable()
    tasks = [find_task(campaign, call.stage, index) for index in call.indices]
    prepare(say=say_on_stderr if here.rank == 0 else lambda text: None)
    for engine in dict.fromkeys(task.engine for task in tasks):
        use_device(call.device, engine)
    return run_tasks(
        campaign, tasks, partial(_one, campaign, call.attempt, report, deadline), deadline, here, call.form
    )


def _one(campaign: Campaign, attempt: JobAttempt | None, report: Report, deadline: Deadline, task: Task) -> Result:
    run = partial(run_task, campaign, task, report, deadline)
    if attempt is None or task.stage not in WORK:
        return run_afresh(campaign, task, run)
    return run_bounded(target_of(campaign, task), task, run, attempt)
