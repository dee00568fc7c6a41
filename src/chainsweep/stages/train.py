"""The ``train`` stage: one amortised network for a campaign, kept under the hash of all it depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.paths import NetworkFiles
from chainsweep.diagnostics.calibration import CalibrationFigure, calibration_record
from chainsweep.engines.base import Deadline, Sink
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError
from chainsweep.machine.devices import torch_device
from chainsweep.numerics.arrays import Arrays
from chainsweep.publish import LostOwnership, publish, publish_text
from chainsweep.stages.networks import (
    Trained,
    all_published,
    designs_of,
    is_published,
    member_path,
    member_paths,
    members_of,
    network_key,
    own_settings,
    read_network,
    simulates,
    train_seed,
    trainer_of,
    weights_path,
)
from chainsweep.stages.simulate import read_simulations
from chainsweep.store.network import MODEL, model_key
from chainsweep.tasks.attempt import Attempt, FileSink, Report, claim, load_state


def train(campaign: Campaign, member: int, report: Report, deadline: Deadline) -> bool:
    """Train one network of the campaign and publish it, and the ensemble where it is the last one.

    Return False if the deadline came first (state is saved).
    """
    target = member_path(campaign, member)
    made = None
    if simulates(campaign):
        made = read_simulations(campaign)
    if not is_published(campaign, target):
        attempt = claim(target)
        sink = FileSink(attempt, campaign.hash, report)
        resume = load_state(attempt, campaign.hash)
        trained = train_network(campaign, sink, resume, deadline, made=made, member=member)
        if trained is None:
            sink.flush()
            return False
        _finish(campaign, trained, attempt)
    if members_of(campaign) == 1 or not all_published(campaign):
        return True
    attempt = claim(weights_path(campaign))
    members = [read_network(trainer_of(campaign), path) for path in member_paths(campaign)]
    joined = _join(campaign, members, FileSink(attempt, campaign.hash, report), deadline, made)
    if joined is None:
        return False
    # Two tasks that end at the same time both join the ensemble; the later one publishes it.
    with suppress(LostOwnership):
        _finish(campaign, joined, attempt)
    return True


def _join(
    campaign: Campaign, members: Sequence[Trained], sink: Sink, deadline: Deadline, made: list[Arrays] | None
) -> Trained | None:
    return (
        ENGINES[trainer_of(campaign)]
        .load()
        .join(
            campaign.problem,
            designs_of(campaign),
            members,
            own_settings(campaign),
            train_seed(campaign),
            sink=sink,
            deadline=deadline,
            device=torch_device(),
            made=made,
        )
    )


def _finish(campaign: Campaign, trained: Trained, attempt: Attempt) -> None:
    """Publish a network, the record of its calibration, and the history of its training."""
    target = attempt.target
    if target == weights_path(campaign):
        publish_calibration(campaign, trained.findings(campaign.problem), trained)
    simulated = model_key(campaign.resolved["files"][campaign.paths.model.name], campaign.config.model.function)
    _publish(target, trained, {"key": network_key(campaign), MODEL: simulated}, attempt.still_owner)
    _publish_history(NetworkFiles(weights_path(campaign)).history(target), trained)
    attempt.finish()


def train_network(
    campaign: Campaign,
    sink: Sink,
    resume: Arrays | None,
    deadline: Deadline,
    settings: Any = None,
    made: list[Arrays] | None = None,
    member: int = 0,
) -> Trained | None:
    """Return a trained network, or None if the deadline came first. ``settings`` replaces the campaign's settings,
    ``made`` are the parts of a bank of simulations, ``member`` is the number of the network in an ensemble."""
    return (
        ENGINES[trainer_of(campaign)]
        .load()
        .train(
            campaign.problem,
            designs_of(campaign),
            settings if settings is not None else own_settings(campaign),
            train_seed(campaign),
            sink=sink,
            resume=resume,
            deadline=deadline,
            device=torch_device(),
            made=made,
            member=member,
        )
    )


def publish_calibration(campaign: Campaign, found: Sequence[CalibrationFigure], trained: Trained) -> dict[str, Any]:
    """Publish the calibration of the network, print a note on dropped simulations, and return the content.

    The note is printed only if simulations were dropped.
    """
    dropping = trained.dropped(campaign.problem)
    if dropping.dropped:
        print(f"{trainer_of(campaign)}: {dropping.sentence()}", flush=True)
    content = calibration_record(found, campaign.config.verdict, dropping)
    publish_text(NetworkFiles(weights_path(campaign)).calibration, json.dumps(content, indent=1) + "\n")
    return content


def _publish(path: Path, trained: Trained, made_of: dict[str, str], still_owner: Any) -> None:
    from safetensors.numpy import load_file, save_file

    arrays: Arrays = {name: np.array(value, order="C") for name, value in trained.arrays().items()}

    def check(temporary: Path) -> None:
        back = load_file(temporary)
        if back.keys() != arrays.keys() or any(not np.array_equal(back[n], arrays[n], equal_nan=True) for n in back):
            raise ChainsweepError(f"{temporary}: the network read back is not the one written; is the disk full?")

    publish(path, lambda temporary: save_file(arrays, temporary, metadata=made_of), check, still_owner)


def _publish_history(path: Path, trained: Trained) -> None:
    columns = {name: values for name, values in trained.history.items() if np.ndim(values) == 1}
    rows = [",".join(columns)]
    rows += [",".join(f"{value:.6g}" for value in row) for row in zip(*columns.values(), strict=True)]
    publish_text(path, "\n".join(rows) + "\n")
