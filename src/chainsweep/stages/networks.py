"""The trained network of a campaign: which engine has one, where it is, and what it is trained on.

The functions are for a campaign with an engine that trains (``Campaign.trainer``), unless they say otherwise.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.paths import NetworkFiles
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError, StoppedEarly
from chainsweep.numerics.seeds import Seeds
from chainsweep.store.network import read_metadata

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


def needs_training(campaign: Campaign) -> bool:
    """Return True if the campaign trains its own amortised network; every campaign may be asked."""
    if campaign.trainer is None:
        return False
    own = campaign.settings(campaign.trainer)
    return own.mode == "amortised" and own.model is None


def simulates(campaign: Campaign) -> bool:
    """Return True if a separate stage makes a bank of simulations before training."""
    return needs_training(campaign) and bool(campaign.resolved["black_box"])


def has_network(campaign: Campaign) -> bool:
    """Return True if the campaign has one network for all data sets; every campaign may be asked."""
    return campaign.trainer is not None and own_settings(campaign).mode == "amortised"


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


def train_seed(campaign: Campaign) -> int:
    """Return the seed of simulations and initial weights."""
    return Seeds(campaign.config.campaign.seed, trainer_of(campaign)).entropy("", "train") % 2**31


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


def weights_path(campaign: Campaign) -> Path:
    """Return the path of the published network, or of the one that ``init`` froze."""
    if own_settings(campaign).model is not None:
        return campaign.paths.network
    return campaign.paths.trained(trainer_of(campaign), network_key(campaign))


def member_path(campaign: Campaign, member: int) -> Path:
    """Return the file that task number ``member`` publishes: the network, or one network of an ensemble."""
    path = weights_path(campaign)
    return path if members_of(campaign) == 1 else NetworkFiles(path).member(member)


def member_paths(campaign: Campaign) -> list[Path]:
    """Return the files that the training tasks publish, in the order of their numbers."""
    return [member_path(campaign, each) for each in range(members_of(campaign))]


def members_of(campaign: Campaign) -> int:
    """Return the number of networks that are trained."""
    return own_settings(campaign).ensemble


def is_trained(campaign: Campaign) -> bool:
    """Return True if the published network is there and readable."""
    path = weights_path(campaign)
    return path.exists() if path == campaign.paths.network else is_published(campaign, path)


def is_published(campaign: Campaign, path: Path) -> bool:
    """Return True if ``path`` holds a whole network that was trained for this campaign."""
    metadata = read_metadata(path)
    return metadata is not None and metadata.get("key") == network_key(campaign)


def is_member(campaign: Campaign, member: int) -> bool:
    """Return True if task number ``member`` is done; once all members are there, that includes their ensemble."""
    if is_trained(campaign):
        return True
    return is_published(campaign, member_path(campaign, member)) and not all_published(campaign)


def all_published(campaign: Campaign) -> bool:
    """Return True if every training task has published its network."""
    return all(is_published(campaign, path) for path in member_paths(campaign))


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
    return read_network(trainer_of(campaign), weights_path(campaign))


def read_network(engine: str, path: Path) -> Trained:
    """Return the network of an engine that a file holds."""
    from safetensors.numpy import load_file

    return ENGINES[engine].load().Trained.from_arrays(load_file(path))
