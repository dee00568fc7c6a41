"""The pilot: a few data sets run here to time them, and the timed choice of what MPI ranks share out.

Every engine runs the same data sets three times. The first run fills the cache of compiled programs, the second
starts like a process that finds them in the cache, and the third measures the cost of the data sets themselves.
``pilot.json`` keeps the figures; they change no draw, and nothing is published.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from chainsweep.campaign.campaign import Campaign
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Status
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError, ConfigError
from chainsweep.machine.compiling import watch
from chainsweep.machine.devices import describe_device
from chainsweep.machine.environment import prepare, prepared
from chainsweep.numerics.arrays import Arrays
from chainsweep.numerics.seeds import Seeds
from chainsweep.packages import missing
from chainsweep.publish import publish_text
from chainsweep.tasks.attempt import ProgressSink

COSTLY_SECONDS = 0.005
"""The seconds of one likelihood call above which it is worth a message to another rank."""
TIMED_CALLS = 5
TRAIN_STEPS = 8
"""The number of training steps of the network that the pilot of SNPE works with."""
TIMED_BLOCKS = 6
"""The number of blocks of simulations that the pilot trains on; the first is a warm-up."""
BANK_CHUNKS = 3
"""The number of chunks of a black box's simulations that the pilot makes; the first is a warm-up."""


@dataclass(frozen=True)
class Timing:
    """The pilot of one kind of job: ``setup_s`` per process, ``seconds`` per data set, training step or simulation.

    ``where`` names the device; ``note`` says what the figures stand for, where that is not clear.
    """

    setup_s: float
    seconds: tuple[float, ...]
    units: int
    """The number of data sets (training steps, simulations) behind ``seconds``."""
    where: str
    note: str = ""


Ran = tuple[float, dict[str, Any]]
"""The wall time of a run in seconds, and its catalogue columns."""


class Spread(NamedTuple):
    """The work that MPI ranks share, ``"datasets"`` or ``"walkers"``, and the reason."""

    form: str
    why: str = ""


def spread_of(campaign: Campaign, engine: str) -> Spread:
    """Return what an engine's MPI ranks share: as the campaign says, or walkers if a black-box call takes over 5 ms.

    Raises
    ------
    ConfigError
        The campaign wants walkers shared out, and its model is compiled for all walkers of a data set at once.
    """
    spread = campaign.settings(engine).spread
    if not campaign.resolved.get("black_box", True):
        if spread == "walkers":
            raise ConfigError(
                f"{campaign.paths.config}: [engines.{engine}] spread = 'walkers' is for black-box likelihoods, and "
                "this model is a NumPyro one, compiled for all walkers of a data set at once; use 'datasets' or 'auto'"
            )
        return Spread("datasets", "the likelihood is compiled, and takes all walkers in one call")
    if spread != "auto":
        return Spread(spread, f"[engines.{engine}] spread says so")
    if absent := missing("jax", "numpyro"):
        why = f"log_likelihood cannot be timed here, where {' and '.join(absent)} is not installed"
        return Spread("datasets", f"{why}; submit where it is, or set [engines.{engine}] spread, if a call is costly")
    with prepared():
        watch()
        if campaign.problem.host_log_likelihood is None:
            return Spread("datasets", "the model has no likelihood")
        from chainsweep.black_box.host import guarded_calls

        with guarded_calls(campaign):
            seconds = _call_seconds(campaign, engine)
    form, compared = ("walkers", "more") if seconds > COSTLY_SECONDS else ("datasets", "not more")
    why = f"a call of log_likelihood takes {1e3 * seconds:.3g} ms, {compared} than {1e3 * COSTLY_SECONDS:g} ms"
    return Spread(form, why)


def _call_seconds(campaign: Campaign, engine: str) -> float:
    """Return the median time of one likelihood call at prior draws of the first data set."""
    from chainsweep.model.batched import BatchedProblem

    batch = campaign.batch(0).take(np.zeros(1, np.int64))
    batched = BatchedProblem(campaign.problem, batch)
    keys = Seeds(campaign.config.campaign.seed, engine).jax_keys(batch.ids, "pilot", 1)[:, 0]
    points = np.asarray(batched.sample_prior(keys, TIMED_CALLS))
    took = []
    for draw in range(TIMED_CALLS):
        began = time.perf_counter()
        batched.log_likelihood(points[:, draw : draw + 1])
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def run_pilot(campaign: Campaign, engines: Sequence[str], count: int, say: Callable[[str], None]) -> None:
    """Time ``count`` data sets with each engine here, and training, and keep the figures in ``pilot.json``.

    Raises
    ------
    ChainsweepError
        An engine fails in its pilot.
    """
    prepare()
    watch()
    from chainsweep.black_box.host import guarded_calls

    with guarded_calls(campaign):
        timings = _timings(campaign, engines, count, say)
    text = json.dumps({kind: asdict(timing) for kind, timing in timings.items()}, indent=1) + "\n"
    publish_text(campaign.paths.pilot, text)


