"""The ``infer`` stage: one shard of data sets through one engine, judged, thinned and published."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from chainsweep.black_box.host import guarded_calls
from chainsweep.black_box.suspects import forget_suspects
from chainsweep.campaign.campaign import Campaign
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Deadline, Inputs, Outcome, Sink, Status
from chainsweep.engines.chains import Chains, joined, without_draws
from chainsweep.engines.entry import Library
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import ChainsweepError
from chainsweep.machine.compiling import watch
from chainsweep.machine.devices import device_faults, torch_device
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.arrays import Arrays, Floats
from chainsweep.numerics.seeds import Seeds
from chainsweep.publish import publish
from chainsweep.store.shard import Shard, ShardHeader, publish_shard
from chainsweep.store.starts import read_starts
from chainsweep.tasks.attempt import (
    Attempt,
    FileSink,
    ProgressSink,
    Report,
    check_npz,
    claim,
    load_state,
    write_npz,
)
from chainsweep.tasks.provenance import provenance
from chainsweep.verdicts.judge import PROBES, judge_each, probes
from chainsweep.verdicts.rules import one_line


def infer(campaign: Campaign, engine: str, shard: int, report: Report, deadline: Deadline) -> bool:
    """Sample one shard and publish it; return False if the deadline came first (state is saved)."""
    attempt = claim(campaign.paths.shard(engine, shard))
    sink = FileSink(attempt, campaign.hash, report)
    with guarded_calls(campaign, attempt):
        finished = _sampled_and_published(campaign, engine, shard, attempt, sink, deadline)
    if finished:
        attempt.finish()
        forget_suspects(attempt.target)
    return finished


def _sampled_and_published(
    campaign: Campaign, engine: str, shard: int, attempt: Attempt, sink: FileSink, deadline: Deadline
) -> bool:
    clock = watch()
    before = clock.now()
    batch = campaign.batch(shard)
    outcome = sample(campaign, engine, batch, sink, load_state(attempt, campaign.hash), deadline)
    if outcome.status is Status.STOPPED or outcome.chains is None:
        sink.flush()
        return False
    content = judged_shard(campaign, batch, engine, shard, attempt.number, outcome.chains)
    if "trace" in outcome.chains.info:
        _publish_trace(campaign.paths.trace(engine, shard), outcome.chains, attempt.still_owner)
    provenance = content.header.provenance | (clock.now() - before).header()
    content = replace(content, header=replace(content.header, provenance=provenance))
    publish_shard(attempt.target, content, campaign.config.store.dtype, attempt.still_owner)
    return True


def _publish_trace(path: Path, chains: Chains, still_owner: Callable[[], bool]) -> None:
    arrays = {name: chains.info[name] for name in ("trace", "trace_burn_in", "trace_thin")}
    arrays["trace"] = arrays["trace"].astype(np.float32)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            write_npz(handle, arrays, compress=True)

    publish(path, write, check_npz, still_owner)


def sample(
    campaign: Campaign,
    engine: str,
    batch: Batch,
    sink: Sink,
    resume: Arrays | None,
    deadline: Deadline,
    *,
    trained: object = None,
) -> Outcome:
    """Run ``engine`` on ``batch``; ``trained`` takes the place of the campaign's own trained network."""
    run = partial(
        ENGINES[engine].load().run,
        campaign.problem,
        settings=campaign.settings(engine),
        seeds=Seeds(campaign.config.campaign.seed, engine),
        limits=campaign.config.verdict,
        deadline=deadline,
        inputs=_inputs(campaign, engine, trained),
    )
    no_draws = partial(without_draws, ENGINES[engine].kind, campaign.problem.ndim)
    return sample_by_halves(run, batch, sink, resume, no_draws)


def sample_by_halves(
    run: Callable[..., Outcome], batch: Batch, sink: Sink, resume: Arrays | None, no_draws: Callable[[str], Chains]
) -> Outcome:
    """Call ``run(batch=..., sink=..., resume=...)``; when it raises, halve the batch until only the culprits fail.

    ``no_draws(reason)`` makes the chains of one failed data set. The error is raised again if none of several data sets
    succeeds, because the data are not the cause then, and at once if a GPU is full or has failed. Parts save no state,
    because the next attempt would take it for the whole batch's; it starts from the state that the whole batch saved.
    """
    tried = _tried(run, batch, sink, resume)
    if isinstance(tried, Outcome):
        return tried
    traceback.print_exception(tried)
    outcome = _halved(run, batch, ProgressSink(sink.progress), no_draws, tried, is_whole=True)
    if len(batch) > 1 and outcome.chains is not None and len(outcome.chains.failures) == len(batch):
        raise tried
    return outcome


