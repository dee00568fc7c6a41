"""The pilot: a few data sets run here to time them, and the timed choice of what MPI ranks share out.

Every engine runs the same data sets twice. The first time includes compiling, which each task pays once; the second
is what the data sets themselves cost. ``pilot.json`` keeps the figures; they change no draw.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from chainsweep.campaign import Campaign
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Seeds, Status
from chainsweep.errors import ChainsweepError
from chainsweep.execute.attempt import ProgressSink
from chainsweep.execute.devices import describe_device
from chainsweep.execute.environment import prepare
from chainsweep.publish import publish

COSTLY_SECONDS = 0.005
"""A likelihood that takes longer is worth a message to another rank."""
TIMED_CALLS = 5
TRAIN_STEPS = (20, 60)
"""Two short trainings; what the longer one takes more is the price of its further steps."""


@dataclass(frozen=True)
class Timing:
    """One engine's pilot: ``setup_s`` each task pays once, ``seconds`` of each data set (or training step)."""

    setup_s: float
    seconds: tuple[float, ...]
    units: int
    """Data sets (or training steps) behind ``seconds``."""
    where: str
    note: str = ""


def emcee_form(campaign: Campaign) -> str:
    """What MPI ranks share out: as the campaign says, or walkers where one call of a black box takes long."""
    spread = campaign.config.engines.emcee.spread
    if spread != "auto":
        return spread
    if not campaign.resolved.get("black_box", True):
        return "datasets"
    prepare(campaign.paths.compiled)
    if campaign.problem.host_log_likelihood is None:
        return "datasets"
    return "walkers" if _call_seconds(campaign) > COSTLY_SECONDS else "datasets"


def _call_seconds(campaign: Campaign) -> float:
    """Median time of one likelihood call at prior draws of the first data set."""
    from chainsweep.model.batched import BatchedProblem

    batch = campaign.batch(0).take(np.zeros(1, np.int64))
    batched = BatchedProblem(campaign.problem, batch)
    keys = Seeds(campaign.config.campaign.seed, "emcee").jax_keys(batch.ids, "pilot", 1)[:, 0]
    points = np.asarray(batched.sample_prior(keys, TIMED_CALLS))
    took = []
    for draw in range(TIMED_CALLS):
        began = time.perf_counter()
        batched.log_likelihood(points[:, draw : draw + 1])
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def run_pilot(campaign: Campaign, engines: Sequence[str], count: int, say: Callable[[str], None]) -> None:
    """Time ``count`` data sets with each engine here, and training, and keep the figures in ``pilot.json``."""
    prepare(campaign.paths.compiled)
    batch = _pilot_batch(campaign, count)
    timings = read_pilot(campaign)
    trained = None
    if "snpe" in engines and campaign.config.engines.snpe.mode == "amortised":
        say("pilot: SNPE training, a few steps")
        timings["train"], trained = _time_training(campaign)
    for engine in engines:
        say(f"pilot: {engine}, {len(batch)} data sets, twice")
        timings[engine] = _time_engine(campaign, engine, batch, trained)
    text = json.dumps({kind: asdict(timing) for kind, timing in timings.items()}, indent=1) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    publish(campaign.paths.pilot, write, lambda temporary: None)


def read_pilot(campaign: Campaign) -> dict[str, Timing]:
    """Figures of the last pilot by kind of job; empty where none was run."""
    try:
        content = json.loads(campaign.paths.pilot.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {kind: Timing(**entry | {"seconds": tuple(entry["seconds"])}) for kind, entry in content.items()}


def _pilot_batch(campaign: Campaign, count: int) -> Batch:
    """``count`` data sets taken evenly from the padded width that has the most."""
    widths = [plan.width for plan in campaign.shards]
    sizes = {width: sum(plan.positions.size for plan in campaign.shards if plan.width == width) for width in widths}
    width = max(sizes, key=lambda each: sizes[each])
    members = np.concatenate([plan.positions for plan in campaign.shards if plan.width == width])
    chosen = np.unique(np.linspace(0, members.size - 1, min(count, members.size)).round().astype(int))
    return campaign.collection.batch(members[chosen], width)


def _time_engine(campaign: Campaign, engine: str, batch: Batch, trained: object) -> Timing:
    from chainsweep.execute.infer import judged_shard, sample

    took = []
    for _ in range(2):
        began = time.perf_counter()
        sink = ProgressSink(lambda done, total, note: None)
        known = trained if engine == "snpe" else None
        outcome = sample(campaign, engine, batch, sink, None, lambda: False, trained=known)
        if outcome.status is not Status.COMPLETE or outcome.chains is None:
            raise ChainsweepError(f"the pilot of {engine} ended early: {outcome.status.value}")
        content = judged_shard(campaign, batch, engine, 0, 1, outcome.chains)
        took.append(time.perf_counter() - began)
    shares = np.nan_to_num(np.asarray(content.summary["seconds"], float))
    # the engine's own shares say how unequal the data sets are; the clock says how long they took together
    shares = shares * took[1] / shares.sum() if shares.sum() > 0 else np.full(len(batch), took[1] / len(batch))
    note = "with an untrained network, so an upper bound" if known is not None else ""
    return Timing(max(took[0] - took[1], 0.0), tuple(shares.tolist()), len(batch), describe_device(), note)


def _time_training(campaign: Campaign) -> tuple[Timing, object]:
    from chainsweep.execute.train import train_network

    took = []
    for steps in TRAIN_STEPS:
        began = time.perf_counter()
        sink = ProgressSink(lambda done, total, note: None)
        trained = train_network(campaign, sink, None, lambda: False, steps=steps)
        took.append(time.perf_counter() - began)
    per_step = max(took[1] - took[0], 0.0) / (TRAIN_STEPS[1] - TRAIN_STEPS[0])
    steps = TRAIN_STEPS[1] - TRAIN_STEPS[0]
    return Timing(max(took[0] - per_step * TRAIN_STEPS[0], 0.0), (per_step,) * steps, steps, describe_device()), trained
