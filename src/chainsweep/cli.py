"""The command line. Each command parses, calls one function, and prints what came back."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chainsweep.campaign import Campaign
from chainsweep.config import ENGINE_NAMES
from chainsweep.errors import ChainsweepError, StoppedEarly, UsageError

app = typer.Typer(
    name="chainsweep",
    help="Verified posteriors of many data sets: one NumPyro model, three engines, HDF5 chains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def init(
    config: Annotated[Path, typer.Argument(metavar="CAMPAIGN.toml", help="The configuration.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")],
    data: Annotated[Path | None, typer.Option("--data", help="Overrides [data] source.")] = None,
    as_json: AsJson = False,
) -> None:
    """Validate, ingest, quarantine what is unusable, and freeze a new campaign."""
    from chainsweep.freeze import init_campaign

    campaign = init_campaign(config, out_dir, data)
    summary = {
        "campaign": campaign.name,
        "folder": str(campaign.paths.root),
        "datasets": len(campaign.collection.ids),
        "quarantined": campaign.quarantined,
        "shards": len(campaign.shards),
        "engines": list(campaign.engines),
        "campaign_hash": campaign.hash,
    }
    if as_json:
        print(json.dumps(summary))
        return
    out.print(
        f"{summary['datasets']} data sets frozen in {escape(str(out_dir))} "
        f"({summary['shards']} shards, engines: {', '.join(campaign.engines)})"
    )
    if campaign.quarantined:
        out.print(f"[yellow]{campaign.quarantined} set aside[/yellow]: see {escape(str(campaign.paths.quarantine))}")
    out.print(f"Next: chainsweep run {escape(str(out_dir))}")


@app.command()
def run(
    folder: Folder,
    engine: Annotated[list[str] | None, typer.Option("--engine", help="Only this engine; repeatable.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: all cores.")] = None,
) -> None:
    """Run everything that is not done yet on this machine, then merge and report. Rerun to continue."""
    from chainsweep.execute.devices import describe_device
    from chainsweep.execute.local import LocalRun
    from chainsweep.execute.progress import RunDisplay

    campaign = Campaign(folder)
    campaign.verify()
    engines = _chosen(campaign, engine)
    _require_packages(engines)
    count = workers or len(os.sched_getaffinity(0))
    out.print(f"{campaign.name}: {len(campaign.collection.ids)} data sets, {describe_device()}, {count} workers")
    with RunDisplay(campaign, engines, out) as display:
        outcome = LocalRun(campaign, engines, count, display.observe).run()
    if outcome.stopped:
        raise StoppedEarly(f"stopped; state is saved. Continue with: chainsweep run {folder}")
    _print_status(campaign)
    for failure in outcome.failed:
        log = campaign.paths.log(failure.task.stage, failure.task.index)
        err.print(f"[red]{failure.task.label} failed[/red] (log: {escape(str(log))}): {escape(failure.error)}")
    page = campaign.paths.report / "index.html"
    if page.exists():
        out.print(f"Report: {escape(str(page))}", soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(outcome.failed[0].exit_code)


@app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Counts by engine and verdict, from the published files."""
    campaign = Campaign(folder)
    if as_json:
        from chainsweep.execute.status import campaign_status

        print(json.dumps(campaign_status(campaign)))
        return
    _print_status(campaign)


@app.command()
def merge(folder: Folder, as_json: AsJson = False) -> None:
    """Merge the published shards into posterior.h5 and catalogue.parquet."""
    from chainsweep.execute.merge import merge_campaign

    campaign = Campaign(folder)
    campaign.verify()
    summary = merge_campaign(campaign)
    if as_json:
        print(json.dumps(summary))
    else:
        merged = ", ".join(f"{name} {count}" for name, count in summary["datasets"].items())
        out.print(f"{escape(str(campaign.paths.posterior))}: {merged} data sets", soft_wrap=True)
    if summary["missing"]:
        raise StoppedEarly(
            f"{len(summary['missing'])} shards are missing or invalid (merged without them), first: "
            f"{summary['missing'][0]}. Run them with: chainsweep run {folder}"
        )