def _tried(run: Callable[..., Outcome], batch: Batch, sink: Sink, resume: Arrays | None) -> Outcome | Exception:
    """Return the outcome of ``run`` on ``batch``, or the exception that it raised if the data may be the cause."""
    try:
        with device_faults():
            return run(batch=batch, sink=sink, resume=resume)
    except (ChainsweepError, MemoryError):
        raise
    except Exception as error:
        return error


def _halved(
    run: Callable[..., Outcome],
    batch: Batch,
    sink: Sink,
    no_draws: Callable[[str], Chains],
    error: Exception,
    is_whole: bool = False,
) -> Outcome:
    """Run the halves of a batch on which ``run`` raised ``error``; raise it again if the data are not the cause."""
    if len(batch) == 1:
        return Outcome(Status.COMPLETE, no_draws(f"{type(error).__name__}: {error}"))
    halves = [batch.take(positions) for positions in np.array_split(np.arange(len(batch)), 2)]
    tried: list[Outcome | Exception] = []
    for half in halves:
        tried.append(_tried(run, half, sink, None))
        if isinstance(tried[-1], Outcome) and tried[-1].chains is None:
            return tried[-1]
    if is_whole and len(batch) > PROBES and _alike(tried) and _none_alone(run, batch, sink):
        print(f"both halves raise the same, and {PROBES} data sets raise by themselves: it is not the data", flush=True)
        raise error
    chains = []
    for half, outcome in zip(halves, tried, strict=True):
        if isinstance(outcome, Exception):
            outcome = _halved(run, half, sink, no_draws, outcome)
        if outcome.chains is None:
            return outcome
        chains.append(outcome.chains)
    return Outcome(Status.COMPLETE, joined(chains))


def _alike(tried: list[Outcome | Exception]) -> bool:
    """Return True if all raised the same type of error with the same message, apart from numbers (sizes, ids) in it."""
    return len({(type(each), re.sub(r"\d+", "", str(each))) for each in tried}) == 1 and isinstance(tried[0], Exception)


def _none_alone(run: Callable[..., Outcome], batch: Batch, sink: Sink) -> bool:
    """Return True if each of ``PROBES`` data sets, spread over the batch, raises an error by itself."""
    return all(isinstance(_tried(run, batch.take(one), sink, None), Exception) for one in probes(len(batch))[:, None])


def _inputs(campaign: Campaign, engine: str, trained: object) -> Inputs:
    """Return the inputs of an engine: its network, by default the campaign's own, draws to start from, the device."""
    if ENGINES[engine].trains and trained is None:
        from chainsweep.stages.calibrate import require_calibrated
        from chainsweep.stages.networks import load_trained

        trained = load_trained(campaign)
        require_calibrated(campaign, trained)
    starts = getattr(campaign.settings(engine), "starts_from", None)
    return Inputs(
        trained=trained,
        draws_elsewhere=None if starts is None else partial(_draws_elsewhere, campaign),
        device=torch_device() if ENGINES[engine].library is Library.TORCH else "cpu",
    )


def _draws_elsewhere(campaign: Campaign, ids: tuple[str, ...]) -> Floats:
    """Return the draws ``(dataset, draw, ndim)`` of another campaign that ``init`` froze."""
    positions = np.array([campaign.collection.position(name) for name in ids])
    return read_starts(campaign.paths.starts, positions)


def judged_shard(campaign: Campaign, batch: Batch, engine: str, shard: int, attempt: int, chains: Chains) -> Shard:
    """Return the shard to publish of ``chains``: figures and verdicts of all draws, and the thinned draws."""
    batched = BatchedProblem(campaign.problem, batch)
    seeds = Seeds(campaign.config.campaign.seed, engine)
    began = time.perf_counter()
    chains, columns = judge_each(chains, batched, campaign.config.verdict, seeds)
    checking = (time.perf_counter() - began) / len(batch)
    columns["seconds"] = columns["seconds"] + checking
    columns["check_seconds"] = np.full(len(batch), checking)
    columns["attempt"] = np.full(len(batch), attempt)
    for name in ("reason", "hint"):
        columns[name] = [one_line(sentence) for sentence in columns[name]]
    store = campaign.config.store
    kept = chains if store.keep_raw else chains.thinned(batch.ids, store.max_draws, seeds)
    header = ShardHeader(engine, str(chains.kind), shard, campaign.hash, attempt, provenance())
    posterior = campaign.problem.unflatten(kept.theta)
    return Shard(header, batch.ids, posterior, kept.sample_stats, kept.n_draws, columns)
