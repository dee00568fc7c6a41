"""What is known of the calibration of a campaign's network, beside its weights, and whether it may be used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.diagnostics.calibration import calibration_record
from chainsweep.errors import InputError, UsageError
from chainsweep.machine.devices import torch_device
from chainsweep.numerics.seeds import Seeds
from chainsweep.publish import publish_text
from chainsweep.stages.train import (
    designs_of,
    is_trained,
    load_trained,
    publish_calibration,
    weights_path,
)
from chainsweep.store.network import CALIBRATION

if TYPE_CHECKING:
    from chainsweep.engines.snpe.network import Trained

ALLOWED = "uncalibrated.txt"
"""Beside the weights: the user has said that the network is to be used all the same."""


def calibrate(campaign: Campaign) -> dict[str, Any]:
    """Try the network on fresh simulations of this campaign, and write down what they say.

    Raises
    ------
    UsageError
        The campaign has no amortised network.
    StoppedEarly
        It is not trained yet.
    """
    from chainsweep.black_box.host import guarded_calls
    from chainsweep.engines.snpe import engine as snpe

    trained = load_trained(campaign) if "snpe" in campaign.engines else None
    if trained is None:
        raise UsageError(
            f"{campaign.paths.root}: no amortised network to calibrate; it takes engine 'snpe' in mode 'amortised'"
        )
    seed = Seeds(campaign.config.campaign.seed, "snpe").entropy("", "calibrate") % 2**31
    settings = campaign.config.engines.snpe
    with guarded_calls(campaign):
        levels = snpe.calibrate(campaign.problem, designs_of(campaign), trained, settings, seed, device=torch_device())
    found = snpe.findings_of(campaign.problem, levels)
    return publish_calibration(campaign, found, trained, weights_path(campaign).parent)


def require_calibrated(campaign: Campaign, trained: Trained | None = None) -> None:
    """Refuse a network that is there and claims more than it knows; by what stands beside it, or else by ``trained``.

    Raises
    ------
    InputError
        It does, and the user has not said that it is to be used all the same.
    """
    if "snpe" not in campaign.engines or campaign.config.engines.snpe.mode != "amortised" or not is_trained(campaign):
        return
    weights, limits = weights_path(campaign), campaign.config.verdict
    if weights.with_name(ALLOWED).exists():
        return
    try:
        record = json.loads(weights.with_name(CALIBRATION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if trained is None:
            return
        record = calibration_record(trained.findings(campaign.problem), limits, trained.dropped(campaign.problem))
    if max(figure["sure_overconfidence"] for figure in record["figures"]) >= limits.overconfidence:
        raise InputError(
            f"{weights}: this network failed its calibration: {record['most_overconfident']}. Train a better one (more "
            "train_steps, larger transforms or hidden), or use it all the same with --uncalibrated (of run and submit)"
        )


def allow_uncalibrated(campaign: Campaign) -> None:
    """From now on, use the network whatever its calibration says."""
    folder = weights_path(campaign).parent
    folder.mkdir(parents=True, exist_ok=True)
    publish_text(folder / ALLOWED, "--uncalibrated\n")
