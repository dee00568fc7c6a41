"""The ``merge`` stage: published shards into ``posterior.h5`` and ``catalogue.parquet``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainsweep.campaign.aside import set_aside
from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import StoppedEarly
from chainsweep.store.catalogue import catalogue_table, write_catalogue
from chainsweep.store.merged import merge
from chainsweep.store.shard import ShardError, read_header, read_summary
from chainsweep.tasks.failures import CAUSES, read_failure
from chainsweep.tasks.provenance import NO_IMAGE, check_same_image
from chainsweep.verdicts.causes import Cause, hint_of
from chainsweep.verdicts.rules import PENDING, Verdict, one_line


def merge_campaign(campaign: Campaign) -> dict[str, Any]:
    """Merge the valid published shards; the result counts data sets by engine and lists missing shards.

    Raises
    ------
    StoppedEarly
        No shard at all is there yet.
    CampaignError
        Shards of one engine were made in different images, and the user has not allowed this.
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
    images = _images(present)
    attributes["image"] = " ".join(sorted(set(images.values())))
    merged = merge(present, campaign.collection.ids, campaign.paths.posterior, attributes)
    valid = [path for paths in present.values() for path in paths if path not in merged.rejected]
    usable = set(valid)
    absent = {
        (engine, shard): path
        for engine, paths in listed.items()
        for shard, path in enumerate(paths)
        if path not in usable
    }
    failed = {block: failure for block, path in absent.items() if (failure := read_failure(path)) is not None}
    summaries = [read_summary(path) for path in valid]
    aside = set_aside(campaign)
    for engine in campaign.engines:
        reasons = [one_line(why) for why in aside.values()]
        summaries += [_rows(list(aside), engine, Verdict.BAD_DATA, reasons, Cause.BAD_DATA)]
    for (engine, shard), path in absent.items():
        ids = [campaign.collection.ids[position] for position in campaign.shards[shard].positions.tolist()]
        if (engine, shard) in failed:
            failure = failed[engine, shard]
            reason, cause = one_line(f"{failure.kind}: {failure.reason}"), CAUSES[failure.kind]
            summaries.append(_rows(ids, engine, Verdict.FAILED, [reason] * len(ids), cause, failure.kind))
        else:
            reason = one_line(merged.rejected.get(path, "not done yet"))
            summaries.append(_rows(ids, engine, PENDING, [reason] * len(ids)))
    table = catalogue_table(summaries, campaign.parameter_names, (*campaign.collection.ids, *aside))
    write_catalogue(campaign.paths.catalogue, table, notes=_notes(campaign))
    return {
        "datasets": dict(merged.datasets),
        "missing": [_relative(path, campaign) for block, path in absent.items() if block not in failed],
        "failed": {_relative(absent[block], campaign): failure.reason for block, failure in failed.items()},
        "rejected": {_relative(path, campaign): reason for path, reason in merged.rejected.items()},
    }


def _notes(campaign: Campaign) -> dict[str, str]:
    """Return the notes of a submission's choice of what MPI ranks share, and of its reason; empty without a choice."""
    try:
        ranks = json.loads(campaign.paths.ranks.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {f"emcee_ranks_{name}": str(value) for name, value in ranks.items()}


def _images(present: dict[str, list[Path]]) -> dict[Path, str]:
    """Return the image of each readable shard; an engine has one image, unless the user allowed several."""
    found: dict[Path, str] = {}
    for paths in present.values():
        of_engine = {}
        for path in paths:
            with suppress(ShardError):  # the merge itself reports damage of the file
                of_engine[path] = str(read_header(path).provenance.get("image", NO_IMAGE))
        check_same_image(of_engine)
        found |= of_engine
    return found


def _rows(
    ids: list[str], engine: str, verdict: str, reasons: list[str], cause: Cause | None = None, at: str = ""
) -> dict[str, NDArray]:
    """Return catalogue rows of data sets without draws, with a reason for each; pending ones have no cause."""
    columns = {
        "dataset_id": ids,
        "engine": [engine] * len(ids),
        "verdict": [str(verdict)] * len(ids),
        "reason": reasons,
        "cause": ["" if cause is None else str(cause)] * len(ids),
        "hint": ["" if cause is None else hint_of(cause, at)] * len(ids),
    }
    return {name: np.array(values, dtype=object) for name, values in columns.items()}


def merge_shortfall(summary: dict[str, Any]) -> str | None:
    """Return a sentence on the shards that a merge lacks; None if it is complete."""
    parts = [
        f"{len(summary[what])} shards {verb}, first: {next(iter(summary[what]))}"
        for what, verb in (("missing", "are missing or invalid"), ("failed", "failed"))
        if summary[what]
    ]
    return f"merged without what is not there: {'; '.join(parts)}" if parts else None


def _relative(path: Path, campaign: Campaign) -> str:
    return str(path.relative_to(campaign.paths.root))
