"""The data sets that ``init`` left out, as catalogue and status count them."""

from __future__ import annotations

import csv

from chainsweep.campaign.campaign import Campaign


def set_aside(campaign: Campaign) -> dict[str, str]:
    """Return the reason of each data set that ``init`` left out, by id.

    A data set without an id is listed by its file and row. One whose id also belongs to a data set of the campaign is
    not listed, because the catalogue has rows for that id already.
    """
    if not campaign.quarantined:
        return {}
    reasons: dict[str, str] = {}
    taken = set(campaign.collection.ids)
    with campaign.paths.quarantine.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row["dataset_id"] or f"{row['file']}, row {row['row']}"
            if name not in taken:
                reasons.setdefault(name, f"{row['reason']}: {row['detail']}" if row["detail"] else row["reason"])
    return reasons
