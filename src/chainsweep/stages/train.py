"""The ``train`` stage: one amortised network for a campaign, kept under the hash of all it depends on.

The functions are for a campaign with an engine that trains (``Campaign.trainer``), unless they say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from chainsweep.campaign.campaign import Campaign
from chainsweep.diagnostics.calibration import Finding, calibration_record
from chainsweep.engines.base import Deadline, Sink
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError, StoppedEarly
from chainsweep.machine.devices import torch_device
from chainsweep.numerics.arrays import Arrays
from chainsweep.numerics.seeds import Seeds
from chainsweep.publish import LostOwnership, publish, publish_text
from chainsweep.store.network import CALIBRATION, MODEL, NETWORK, model_key, read_metadata
from chainsweep.tasks.attempt import Attempt, FileSink, Report, claim, load_state

Trained = Any
"""A trained network, of the type that its engine names."""
MAX_DESIGNS = 4096
"""The largest number of data sets whose designs are trained on; a larger campaign gives an evenly spaced sample."""


def trainer_of(campaign: Campaign) -> str:
    """Return the name of the engine that trains a network."""
    if campaign.trainer is None:
        raise ChainsweepError(f"{campaign.paths.root}: no engine of this campaign trains a network")
    return campaign.trainer


def own_settings(campaign: Campaign) -> Any:
    """Return the settings of the engine that trains a network."""
    return campaign.settings(trainer_of(campaign))


def network_key(campaign: Campaign) -> str:
    """Return the hash of model, data, seed and settings, which decide the network that the campaign trains."""
    parts = {
        "model": campaign.resolved["files"][campaign.paths.model.name],
        "function": campaign.config.model.function,
        "data": campaign.resolved["data_hash"],
        "seed": campaign.config.campaign.seed,
        "settings": campaign.resolved["config"]["engines"][trainer_of(campaign)],
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_path(campaign: Campaign) -> Path:
    """Return the path of the published network, or of the one that ``init`` froze."""
    if own_settings(campaign).model is not None:
        return campaign.paths.network
    return campaign.paths.model_folder(trainer_of(campaign), network_key(campaign)) / NETWORK


def is_trained(campaign: Campaign) -> bool:
    """Return True if the published network is there and readable."""
    path = weights_path(campaign)
    return path.exists() if path == campaign.paths.network else _is_published(campaign, path)


def _is_published(campaign: Campaign, path: Path) -> bool:
    metadata = read_metadata(path)
    return metadata is not None and metadata.get("key") == network_key(campaign)


def member_path(campaign: Campaign, member: int) -> Path:
    """Return the file that task number ``member`` publishes: the network, or one network of an ensemble."""
    path = weights_path(campaign)
    return path if members_of(campaign) == 1 else path.with_name(f"member-{member:02d}.safetensors")


def members_of(campaign: Campaign) -> int:
    """Return the number of networks that are trained."""
    return own_settings(campaign).ensemble


def is_member(campaign: Campaign, member: int) -> bool:
    """Return True if task number ``member`` is done; once all members are there, that includes their ensemble."""
    if is_trained(campaign):
        return True
    return _is_published(campaign, member_path(campaign, member)) and not _all_published(campaign)


def _member_paths(campaign: Campaign) -> list[Path]:
    return [member_path(campaign, each) for each in range(members_of(campaign))]


def _all_published(campaign: Campaign) -> bool:
    return all(_is_published(campaign, path) for path in _member_paths(campaign))


def train(campaign: Campaign, member: int, report: Report, deadline: Deadline) -> bool:
    """Train one network of the campaign and publish it, and the ensemble where it is the last one.

    Return False if the deadline came first (state is saved).
    """
    target = member_path(campaign, member)
    made = None
    if simulates(campaign):
        from chainsweep.stages.simulate import read_simulations

        made = read_simulations(campaign)
    if not _is_published(campaign, target):
        attempt = claim(target)
        sink = FileSink(attempt, campaign.hash, report)
        resume = load_state(attempt, campaign.hash)
        trained = train_network(campaign, sink, resume, deadline, made=made, member=member)
        if trained is None:
            sink.flush()
            return False
        _finish(campaign, trained, attempt)
    if members_of(campaign) == 1 or not _all_published(campaign):
        return True
    attempt = claim(weights_path(campaign))
    members = [_read(trainer_of(campaign), path) for path in _member_paths(campaign)]
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


def _read(engine: str, path: Path) -> Trained:
    from safetensors.numpy import load_file

    return ENGINES[engine].load().Trained.from_arrays(load_file(path))


def _finish(campaign: Campaign, trained: Trained, attempt: Attempt) -> None:
    """Publish a network, the record of its calibration, and the history of its training."""
    target = attempt.target
    if target == weights_path(campaign):
        publish_calibration(campaign, trained.findings(campaign.problem), trained, target.parent)
    simulated = model_key(campaign.resolved["files"][campaign.paths.model.name], campaign.config.model.function)
    _publish(target, trained, {"key": network_key(campaign), MODEL: simulated}, attempt.still_owner)
    name = "history" if target == weights_path(campaign) else f"history-{target.stem}"
    _publish_history(target.with_name(f"{name}.csv"), trained)
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


def train_seed(campaign: Campaign) -> int:
    """Return the seed of simulations and initial weights."""
    return Seeds(campaign.config.campaign.seed, trainer_of(campaign)).entropy("", "train") % 2**31


def simulates(campaign: Campaign) -> bool:
    """Return True if a separate stage makes a bank of simulations before training."""
    return needs_training(campaign) and bool(campaign.resolved["black_box"])


def needs_training(campaign: Campaign) -> bool:
    """Return True if the campaign trains its own amortised network; every campaign may be asked."""
    if campaign.trainer is None:
        return False
    own = campaign.settings(campaign.trainer)
    return own.mode == "amortised" and own.model is None


def has_network(campaign: Campaign) -> bool:
    """Return True if the campaign has one network for all data sets; every campaign may be asked."""
    return campaign.trainer is not None and own_settings(campaign).mode == "amortised"


def load_trained(campaign: Campaign) -> Trained | None:
    """Return the published network, or None if the campaign trains a network for each data set (sequential).

    Raises
    ------
    StoppedEarly
        It is not trained yet.
    """
    if own_settings(campaign).mode == "sequential":
        return None
    if not is_trained(campaign):
        raise StoppedEarly(f"{weights_path(campaign)}: not trained yet; run the 'train' stage first")
    return _read(trainer_of(campaign), weights_path(campaign))


def designs_of(campaign: Campaign) -> list[Any]:
    """Return the data sets to take designs from, one Batch per padded width."""
    total = len(campaign.collection.ids)
    chosen = np.unique(np.linspace(0, total - 1, min(total, MAX_DESIGNS)).round().astype(np.int64))
    widths = sorted({plan.width for plan in campaign.shards})
    positions = {
        width: np.concatenate([plan.positions for plan in campaign.shards if plan.width == width]) for width in widths
    }
    kept = {width: np.intersect1d(members, chosen) for width, members in positions.items()}
    return [campaign.collection.batch(members, width) for width, members in kept.items() if members.size]


def publish_calibration(campaign: Campaign, found: Sequence[Finding], trained: Trained, folder: Path) -> dict[str, Any]:
    """Publish ``calibration.json`` of a network in ``folder``, print a note on dropped simulations, return the content.

    The note is printed only if simulations were dropped.
    """
    dropping = trained.dropped(campaign.problem)
    if dropping.dropped:
        print(f"{trainer_of(campaign)}: {dropping.sentence()}", flush=True)
    content = calibration_record(found, campaign.config.verdict, dropping)
    publish_text(folder / CALIBRATION, json.dumps(content, indent=1) + "\n")
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