def _timings(campaign: Campaign, engines: Sequence[str], count: int, say: Callable[[str], None]) -> dict[str, Timing]:
    batch = _pilot_batch(campaign, count)
    timings = read_pilot(campaign)
    trained = None
    trainer = campaign.trainer
    if trainer is not None and trainer in engines and _is_untrained(campaign):
        made = None
        if campaign.problem.black_box:
            say(f"pilot: {ENGINES[trainer].title} simulations, a few chunks")
            timings["simulate"], made = _time_simulating(campaign)
        say(f"pilot: {ENGINES[trainer].title} training, a few steps")
        timings["train"], trained = _time_training(campaign, made)
    for engine in engines:
        say(f"pilot: {engine}, {len(batch)} data set{'s' if len(batch) > 1 else ''}, three times")
        timings[engine], last = _time_engine(campaign, engine, batch, trained if ENGINES[engine].trains else None)
        key, values = ENGINES[engine].compared or (None, ())
        if key is not None and getattr(campaign.settings(engine), key) == "auto":
            rates = {value: _ess_per_second(campaign, engine, batch, {key: value}) for value in values}
            rates["auto"] = _rate(*last)
            compared = ", ".join(f"{value} {rate:.3g}" for value, rate in rates.items())
            say(f"pilot: {engine}, effective draws a second by {key}: {compared}")
            note = "; ".join(filter(None, (timings[engine].note, f"effective draws a second: {compared}")))
            timings[engine] = replace(timings[engine], note=note)
    return timings


