"""The ``simulate`` stage: a costly simulator fills the bank that a network is trained on, one part a task."""

from __future__ import annotations

from pathlib import Path

from chainsweep.black_box.suspects import forget_suspects
from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.paths import NetworkFiles
from chainsweep.engines.base import Deadline
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import StoppedEarly
from chainsweep.numerics.arrays import Arrays
from chainsweep.stages.networks import designs_of, network_key, own_settings, train_seed, trainer_of, weights_path
from chainsweep.store.bank import is_bank, publish_bank, read_bank
from chainsweep.tasks.attempt import FileSink, Report, claim, load_state


def parts_of(campaign: Campaign) -> int:
    """Return the number of parts of the bank."""
    settings = own_settings(campaign)
    return -(-settings.bank_simulations // settings.tuning.simulations_per_task)


def bank_path(campaign: Campaign, part: int) -> Path:
    """Return the path of one part of the bank."""
    return NetworkFiles(weights_path(campaign)).simulations(part)


def is_simulated(campaign: Campaign, part: int) -> bool:
    """Return True if the part number ``part`` of the bank is published and holds this campaign's simulations."""
    return is_bank(bank_path(campaign, part), network_key(campaign))


def simulate(campaign: Campaign, part: int, report: Report, deadline: Deadline) -> bool:
    """Make one part of the bank and publish it; return False if the deadline came first (state is saved)."""
    from chainsweep.black_box.host import guarded_calls

    attempt = claim(bank_path(campaign, part))
    sink = FileSink(attempt, campaign.hash, report)
    settings = own_settings(campaign)
    first = part * settings.tuning.simulations_per_task
    with guarded_calls(campaign, attempt):
        arrays = (
            ENGINES[trainer_of(campaign)]
            .part("bank")
            .simulate(
                campaign.problem,
                designs_of(campaign),
                settings,
                train_seed(campaign),
                simulations=(first, min(first + settings.tuning.simulations_per_task, settings.bank_simulations)),
                sink=sink,
                resume=load_state(attempt, campaign.hash),
                deadline=deadline,
            )
        )
    if arrays is None:
        sink.flush()
        return False
    publish_bank(attempt.target, arrays, network_key(campaign), attempt.still_owner)
    attempt.finish()
    forget_suspects(attempt.target)
    return True


def read_simulations(campaign: Campaign) -> list[Arrays]:
    """Read all parts of the bank.

    Raises
    ------
    StoppedEarly
        Some parts are not there yet.
    """
    missing = [part for part in range(parts_of(campaign)) if not is_simulated(campaign, part)]
    if missing:
        raise StoppedEarly(
            f"{bank_path(campaign, missing[0])}: {len(missing)} of {parts_of(campaign)} parts of the simulations are "
            "not made yet; run the 'simulate' stage first"
        )
    return [read_bank(bank_path(campaign, part), network_key(campaign)) for part in range(parts_of(campaign))]
