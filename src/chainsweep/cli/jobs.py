"""The commands ``task``, which runs inside a job, and ``doctor``, which says whether a job can run here."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from chainsweep.cli.shared import AsJson, Folder, app, err, out
from chainsweep.machine.ending import STOP_SIGNALS, end_late

Form = Literal["datasets", "walkers"]
Device = Literal["gpu", "cpu"]
End = Literal["died", "overran", "interrupted"]


@app.command(hidden=True)
def task(
    folder: Folder,
    stage: Annotated[str, typer.Argument(metavar="STAGE")],
    indices: Annotated[list[int], typer.Argument(metavar="INDEX...", help="Tasks of the stage.")],
    ranks: Annotated[int | None, typer.Option("--ranks", min=1, help="MPI ranks that must be here.")] = None,
    form: Annotated[Form, typer.Option("--form", help="What ranks share out: datasets or walkers.")] = "datasets",
    device: Annotated[Device | None, typer.Option("--device", help="gpu or cpu; default: the best one here.")] = None,
    attempts_left: Annotated[int | None, typer.Option("--attempts-left", help="Set in a job: requeues left.")] = None,
    last_end: Annotated[End, typer.Option("--last-end", help="Set in a job: how the last attempt ended.")] = "died",
) -> None:
    """Run tasks of one stage: the entry point inside a job."""
    stop, taken_away = threading.Event(), threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            taken_away.set()
        stop.set()

    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)
    if attempts_left is None:  # the script of a job kills what does not stop
        end_late(f"task {stage} {' '.join(map(str, indices))}")
    from chainsweep.run.in_job import JobCall, run_job
    from chainsweep.run.requeue import JobAttempt, LastEnd

    attempt = None if attempts_left is None else JobAttempt(attempts_left, LastEnd(last_end), taken_away.is_set)
    call = JobCall(folder, stage, tuple(indices), ranks, form, device, attempt)
    code = run_job(call, _print_progress, stop.is_set, _say)
    if code:
        raise typer.Exit(code)


def _say(text: str, well: bool) -> None:
    (out if well else err).print(escape(text), soft_wrap=True)


def _print_progress(done: int, total: int, note: str) -> None:
    print(f"{done} of {total} {note}".rstrip(), flush=True)


@app.command()
def doctor(
    site: Annotated[Path | None, typer.Option("--site", metavar="SITE.toml", help="Try this cluster too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what works here: packages, MPI, GPU, Apptainer, scratch, locks, clock; with --site what works in jobs."""
    from chainsweep.machine.doctor import examine

    findings = examine()
    if site is not None:
        from chainsweep.slurm.site import load_site
        from chainsweep.slurm.trials import examine_site

        findings += examine_site(load_site(site))
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
        return
    table = Table("", "what", "found", box=None)
    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    for finding in findings:
        colour = colours[finding.state]
        table.add_row(f"[{colour}]{finding.state}[/{colour}]", finding.what, escape(finding.found))
    out.print(table)
