"""Commands on a Slurm cluster: plan, submit, cancel, logs; and status, which shows the queue next to the files."""

from __future__ import annotations

import json
import shlex
import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from chainsweep.campaign.campaign import Campaign
from chainsweep.cli.planned import print_cost, print_jobs
from chainsweep.cli.shared import (
    AsJson,
    Engines,
    Folder,
    MixedImages,
    SiteFile,
    Uncalibrated,
    app,
    apply_mixed_images,
    apply_uncalibrated,
    cause_lines,
    chosen_engines,
    out,
    verdict_table,
)

OnlyFailed = Annotated[bool, typer.Option("--only-failed", help="Only tasks that failed, not those never tried.")]


@app.command()
def plan(
    folder: Folder,
    site: SiteFile,
    engine: Engines = None,
    only_failed: OnlyFailed = False,
    pilot: Annotated[int, typer.Option("--pilot", min=0, help="First run this many data sets here, to time them.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show the exact scripts and commands that submit would run, with the predicted cost; submit nothing."""
    from chainsweep.forecast.pilot import run_pilot
    from chainsweep.slurm.cost import predict_cost
    from chainsweep.slurm.submit import Selection, describe, plan_submission

    campaign, cluster_site = _opened(folder, site)
    engines = chosen_engines(campaign, engine)
    if pilot:
        run_pilot(campaign, engines, pilot, lambda text: out.print(escape(text), style="dim") if not as_json else None)
    submission = plan_submission(campaign, cluster_site, Selection(engines, only_failed))
    content = describe(submission) | {"cost": predict_cost(campaign, cluster_site, submission.jobs)}
    if as_json:
        print(json.dumps(content))
        return
    for job in content["jobs"]:
        out.rule(escape(job["script"]), style="dim")
        out.print(escape(job["text"]), soft_wrap=True)
    out.rule(style="dim")
    print_jobs(content, sent=False)
    for number, job in enumerate(content["jobs"]):
        name = submission.jobs[number].variable
        line = " ".join(part if part.startswith("--dependency") else shlex.quote(part) for part in job["command"])
        out.print(f"{name}=$({escape(line)})", soft_wrap=True)
    print_cost(content["cost"])


@app.command()
def submit(
    folder: Folder,
    site: SiteFile,
    engine: Engines = None,
    only_failed: OnlyFailed = False,
    mixed_images: MixedImages = False,
    uncalibrated: Uncalibrated = False,
    as_json: AsJson = False,
) -> None:
    """Submit what is missing and not in the queue yet: training, inference, merge and report, by dependency."""
    from chainsweep.slurm.submit import Selection, describe, submit_campaign

    campaign, cluster_site = _opened(folder, site)
    campaign.require_writable()
    apply_mixed_images(campaign, mixed_images)
    apply_uncalibrated(campaign, chosen_engines(campaign, engine), uncalibrated)
    submission, ids = submit_campaign(campaign, cluster_site, Selection(chosen_engines(campaign, engine), only_failed))
    content = describe(submission, ids)
    if as_json:
        for job in content["jobs"]:
            del job["text"]
        print(json.dumps(content))
        return
    print_jobs(content, sent=True)
    if content["jobs"]:
        out.print(f"Watch with: chainsweep status {escape(str(folder))} --watch", soft_wrap=True)


@app.command()
def status(
    folder: Folder,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until Ctrl-C or everything has ended.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show counts by engine and verdict from the files, the queue's state next to them, and why tasks failed."""
    from chainsweep.slurm.watch import full_status
    from chainsweep.stages.status import CampaignProgress

    campaign = Campaign(folder)
    progress = CampaignProgress(campaign)
    content = full_status(campaign, progress)
    if as_json:
        print(json.dumps(content))
        return
    if not watch:
        out.print(_status_view(content))
        return
    with Live(_status_view(content), console=out, refresh_per_second=4) as live:
        while not _ended(content):
            time.sleep(interval)
            progress.update()
            content = full_status(campaign, progress)
            live.update(_status_view(content))


@app.command()
def logs(
    folder: Folder,
    dataset_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of a data set.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Last lines of each file.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the logs of a data set's tasks; without an id those of the tasks that failed."""
    from chainsweep.slurm.watch import last_lines, logs_of, tasks_with_logs

    campaign = Campaign(folder)
    listed = logs_of(campaign, tasks_with_logs(campaign, dataset_id))
    if as_json:
        print(json.dumps(listed))
        return
    if not listed:
        out.print("No task failed." if dataset_id is None else "No task of this data set has run yet.")
    for entry in listed:
        for path in entry["files"]:
            out.rule(escape(f"{entry['task']}: {path}"), style="dim", align="left")
            out.print(escape("\n".join(last_lines(path, lines))), soft_wrap=True)


@app.command()
def cancel(folder: Folder, as_json: AsJson = False) -> None:
    """Take this folder's jobs out of the queue; what they have saved stays."""
    from chainsweep.slurm.watch import cancel_jobs

    ids = cancel_jobs(Campaign(folder))
    if as_json:
        print(json.dumps({"cancelled": ids}))
    else:
        out.print(f"Cancelled: {', '.join(map(str, ids))}" if ids else "Nothing that this folder sent is in the queue.")


def _opened(folder: Any, site: Any) -> tuple[Campaign, Any]:
    from chainsweep.slurm.site import load_site

    cluster_site = load_site(site)
    campaign = Campaign(folder)
    campaign.verify()
    return campaign, cluster_site


def _ended(content: dict[str, Any]) -> bool:
    """Return True if no task runs or waits, and no data set is pending or the queue answered without a problem."""
    queue = content["queue"]
    if queue["elements"] or queue["unrecorded"] or content["running_tasks"]:
        return False
    nothing_open = all(not counts["pending"] for counts in content["engines"].values())
    return nothing_open or (queue["asked"] and queue["problem"] is None)


def _status_view(content: dict[str, Any]) -> Group:
    """Return the output of ``status``: verdicts, a line each on queue and running tasks, then tasks that failed."""
    from chainsweep.tasks.failures import Kind

    parts: list[Any] = [verdict_table(content["engines"]), *map(Text, cause_lines(content["causes"]))]
    parts.append(_queue_line(content["queue"]))
    parts += _running_lines(content["running_tasks"])
    troubled = content["failed_tasks"] + content["interrupted_tasks"]
    for entry in troubled[:10]:
        if entry["kind"] == Kind.STOPPED:
            parts.append(Text(f"{entry['task']}: {entry['kind']}; run or submit again to continue", style="yellow"))
            continue
        broke_off = "reason" not in entry
        parts.append(Text(f"{entry['task']}: {'broke off' if broke_off else 'failed'}, {entry['kind']}", style="red"))
        if not broke_off:
            parts.append(Text(f"  {entry['reason']}"))
        parts += [Text(f"  | {line}", style="dim") for line in entry["last_lines"]]
        parts.append(Text(f"  log: {entry['log']}", style="dim"))
    if len(troubled) > 10:
        parts.append(Text(f"... and {len(troubled) - 10} more: see --json"))
    return Group(*parts)


def _running_lines(running: list[dict[str, Any]]) -> list[Text]:
    """Return a line on the running tasks of this machine, and one for each other machine."""
    hosts = {task["host"]: task["here"] for task in running}
    lines = []
    for host, here in hosts.items():
        labels = [task["task"] for task in running if task["host"] == host]
        more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
        where = "here" if here else f"on {host}, as far as can be seen from here"
        lines.append(Text(f"running {where}: {', '.join(labels[:10])}{more}", style="green"))
    return lines


def _queue_line(queue: dict[str, Any]) -> Text:
    if queue["problem"] is not None:
        return Text(f"queue: not known ({queue['problem']}); the counts are from the files", style="yellow")
    if not queue["asked"]:
        return Text("queue: nothing was submitted", style="dim")
    numbers = ", ".join(map(str, queue["unrecorded"]))
    unrecorded = f"jobs of this folder that jobs.jsonl does not record: {numbers}" if numbers else ""
    if not queue["elements"]:
        return Text(f"queue: {unrecorded or 'nothing waits or runs'}", style="yellow" if unrecorded else "dim")
    parts = [
        f"{kind} " + ", ".join(f"{count} {state.lower()}" for state, count in states.items())
        for kind, states in queue["states"].items()
    ]
    reasons = ", ".join(f"{reason} {count}" for reason, count in queue["reasons"].items())
    waiting = "; ".join(parts) + (f" (waiting for: {reasons})" if reasons else "")
    return Text(f"queue: {waiting}{f'; {unrecorded}' if unrecorded else ''}", style="yellow" if unrecorded else "")
