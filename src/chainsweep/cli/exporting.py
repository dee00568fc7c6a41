"""The command ``export``: one data set's draws with its data, in a format that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import CampaignError
from chainsweep.store.export import ExportExtras, ExportFormat, export_dataset


def export_draws(campaign: Campaign, dataset_id: str, engine: str, fmt: str, out: Path) -> tuple[Path, ...]:
    """Write the draws; returns the files made. Raises what ``store.export.export_dataset`` raises."""
    if not campaign.paths.posterior.exists():
        raise CampaignError(f"{campaign.paths.posterior}: not there; run: chainsweep merge {campaign.paths.root}")
    fields, constants = campaign.dataset(dataset_id)
    observed = campaign.config.model.observed
    extras = ExportExtras(
        observed_data={name: fields[name] for name in observed},
        constant_data={name: value for name, value in fields.items() if name not in observed}
        | {name: np.asarray(value) for name, value in constants.items()},
    )
    return export_dataset(campaign.paths.posterior, dataset_id, engine, cast(ExportFormat, fmt), out, extras)
