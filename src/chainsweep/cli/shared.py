"""The parts that all commands share: the application, its consoles, common arguments, the table of verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import UsageError
from chainsweep.packages import versions

app = typer.Typer(
    name="chainsweep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"chainsweep {versions('chainsweep')['chainsweep']}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Verified posteriors of many data sets: one NumPyro model, three engines, HDF5 chains."""


out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Engines = Annotated[list[str] | None, typer.Option("--engine", help="Only this engine; repeatable.")]
MixedImages = Annotated[
    bool, typer.Option("--mixed-images", help="From now on an engine's shards may come from different images.")
]
Uncalibrated = Annotated[
    bool, typer.Option("--uncalibrated", help="From now on use the trained network whatever its calibration says.")
]
SiteFile = Annotated[Path, typer.Option("--site", metavar="SITE.toml", help="How the cluster wants its jobs.")]

VERDICT_COLUMNS = ("converged", "not_converged", "failed", "bad_data", "pending")


def chosen_engines(campaign: Campaign, names: list[str] | None) -> tuple[str, ...]:
    """Return the engines that a command is about, in the campaign's order.

    Raises ``UsageError`` for an engine that the campaign does not have.
    """
    if not names:
        return campaign.engines
    for name in names:
        if name not in ENGINES:
            raise UsageError(f"no engine '{name}'; engines: {', '.join(ENGINES)}")
        if name not in campaign.engines:
            raise UsageError(f"engine '{name}' is not in this campaign's policy ({', '.join(campaign.engines)})")
    return tuple(name for name in campaign.engines if name in names)


def opened_to_write(folder: Path) -> Campaign:
    """Open a campaign, and raise if it is no longer as it was frozen or results cannot be written to it."""
    campaign = Campaign(folder)
    campaign.verify()
    campaign.require_writable()
    return campaign


def apply_mixed_images(campaign: Campaign, mixed: bool) -> None:
    """Record that images may differ, if the command line says so."""
    if mixed:
        from chainsweep.stages.graph import mix_images

        mix_images(campaign)


def apply_uncalibrated(campaign: Campaign, engines: tuple[str, ...], use: bool) -> None:
    """Record that the network is to be used if the command line says so, else raise if its calibration failed."""
    if campaign.trainer not in engines:
        return
    from chainsweep.stages.calibrate import allow_uncalibrated, require_calibrated

    if use:
        allow_uncalibrated(campaign)
    require_calibrated(campaign)


def verdict_table(engines: dict[str, dict[str, int]]) -> Table:
    """Return a table of the number of data sets by engine and verdict."""
    table = Table("engine", *(name.replace("_", " ") for name in VERDICT_COLUMNS), box=None)
    for name, counts in engines.items():
        table.add_row(name, *(str(counts[column]) for column in VERDICT_COLUMNS))
    return table


def cause_lines(causes: dict[str, dict[str, int]]) -> list[str]:
    """Return a line for each engine with data sets that are not converged: their causes, with counts."""
    return [
        f"{engine}, not converged: {', '.join(f'{cause} {count}' for cause, count in counts.items())}"
        for engine, counts in causes.items()
        if counts
    ]


def calibration_table(record: dict[str, Any]) -> Table:
    """Return a table of the shares of truths inside a network's intervals, by figure and by informativeness."""
    nominal = list(record["figures"][0]["coverage"])
    table = Table(
        "figure", "data say", *(f"{float(share):.0%}" for share in nominal), "from uniform", "chance", box=None
    )
    for figure in record["figures"]:
        shares = (f"{figure['coverage'][share]:.1%}" for share in nominal)
        numbers = (f"{figure[name]:.3f}" for name in ("deviation", "noise"))
        table.add_row(figure["figure"], figure["stratum"], *shares, *numbers)
    return table


def print_status(campaign: Campaign) -> None:
    """Print the number of data sets by engine and verdict."""
    from chainsweep.stages.status import campaign_status

    content: dict[str, Any] = campaign_status(campaign)
    out.print(verdict_table(content["engines"]))
    for line in cause_lines(content["causes"]):
        out.print(line, highlight=False)
