"""The output of ``plan`` and ``submit`` for a submission: its jobs, and their predicted cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from chainsweep.cli.shared import out


def print_jobs(content: dict[str, Any], sent: bool) -> None:
    """Print the jobs, with their ids once they are sent."""
    queued = content["queued"]
    if content["unreached"] is not None:
        reason = escape(content["unreached"].splitlines()[0])
        out.print(
            f"[yellow]No cluster in reach[/yellow] ({reason}): planned with Slurm's default limits.", soft_wrap=True
        )
    for path in content["absent_images"]:
        out.print(
            f"[yellow]No image {escape(path)} here[/yellow]: the scripts lack its SHA-256; submit where it is.",
            soft_wrap=True,
        )
    if queued["jobs"]:
        out.print(f"In the queue already: {queued['elements']} elements of jobs {', '.join(map(str, queued['jobs']))}")
    if not content["jobs"]:
        out.print("Nothing to submit: everything is done or in the queue.")
        return
    table = Table(box=None)
    for heading in ("job", *(["id"] if sent else [])):
        table.add_column(heading)
    for heading in ("tasks", "elements", "ranks"):
        table.add_column(heading, justify="right")
    table.add_column("after")
    for job in content["jobs"]:
        number = [str(job["job_id"])] if sent else []
        sizes = (job["tasks"], job["elements"], job["ranks"])
        table.add_row(job["kind"], *number, *map(str, sizes), _kinds_of(job["after"]))
    out.print(table)
    for kind, share, why in dict.fromkeys(
        (job["kind"], job["share"], job["why"]) for job in content["jobs"] if job["why"]
    ):
        out.print(f"{kind}: ranks share out {share}: {escape(why)}.", style="dim", soft_wrap=True)


def _kinds_of(names: Sequence[str]) -> str:
    """Return the kinds of jobs as text, with the number of jobs where there are several: ``train, emcee (3)``."""
    kinds = Counter(name.split("-")[-2] for name in names)
    return ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in kinds.items())


def print_cost(cost: dict[str, Any]) -> None:
    """Print the forecast: hours with their range, the time of one element against its walltime, and their basis."""
    jobs = cost["jobs"]
    if not jobs:
        return
    table = Table(box=None)
    for heading in ("predicted", "core-hours", "GPU-hours", "one element"):
        table.add_column(heading, justify="left" if heading == "predicted" else "right", no_wrap=True)
    table.add_column("from")
    for kind, entry in jobs.items():
        if entry["hours"] is None:
            table.add_row(kind, "?", "?", "?", entry["basis"])
            continue
        cells = (_hours(entry, "core_hours"), _hours(entry, "gpu_hours"), _element(entry))
        table.add_row(kind, *cells, entry["basis"])
    if len(jobs) > 1 and cost["total"]["core_hours"] is not None:
        total = [_number(cost["total"][what]) for what in ("core_hours", "gpu_hours")]
        table.add_row("total", *total, "", "" if cost["complete"] else "only of what is known")
    out.print(table)
    for kind, entry in jobs.items():
        if entry["note"]:
            out.print(f"{kind}: {escape(entry['note'])}.", style="dim", soft_wrap=True)
    places = dict.fromkeys(entry["where"] for entry in jobs.values() if entry["where"])
    lines = [f"Timed on a machine with {'; '.join(places)}."] if places else []
    if any(entry["low"] is not None for entry in jobs.values()):
        lines.append("Ranges hold 90 %, if the rest is like what was timed. Not counted: merge, report, repeated work.")
    for line in lines:
        out.print(escape(line), style="dim", soft_wrap=True)


def _hours(entry: dict[str, Any], what: str) -> str:
    """Return hours as text, such as ``1.2 (0.9 to 1.5)``, without the range where it is not known."""
    hours = entry[what]
    if entry["low"] is None or not hours:
        return _number(hours)
    low, high = (entry[end] * hours / entry["hours"] for end in ("low", "high"))
    return f"{_number(hours)} ({_number(low)} to {_number(high)})"


def _element(entry: dict[str, Any]) -> str:
    unit, factor = ("min", 60) if entry["element_hours"] < 2 else ("h", 1)
    return f"{_number(entry['element_hours'] * factor)} of {_number(entry['walltime_hours'] * factor)} {unit}"


def _number(value: float) -> str:
    """Return ``value`` with two significant digits, or with all digits before the decimal point."""
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"