def read_pilot(campaign: Campaign) -> dict[str, Timing]:
    """Return the figures of the last pilot by kind of job; empty if none was run."""
    try:
        content = json.loads(campaign.paths.pilot.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {kind: Timing(**entry | {"seconds": tuple(entry["seconds"])}) for kind, entry in content.items()}


def _pilot_batch(campaign: Campaign, count: int) -> Batch:
    """Return ``count`` data sets taken evenly from the padded width that has the most."""
    widths = [plan.width for plan in campaign.shards]
    sizes = {width: sum(plan.positions.size for plan in campaign.shards if plan.width == width) for width in widths}
    width = max(sizes, key=lambda each: sizes[each])
    members = np.concatenate([plan.positions for plan in campaign.shards if plan.width == width])
    chosen = np.unique(np.linspace(0, members.size - 1, min(count, members.size)).round().astype(int))
    return campaign.collection.batch(members[chosen], width)


def _is_untrained(campaign: Campaign) -> bool:
    from chainsweep.stages.networks import is_trained, needs_training

    return needs_training(campaign) and not is_trained(campaign)


def _time_engine(campaign: Campaign, engine: str, batch: Batch, trained: object) -> tuple[Timing, Ran]:
    """Time one engine, and its last run; one that trains works with ``trained``, or else the campaign's own network."""
    import jax

    _run_once(campaign, engine, batch, trained)
    jax.clear_caches()
    cold, _ = _run_once(campaign, engine, batch, trained)
    warm, summary = _run_once(campaign, engine, batch, trained)
    shares = np.nan_to_num(np.asarray(summary["seconds"], float))
    # the engine's own times give the ratios between data sets, the wall clock their sum
    seconds = shares * warm / shares.sum() if shares.sum() > 0 else np.full(len(batch), warm / len(batch))
    notes = ["with a network hardly trained, so at most"] if trained is not None else []
    largest = max(plan.positions.size for plan in campaign.shards)
    if len(batch) < largest:
        notes.append(f"rather too high: a task takes up to {largest} at once")
    setup = _start_seconds("chainsweep.stages.infer", *ENGINES[engine].needs) + max(cold - warm, 0.0)
    timing = Timing(setup, tuple(seconds.tolist()), len(batch), describe_device(), "; ".join(notes))
    return timing, (warm, summary)


def _run_once(campaign: Campaign, engine: str, batch: Batch, trained: object) -> Ran:
    """Sample and judge ``batch``; return the wall time in seconds and the catalogue columns."""
    from chainsweep.stages.infer import judged_shard, sample

    began = time.perf_counter()
    sink = ProgressSink(lambda done, total, note: None)
    try:
        outcome = sample(campaign, engine, batch, sink, None, lambda: False, trained=trained)
    except ChainsweepError:
        raise
    except Exception as error:
        raise ChainsweepError(f"the pilot of {engine} failed on every data set: {error!r}") from error
    if outcome.status is not Status.COMPLETE or outcome.chains is None:
        raise ChainsweepError(f"the pilot of {engine} ended early: {outcome.status.value}")
    content = judged_shard(campaign, batch, engine, 0, 1, outcome.chains)
    took = time.perf_counter() - began
    return took, dict(content.summary)


def _ess_per_second(campaign: Campaign, engine: str, batch: Batch, changed: Mapping[str, str]) -> float:
    """Return the ESS per second with ``changed`` settings, timed in a second run, in which nothing is compiled."""
    engines = campaign.config.engines
    own = campaign.settings(engine).model_copy(update=changed)
    other = copy(campaign)
    other.config = campaign.config.model_copy(update={"engines": engines.model_copy(update={engine: own})})
    _run_once(other, engine, batch, None)
    return _rate(*_run_once(other, engine, batch, None))


def _rate(seconds: float, summary: Mapping[str, Any]) -> float:
    """Return the sum over data sets of the smallest bulk ESS, per second."""
    return float(np.nansum(summary["ess_bulk_min"])) / seconds


def _start_seconds(*modules: str) -> float:
    """Return the seconds that a new process takes to import ``modules``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], capture_output=True, check=True)
    return time.perf_counter() - began


@dataclass
class _Ticks:
    """A deadline that records the times at which it is asked, and that is over after ``limit`` calls."""

    limit: int
    times: list[float] = field(default_factory=list)

    def __call__(self) -> bool:
        self.times.append(time.perf_counter())
        return len(self.times) > self.limit


def _time_simulating(campaign: Campaign) -> tuple[Timing, list[Arrays]]:
    """Time chunks of a black box's simulations; also return them as a small bank, for the pilot of the training."""
    from chainsweep.stages.networks import designs_of, own_settings, train_seed, trainer_of

    bank = ENGINES[trainer_of(campaign)].part("bank")
    chunk = bank.BANK_CHUNK
    ticks = _Ticks(BANK_CHUNKS)
    began = time.perf_counter()
    made = bank.simulate(
        campaign.problem,
        designs_of(campaign),
        own_settings(campaign),
        train_seed(campaign),
        simulations=(0, BANK_CHUNKS * chunk),
        sink=ProgressSink(lambda done, total, note: None),
        resume=None,
        deadline=ticks,
    )
    took = np.diff([*ticks.times, time.perf_counter()])
    setup = _start_seconds(bank.__name__) + ticks.times[0] - began
    setup += max(float(took[0] - took[1:].mean()), 0.0)
    each = took[1:] / chunk
    assert made is not None  # the deadline was not reached
    return Timing(setup, tuple(each.tolist()), each.size * chunk, describe_device()), [made]


def _time_training(campaign: Campaign, made: list[Arrays] | None) -> tuple[Timing, object]:
    """Time the steps of training; also return a network of a few steps, for the pilot of the inference."""
    from chainsweep.stages.networks import own_settings, trainer_of
    from chainsweep.stages.train import train_network

    entry, own = ENGINES[trainer_of(campaign)], own_settings(campaign)
    few = own.model_copy(update={"train_steps": TRAIN_STEPS, "train_minutes": None})
    sink = ProgressSink(lambda done, total, note: None)
    trained = train_network(campaign, sink, None, lambda: False, few, made)
    per_block = entry.load().steps_per_block(own)
    ticks = _Ticks(TIMED_BLOCKS * per_block)
    began = time.perf_counter()
    more = few.model_copy(update={"train_steps": max(own.train_steps, ticks.limit)})
    train_network(campaign, sink, None, ticks, more, made)
    edges = ticks.times[::per_block]
    steps = np.diff(edges[1:]) / per_block
    setup = edges[0] - began + _start_seconds("chainsweep.stages.infer", *entry.needs)
    return Timing(setup, tuple(steps.tolist()), steps.size * per_block, describe_device()), trained