@app.command()
def report(folder: Folder, as_json: AsJson = False) -> None:
    """Write report/index.html and its figures."""
    from chainsweep.execute.environment import prepare
    from chainsweep.execute.reporting import make_report

    campaign = Campaign(folder)
    campaign.verify()
    prepare(campaign.paths.compiled)
    page = make_report(campaign)
    if as_json:
        print(json.dumps({"report": str(page)}))
    else:
        out.print(f"Report: {escape(str(page))}", soft_wrap=True)


@app.command()
def show(
    folder: Folder,
    dataset_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a data set.")],
    as_json: AsJson = False,
) -> None:
    """One data set: verdicts, numbers, its figure files."""
    from chainsweep.execute.show import dataset_tables, describe_dataset

    campaign = Campaign(folder)
    description = describe_dataset(campaign, dataset_id)
    if as_json:
        print(json.dumps(description))
        return
    for table in dataset_tables(campaign, description):
        out.print(table)
    for path in description["figures"]:
        out.print(escape(path), soft_wrap=True)


@app.command()
def export(
    folder: Folder,
    dataset_id: Annotated[str, typer.Option("--id", help="Id of a data set.")],
    engine: Annotated[str, typer.Option("--engine", help="Whose draws.")],
    file_format: Annotated[str, typer.Option("--format", help="netcdf, emcee or getdist.")],
    file: Annotated[Path, typer.Option("--out", help="File to write.")],
) -> None:
    """Write one data set's draws in a format that other tools read."""
    from chainsweep.execute.exporting import export_draws

    campaign = Campaign(folder)
    _chosen(campaign, [engine])
    written = export_draws(campaign, dataset_id, engine, file_format, file)
    for path in written:
        out.print(escape(str(path)), soft_wrap=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what works on this machine: packages, MPI, GPU, Apptainer, Slurm, scratch, file locks."""
    from chainsweep.execute.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
        return
    table = Table("", "what", "found", box=None)
    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    for finding in findings:
        colour = colours[finding.state]
        table.add_row(f"[{colour}]{finding.state}[/{colour}]", finding.what, escape(finding.found))
    out.print(table)


@app.command(hidden=True)
def task(
    folder: Folder,
    stage: Annotated[str, typer.Argument(metavar="STAGE")],
    index: Annotated[int, typer.Argument(metavar="INDEX")],
) -> None:
    """Run one task: the entry point inside a job."""
    from chainsweep.execute.environment import prepare
    from chainsweep.execute.tasks import Result, find_task, run_task

    campaign = Campaign(folder)
    chosen = find_task(campaign, stage, index)
    prepare(campaign.paths.compiled)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.set())
    result = run_task(campaign, chosen, _print_progress, stop.is_set)
    out.print(f"{chosen.label}: {result.value}")
    if result is Result.STOPPED:
        raise StoppedEarly(f"{chosen.label}: {result.value}")


def _print_progress(done: int, total: int, note: str) -> None:
    print(f"{done} of {total} {note}".rstrip(), flush=True)


def _chosen(campaign: Campaign, names: list[str] | None) -> tuple[str, ...]:
    if not names:
        return campaign.engines
    for name in names:
        if name not in ENGINE_NAMES:
            raise UsageError(f"no engine '{name}'; engines: {', '.join(ENGINE_NAMES)}")
        if name not in campaign.engines:
            raise UsageError(f"engine '{name}' is not in this campaign's policy ({', '.join(campaign.engines)})")
    return tuple(name for name in campaign.engines if name in names)


def _require_packages(engines: tuple[str, ...]) -> None:
    from chainsweep.engines.registry import ENGINES
    from chainsweep.packages import require

    for name in engines:
        require(*ENGINES[name].needs, extra=name)
    require("matplotlib", "corner", "jinja2", extra="report")


def _print_status(campaign: Campaign) -> None:
    from chainsweep.execute.status import campaign_status

    content: dict[str, Any] = campaign_status(campaign)
    columns = ["converged", "not_converged", "failed", "bad_data", "pending"]
    table = Table("engine", *(name.replace("_", " ") for name in columns), box=None)
    for name, counts in content["engines"].items():
        table.add_row(name, *(str(counts[column]) for column in columns))
    out.print(table)


def main() -> None:
    """Run the command line; every error ends with one message and the exit code that belongs to it."""
    try:
        app()
    except ChainsweepError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        err.print("[bold red]internal error:[/bold red] this is a bug in chainsweep; the trace above says where")
        sys.exit(ChainsweepError.exit_code)
