"""Commands on a campaign on this machine: from a configuration to a report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from chainsweep.campaign.campaign import Campaign
from chainsweep.cli.shared import (
    AsJson,
    Engines,
    Folder,
    MixedImages,
    Uncalibrated,
    app,
    apply_mixed_images,
    apply_uncalibrated,
    calibration_table,
    chosen_engines,
    err,
    opened_to_write,
    out,
    print_status,
)
from chainsweep.errors import InputError, StoppedEarly


@app.command()
def init(
    config: Annotated[Path, typer.Argument(metavar="CAMPAIGN.toml", help="The configuration.")],
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")],
    data: Annotated[Path | None, typer.Option("--data", help="Overrides [data] source.")] = None,
    as_json: AsJson = False,
) -> None:
    """Validate, ingest, quarantine what is unusable, and freeze a new campaign."""
    from chainsweep.campaign.freeze import init_campaign
    from chainsweep.machine.compiling import watch
    from chainsweep.machine.environment import prepare

    prepare()
    watch()
    campaign = init_campaign(config, out_dir, data)
    summary = {
        "campaign": campaign.name,
        "folder": str(campaign.paths.root),
        "datasets": len(campaign.collection.ids),
        "quarantined": campaign.quarantined,
        "shards": len(campaign.shards),
        "engines": list(campaign.engines),
        "campaign_hash": campaign.hash,
        "notes": campaign.resolved.get("notes", []),
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
    for note in campaign.resolved.get("notes", []):
        out.print(f"[yellow]Mind[/yellow]: {escape(note)}", highlight=False, soft_wrap=True)
    out.print(f"Next: chainsweep run {escape(str(out_dir))}")


@app.command()
def run(
    folder: Folder,
    engine: Engines = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes of the processor; default: all cores.")
    ] = None,
    mixed_images: MixedImages = False,
    uncalibrated: Uncalibrated = False,
) -> None:
    """Run everything that is not done yet on this machine, then merge and report. Rerun to continue."""
    from chainsweep.cli.progress import RunDisplay
    from chainsweep.machine.devices import describe_device, gpus_here
    from chainsweep.machine.environment import prepare
    from chainsweep.run.local import LocalRun

    campaign = opened_to_write(folder)
    engines = chosen_engines(campaign, engine)
    _require_packages(engines)
    apply_mixed_images(campaign, mixed_images)
    apply_uncalibrated(campaign, engines, uncalibrated)
    prepare()  # called here, so that all workers share the settings and, where there is one, the temporary cache
    count = workers or len(os.sched_getaffinity(0))
    gpus = gpus_here()
    out.print(f"{campaign.name}: {len(campaign.collection.ids)} data sets, {describe_device(gpus)}, {count} workers")
    with RunDisplay(campaign, engines, out) as display:
        outcome = LocalRun(campaign, engines, count, display.observe, gpus).run()
    if outcome.compiled.programs:
        out.print(f"Compiling, all processes together: {outcome.compiled}", highlight=False, soft_wrap=True)
    for line in outcome.killed:
        err.print(escape(line), soft_wrap=True)
    if outcome.stopped:
        raise StoppedEarly(f"stopped; state is saved. Continue with: chainsweep run {folder}")
    print_status(campaign)
    for failure in outcome.failed:
        log = campaign.paths.log(failure.task.stage, failure.task.index)
        err.print(f"[red]{failure.task.label} failed[/red] (log: {escape(str(log))}): {escape(failure.error)}")
    page = campaign.paths.report_page
    if page.exists():
        out.print(f"Report: {escape(str(page))}", soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(outcome.failed[0].exit_code)


@app.command()
def merge(folder: Folder, mixed_images: MixedImages = False, as_json: AsJson = False) -> None:
    """Merge the published shards into posterior.h5 and catalogue.parquet."""
    from chainsweep.stages.merge import merge_campaign, merge_shortfall

    campaign = opened_to_write(folder)
    apply_mixed_images(campaign, mixed_images)
    summary = merge_campaign(campaign)
    if as_json:
        print(json.dumps(summary))
    else:
        merged = ", ".join(f"{name} {count}" for name, count in summary["datasets"].items())
        out.print(f"{escape(str(campaign.paths.posterior))}: {merged} data sets", soft_wrap=True)
    shortfall = merge_shortfall(summary)
    if shortfall is not None:
        raise StoppedEarly(f"{shortfall}. Run what is missing with: chainsweep run {folder}, or submit it again")


@app.command()
def report(folder: Folder, as_json: AsJson = False) -> None:
    """Write report/index.html and its figures."""
    from chainsweep.machine.compiling import watch
    from chainsweep.machine.environment import prepare
    from chainsweep.stages.report import make_report

    campaign = opened_to_write(folder)
    prepare()
    watch()
    page = make_report(campaign)
    if as_json:
        print(json.dumps({"report": str(page)}))
    else:
        out.print(f"Report: {escape(str(page))}", soft_wrap=True)


@app.command()
def calibrate(folder: Folder, as_json: AsJson = False) -> None:
    """Try the trained network on fresh simulations: do its intervals hold as many truths as they claim?"""
    from chainsweep.machine.compiling import watch
    from chainsweep.machine.environment import prepare
    from chainsweep.stages.calibrate import calibrate as try_network

    campaign = opened_to_write(folder)
    prepare()
    watch()
    record = try_network(campaign)
    if as_json:
        print(json.dumps(record))
    else:
        out.print(calibration_table(record))
        out.print(escape(f"{'passed' if record['passed'] else 'not passed'}: {record['worst']}"), soft_wrap=True)
    if not record["usable"]:
        raise InputError(f"the network claims more than it knows: {record['most_overconfident']}")


@app.command()
def show(
    folder: Folder,
    dataset_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a data set.")],
    as_json: AsJson = False,
) -> None:
    """Show one data set: its verdicts, numbers and figure files."""
    from chainsweep.cli.show import dataset_tables, describe_dataset

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
    from chainsweep.cli.exporting import export_draws

    campaign = Campaign(folder)
    chosen_engines(campaign, [engine])
    written = export_draws(campaign, dataset_id, engine, file_format, file)
    for path in written:
        out.print(escape(str(path)), soft_wrap=True)


def _require_packages(engines: tuple[str, ...]) -> None:
    from chainsweep.engines.registry import ENGINES
    from chainsweep.packages import require

    for name in engines:
        require(*ENGINES[name].needs, extra=name)
    require("matplotlib", "corner", extra="report")
