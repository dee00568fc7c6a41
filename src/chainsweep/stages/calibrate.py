"""The record of the calibration of a campaign's network, next to its weights, and the decision to use the network."""

from __future__ import annotations

import json
from typing import Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.paths import NetworkFiles
from chainsweep.diagnostics.calibration import calibration_record
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import CalibrationError, UsageError
from chainsweep.machine.devices import torch_device
from chainsweep.numerics.seeds import Seeds
from chainsweep.publish import publish_text
from chainsweep.stages.networks import (
    Trained,
    designs_of,
    has_network,
    is_trained,
    load_trained,
    own_settings,
    trainer_of,
    weights_path,
)
from chainsweep.stages.train import publish_calibration


def calibrate(campaign: Campaign) -> dict[str, Any]:
    """Test the network on new simulations of this campaign, and publish the result.

    Raises
    ------
    UsageError
        The campaign has no amortised network.
    StoppedEarly
        It is not trained yet.
    """
    from chainsweep.black_box.host import guarded_calls

    trained = load_trained(campaign) if campaign.trainer is not None else None
    if trained is None:
        training = " or ".join(f"'{name}'" for name, engine in ENGINES.items() if engine.trains)
        raise UsageError(
            f"{campaign.paths.root}: no amortised network to calibrate; it takes engine {training} in mode 'amortised'"
        )
    engine = ENGINES[trainer_of(campaign)].load()
    seed = Seeds(campaign.config.campaign.seed, trainer_of(campaign)).entropy("", "calibrate") % 2**31
    settings = own_settings(campaign)
    with guarded_calls(campaign):
        levels = engine.calibrate(
            campaign.problem, designs_of(campaign), trained, settings, seed, device=torch_device()
        )
    found = engine.findings_of(campaign.problem, levels)
    return publish_calibration(campaign, found, trained)


def require_calibrated(campaign: Campaign, trained: Trained | None = None) -> None:
    """Refuse an overconfident trained network, by the record next to it, or else by the findings of ``trained``.

    Raises
    ------
    CalibrationError
        The network is overconfident, and the user has not allowed its use.
    """
    if not has_network(campaign) or not is_trained(campaign):
        return
    weights, limits = weights_path(campaign), campaign.config.verdict
    if NetworkFiles(weights).allowed.exists():
        return
    try:
        record = json.loads(NetworkFiles(weights).calibration.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if trained is None:
            return
        record = calibration_record(trained.findings(campaign.problem), limits, trained.dropped(campaign.problem))
    if max(figure["sure_overconfidence"] for figure in record["figures"]) >= limits.overconfidence:
        raise CalibrationError(
            f"{weights}: this network failed its calibration: {record['most_overconfident']}. Train a better one (more "
            "train_steps, larger transforms or hidden), or use it all the same with --uncalibrated (of run and submit)"
        )


def allow_uncalibrated(campaign: Campaign) -> None:
    """Record that the network is to be used whatever its calibration says."""
    allowed = NetworkFiles(weights_path(campaign)).allowed
    allowed.parent.mkdir(parents=True, exist_ok=True)
    publish_text(allowed, "--uncalibrated\n")
