"""The check, at the start of a task, that the log density is still the one at ``init``.

It uses shapes for which a program is compiled anyway.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import CampaignError


def check_density(campaign: Campaign, width: int | None) -> None:
    """Compare the log density with what ``init`` recorded, on data sets padded to ``width`` where they can be.

    Raises
    ------
    CampaignError
        The log density differs; the message names the data set, the expected and the found value.
    """
    known = campaign.resolved.get("density", [])
    if not known:
        return
    from chainsweep.model.batched import BatchedProblem
    from chainsweep.model.fingerprint import changed

    for entry, points in _of_width(campaign, known, width):
        position = campaign.collection.position(entry["dataset"])
        batch = campaign.collection.batch(np.array([position]), points)
        difference = changed(BatchedProblem(campaign.problem, batch), entry)
        if difference is not None:
            raise CampaignError(
                f"{campaign.paths.root}: the model's density changed since init: {difference}. The model file is the "
                "same, so it is something else: an installed package, a variable of the environment, a file that "
                "compiled code opens, or an answer that is not the same every time. Restore it, or make a new campaign "
                "with chainsweep init"
            )


def _of_width(campaign: Campaign, known: list[dict[str, Any]], width: int | None) -> list[tuple[dict[str, Any], int]]:
    """Return the records to compare that need no separate program, and the width that each is padded to."""
    lengths = [int(campaign.collection.lengths[campaign.collection.position(entry["dataset"])]) for entry in known]
    most = max(lengths) if width is None else width
    fits = [n <= most if campaign.problem.structure.paddable else n == most for n in lengths]
    return [(e, most) for e, yes in zip(known, fits, strict=True) if yes] or [(known[0], lengths[0])]
