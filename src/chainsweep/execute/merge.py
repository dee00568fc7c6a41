"""The ``merge`` stage: published shards into ``posterior.h5`` and ``catalogue.parquet``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chainsweep.campaign import Campaign
from chainsweep.errors import StoppedEarly
from chainsweep.store.catalogue import catalogue_table, write_catalogue
from chainsweep.store.merged import merge
from chainsweep.store.shard import read_summary


def merge_campaign(campaign: Campaign) -> dict[str, Any]:
    """Merge what is published and valid; the result counts data sets by engine and lists missing shards.

    Raises
    ------
    StoppedEarly
        No shard at all is there yet.
    """
    listed = {
        engine: [campaign.paths.shard(engine, plan.index) for plan in campaign.shards] for engine in campaign.engines
    }
    present = {engine: [path for path in paths if path.exists()] for engine, paths in listed.items()}
    if not any(present.values()):
        raise StoppedEarly(
            f"{campaign.paths.root}: nothing to merge, no shard is published yet; "
            f"run: chainsweep run {campaign.paths.root}"
        )
    attributes = {
        "campaign": campaign.name,
        "campaign_hash": campaign.hash,
        "campaign_seed": campaign.config.campaign.seed,
        "data_hash": campaign.resolved["data_hash"],
        **{f"version_{name}": version for name, version in campaign.resolved["versions"].items()},
    }
    merged = merge(present, campaign.collection.ids, campaign.paths.posterior, attributes)
    valid = [path for paths in present.values() for path in paths if path not in merged.rejected]
    usable = set(valid)
    table = catalogue_table([read_summary(path) for path in valid], campaign.parameter_names, campaign.collection.ids)
    write_catalogue(campaign.paths.catalogue, table)
    missing = [_relative(path, campaign) for paths in listed.values() for path in paths if path not in usable]
    rejected = {_relative(path, campaign): reason for path, reason in merged.rejected.items()}
    return {"datasets": dict(merged.datasets), "missing": missing, "rejected": rejected}


def _relative(path: Path, campaign: Campaign) -> str:
    return str(path.relative_to(campaign.paths.root))
