"""NUTS over many data sets: the usual ways compared with this engine, on the same data, in one process with one thread.

    make bench-nuts                                      # all rows, some ten minutes; writes build/bench-nuts.json
    python benchmarks/nuts.py --only e --datasets 256    # one row, smaller
    python benchmarks/nuts.py --gamma FOLDER             # and measured photopeaks (jobs/gamma_lines)

Rows: (a) a fresh NumPyro MCMC object a data set, 4 vectorised chains, 1,000 + 3,000 iterations; (b) the same object
used again, compiled once for each length (`jit_model_args`); (c) NumPyro's kernel vmapped over chains and data sets,
500 + 1,000; (d) BlackJAX, window adaptation and NUTS vmapped likewise; (e) this engine. Rows a to d get a dense
metric, a target acceptance of 0.9, a start of each chain at the likeliest of 1,024 prior draws and, where vmapped,
trees of depth 8 at most: better than their defaults here. A data set is verified when R-hat < 1.01, bulk and tail ESS
> 400 and nothing diverged; (e) must pass its mode check as well. Seconds include start-up and compiling. Every row
runs in a process of its own, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chainsweep.machine.environment import prepare

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROWS = {"a": 4, "b": 8, "c": 64, "d": 64, "e": 512}
"""Data sets of each row: what it does in about a minute."""
NAMES = {
    "a": "fresh NumPyro MCMC each",
    "b": "the same, compiled once",
    "c": "NumPyro vmapped",
    "d": "BlackJAX vmapped",
    "e": "chainsweep",
}
DATA = ("narrow", "visible", "broad")
"""The worked example's own prior and draws of it; visible peaks, and draws of it, under the broad prior."""
REFERENCES = {"narrow": slice(0), "visible": slice(0, 32), "broad": slice(32, 64), "gamma": slice(0)}
"""Which of the stored reference posteriors are of a kind; the data sets of a benchmark begin with them."""
CHAINS, TARGET, DEPTH = 4, 0.9, 8
POINTS, DRAWS = 40, 1024


@dataclass
class Row:
    """One row of the table; rates are per second of wall time, everything included."""

    name: str
    data: str
    datasets: int
    seconds: float
    compile_seconds: float
    verified: int
    gradients: float
    ess_per_gradient: float
    lanes_busy: float
    peak_gib: float
    wrong: int | None = None
    """Verified data sets whose means or sds are off, where the exact posterior is known."""
    begin_seconds: float = 0.0
    """Until the lanes of (e) have gone through their first block: imports, searches, most compiling."""
    verdict_seconds: float = 0.0
    """Figures, mode checks and predictive checks of (e)."""

    @property
    def rate(self) -> float:
        return self.verified / self.seconds


@dataclass
class Draws:
    """What a peer drew: unconstrained ``(dataset, chain, draw, n)``, and what that took."""

    z: Any
    diverging: Any
    gradients: float
    compile_seconds: float
    lanes_busy: float


def windows(folder: Path) -> tuple[Any, Any]:
    """The photopeaks of a folder as ``jobs/gamma_lines`` takes them, and their Problem."""
    import numpy as np

    from chainsweep.campaign.freeze import init_campaign

    with tempfile.TemporaryDirectory() as place:
        campaign = init_campaign(ROOT / "jobs" / "gamma_lines" / "campaign.toml", Path(place) / "gamma", folder)
        positions = np.arange(len(campaign.collection.ids))
        return campaign.collection.batch(positions, int(campaign.collection.lengths.max())), campaign.problem


def peaks(kind: str, datasets: int, points: int = POINTS) -> Any:
    """Gaussian peaks of a kind as a Batch; with ``POINTS`` points, those of the stored references first."""
    import numpy as np

    from chainsweep.data.collection import Batch
    from tests.statistical.references import peaks as stored

    known, _ = stored.load()
    limits = {
        "narrow": ([0, 0, 0, -1, 0], [2, 1, 1, 1, 1]),
        "visible": (stored.VISIBLE_LOW, stored.VISIBLE_HIGH),
        "broad": (stored.LOW, stored.HIGH),
    }[kind]
    rng = np.random.default_rng(7)
    x = np.sort(rng.uniform(0, 1, (datasets, points)), axis=1)
    y_err = rng.uniform(0.05, 0.25, x.shape)
    height, place, width, level, slope = rng.uniform(*limits, (datasets, 5)).T[:, :, None]
    y = height * np.exp(-((x - place) ** 2) / (2 * width**2)) + level + slope * x + y_err * rng.standard_normal(x.shape)
    made = {"x": x, "y_err": y_err, "y": y}
    for name, values in made.items():
        first = getattr(known, name)[REFERENCES[kind]][:datasets]
        if points == POINTS:
            values[: len(first)] = first
    return Batch(tuple(f"{kind}-{k:05d}" for k in range(datasets)), made, {}, np.ones(x.shape, bool))


def model(kind: str) -> Any:
    """The Problem of a kind of peaks."""
    from chainsweep.campaign.config import parse_config
    from chainsweep.model.load import example_observation, load_problem

    fields = ("x", "y_err", "y")
    table = {"file": "model.py", "function": "narrow" if kind == "narrow" else "broad", "observed": ["y"]}
    config = parse_config({"model": table, "data": {"fields": {n: n for n in fields}}}, "benchmark")
    batch = peaks(kind, 1)
    example = example_observation({n: batch.fields[n][0] for n in fields}, {})
    return load_problem(ROOT / "jobs" / "gaussian_peak" / "model.py", config, example)


def numpyro_loop(problem: Any, batch: Any, fresh: bool) -> Draws:
    import jax
    import numpy as np
    from numpyro.infer import MCMC, NUTS

    from chainsweep.model.batched import BatchedProblem

    def new() -> MCMC:
        kernel = NUTS(problem.model, dense_mass=True, target_accept_prob=TARGET)
        options = {"num_warmup": 1000, "num_samples": 3000, "num_chains": CHAINS, "chain_method": "vectorized"}
        return MCMC(kernel, **options, progress_bar=False, jit_model_args=not fresh)

    by_length: dict[int, MCMC] = {}
    z, diverging, steps, first = [], [], [], 0.0
    for k in range(len(batch)):
        began = time.perf_counter()
        length = int(batch.n_points[k])
        if fresh or length not in by_length:
            by_length[length] = new()
        mcmc = by_length[length]
        fields = {n: v[k][batch.mask[k]] for n, v in batch.fields.items()}
        fields |= {n: float(v[k]) for n, v in batch.constants.items()}
        start = dict(zip(problem.names, starts(problem, batch.take(np.array([k])))[0].T, strict=True))
        mcmc.run(jax.random.key(k), **fields, init_params=start, extra_fields=("diverging", "num_steps"))
        extra = mcmc.get_extra_fields(group_by_chain=True)
        theta = np.stack([np.asarray(mcmc.get_samples(group_by_chain=True)[n]) for n in problem.names], axis=-1)
        one = BatchedProblem(problem, batch.take(np.array([k])))
        z.append(one.unconstrain(theta.reshape(1, -1, problem.ndim)).reshape(theta.shape))
        diverging.append(np.asarray(extra["diverging"]))
        steps.append(np.asarray(extra["num_steps"]))
        first = first or time.perf_counter() - began
    gradients = float(np.sum(steps)) * 4 / 3  # warm-up takes as many steps an iteration, and does not tell
    busy = float(np.mean(steps) / np.mean(np.max(steps, axis=1)))
    return Draws(np.stack(z), np.stack(diverging), gradients, first, busy)


def starts(problem: Any, batch: Any) -> Any:
    """``(dataset, chain, n)``, unconstrained: for each chain the likeliest of 1,024 prior draws."""
    import numpy as np

    from chainsweep.importance.modes import prior_pool
    from chainsweep.model.batched import BatchedProblem
    from chainsweep.numerics.seeds import Seeds

    pool = prior_pool(
        BatchedProblem(problem, batch), Seeds(1, "peer").jax_keys(batch.ids, "start", 1)[:, 0], DRAWS * CHAINS
    )
    best = np.argmax(pool.log_likelihood.reshape(len(batch), CHAINS, DRAWS), axis=2)
    index = best + DRAWS * np.arange(CHAINS)
    return np.take_along_axis(pool.z, index[..., None], axis=1)


def numpyro_vmapped(problem: Any, batch: Any, warmup: int = 500, draws: int = 1000) -> Draws:
    import jax
    import numpy as np
    from numpyro.infer.hmc import hmc
    from numpyro.infer.hmc_util import euclidean_kinetic_energy

    from chainsweep.model.batched import BatchedProblem

    observations = BatchedProblem(problem, batch).observations

    def one(z: Any, key: Any, obs: Any) -> Any:
        init, sample = hmc(
            potential_fn=lambda z: problem.potential(z, obs), kinetic_fn=euclidean_kinetic_energy, algo="NUTS"
        )
        options = {"dense_mass": True, "target_accept_prob": TARGET, "max_tree_depth": DEPTH}
        state = init(z, warmup, **options, rng_key=key)

        def step(state: Any, _: None) -> Any:
            state = sample(state, (), {})
            return state, (state.z, state.diverging, state.num_steps)

        return jax.lax.scan(step, state, None, length=warmup + draws)[1]

    return vmapped(jax.vmap(jax.vmap(one, in_axes=(0, 0, None))), problem, batch, observations, warmup, np)


def blackjax_vmapped(problem: Any, batch: Any, warmup: int = 500, draws: int = 1000) -> Draws:
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpy as np

    from chainsweep.model.batched import BatchedProblem

    observations = BatchedProblem(problem, batch).observations

    def one(z: Any, key: Any, obs: Any) -> Any:
        def log_density(z: Any) -> Any:
            return -problem.potential(z, obs)

        options = {"is_mass_matrix_diagonal": False, "target_acceptance_rate": TARGET, "max_num_doublings": DEPTH}
        adapt = blackjax.window_adaptation(blackjax.nuts, log_density, **options)
        for_warmup, for_draws = jax.random.split(key)
        (state, parameters), info = adapt.run(for_warmup, z, num_steps=warmup)
        kernel = blackjax.nuts(log_density, **parameters)

        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.is_divergent, info.num_integration_steps)

        _, (z, diverging, steps) = jax.lax.scan(step, state, jax.random.split(for_draws, draws))
        before = info.info.num_integration_steps
        return (
            jnp.concatenate([jnp.zeros((warmup, z.shape[1])), z]),
            jnp.concatenate([jnp.zeros(warmup, bool), diverging]),
            jnp.concatenate([before, steps]),
        )

    return vmapped(jax.vmap(jax.vmap(one, in_axes=(0, 0, None))), problem, batch, observations, warmup, np)


def vmapped(function: Callable, problem: Any, batch: Any, observations: Any, warmup: int, np: Any) -> Draws:
    """Compile and run a function over chains and data sets; its outputs count iterations, warm-up included."""
    import jax

    z = starts(problem, batch)
    keys = jax.random.split(jax.random.key(0), (len(batch), CHAINS))
    began = time.perf_counter()
    compiled = jax.jit(function).lower(z, keys, observations).compile()
    took = time.perf_counter() - began
    z, diverging, steps = (np.asarray(a) for a in compiled(z, keys, observations))
    # Every iteration lasts as long as its deepest tree of all lanes.
    busy = steps.mean() / steps.max(axis=(0, 1)).mean()
    return Draws(z[:, :, warmup:], diverging[:, :, warmup:], float(steps.sum()), took, float(busy))


def peer(row: str, problem: Any, batch: Any, more: Mapping[str, int]) -> tuple[Draws, Any, Any]:
    """A peer's draws, which data sets are verified, and the least ESS of each; ``more`` are iterations of (c), (d)."""
    import numpy as np

    from chainsweep.diagnostics.convergence import ess_bulk, ess_tail, rhat_rank

    runs = {
        "a": lambda: numpyro_loop(problem, batch, fresh=True),
        "b": lambda: numpyro_loop(problem, batch, fresh=False),
        "c": lambda: numpyro_vmapped(problem, batch, **more),
        "d": lambda: blackjax_vmapped(problem, batch, **more),
    }
    draws = runs[row]()
    series = np.moveaxis(draws.z, -1, 1)
    rhat = np.nan_to_num(rhat_rank(series), nan=np.inf).max(axis=1)
    ess = np.minimum(np.nan_to_num(ess_bulk(series)), np.nan_to_num(ess_tail(series))).min(axis=1)
    return draws, (rhat < 1.01) & (ess > 400) & (draws.diverging.sum(axis=(1, 2)) == 0), ess


def busy_share(notes: list[str]) -> float:
    """Lanes busy over all blocks; a progress note says the share since its round began."""
    import re

    total, blocks = 0.0, 0
    for k, note in enumerate(notes):
        name = note.split(":")[0]
        if k + 1 == len(notes) or notes[k + 1].split(":")[0] != name:
            length = sum(other.split(":")[0] == name for other in notes)
            share = re.search(r"lanes (\d+)% busy", note)
            total, blocks = total + float(share[1]) / 100 * length if share else total, blocks + length
    return total / max(1, blocks)


@dataclass
class Judged:
    """This engine's data sets: catalogue ``columns``, ``mean`` and ``sd`` of the draws, the share of lanes that were
    busy, seconds to the first block of each shard and of the verdicts, together."""

    columns: dict[str, Any]
    mean: Any
    sd: Any
    busy: float
    begin_seconds: float
    verdict_seconds: float


def engine(problem: Any, batch: Any, shard: int, more: Mapping[str, Any]) -> Judged:
    """This engine with settings ``more`` on shards of ``shard`` data sets, judged as a campaign judges."""
    import numpy as np

    from chainsweep.campaign.config import parse_config
    from chainsweep.engines.nuts import engine as nuts
    from chainsweep.engines.nuts.settings import NutsSettings
    from chainsweep.model.batched import BatchedProblem
    from chainsweep.numerics.seeds import Seeds
    from chainsweep.tasks.attempt import ProgressSink
    from chainsweep.verdicts.judge import judge

    fields = {n: n for n in batch.fields}
    config = parse_config({"model": {"file": "model.py", "observed": ["y"]}, "data": {"fields": fields}}, "benchmark")
    seeds = Seeds(1, "nuts")
    settings = NutsSettings(**more)
    columns, means, sds, busy, first, verdicts = [], [], [], [], 0.0, 0.0
    for start in range(0, len(batch), shard):
        part = batch.take(np.arange(start, min(start + shard, len(batch))))
        notes: list[str] = []
        times = [time.perf_counter()]

        def told(done: int, total: int, note: str = "", notes: list = notes, times: list = times) -> None:
            notes.append(note)
            times.append(time.perf_counter())

        sink = ProgressSink(told)
        outcome = nuts.run(
            problem, part, settings, seeds, limits=config.verdict, sink=sink, resume=None, deadline=lambda: False
        )
        sampled = time.perf_counter()
        columns.append(judge(outcome.chains, BatchedProblem(problem, part), config.verdict, seeds))
        first, verdicts = first + times[min(1, len(times) - 1)] - times[0], verdicts + time.perf_counter() - sampled
        theta = outcome.chains.theta
        means.append(np.nanmean(theta, axis=(1, 2)))
        sds.append(np.nanstd(theta, axis=(1, 2)))
        busy.append(busy_share(notes))
    joined = {name: np.concatenate([np.asarray(c[name]) for c in columns]) for name in columns[0]}
    return Judged(joined, np.concatenate(means), np.concatenate(sds), float(np.mean(busy)), first, verdicts)


def wrong_ones(kind: str, verified: Any, mean: Any, sd: Any) -> int | None:
    """Verified data sets with an exact reference whose mean is off by 0.3 sd, or an sd by 30 %; None without any."""
    import numpy as np

    from tests.statistical.references import peaks as stored

    _, reference = stored.load()
    rows = REFERENCES[kind]
    if rows.stop == 0:
        return None
    exact_mean, exact_sd = reference.mean[rows][: len(mean)], reference.sd[rows][: len(mean)]
    count = len(exact_mean)
    shift = np.abs((mean[:count] - exact_mean) / exact_sd).max(axis=1)
    spread = np.abs(sd[:count] / exact_sd - 1).max(axis=1)
    return int((verified[:count] & ((shift > 0.3) | (spread > 0.3))).sum())


def measure(
    row: str, kind: str, datasets: int, shard: int, folder: Path | None, more: Mapping[str, Any] | None = None
) -> Row:
    """Measure a row, in this process; ``more`` are settings of (e), or iterations of (c) and (d)."""
    began = time.perf_counter()
    import numpy as np

    if kind == "gamma":
        assert folder is not None
        batch, problem = windows(folder)
        datasets = min(datasets, len(batch))
        batch = batch.take(np.linspace(0, len(batch) - 1, datasets).astype(int))
    else:
        batch, problem = peaks(kind, datasets), model(kind)
    if row == "e":
        from chainsweep.machine.compiling import watch

        clock = watch()
        judged = engine(problem, batch, shard, more or {})
        seconds = time.perf_counter() - began
        columns, mean, sd, busy = judged.columns, judged.mean, judged.sd, judged.busy
        first, verdicts = judged.begin_seconds, judged.verdict_seconds
        verified = columns["verdict"] == "converged"
        gradients, compiled = float(np.nansum(columns["gradients"])), clock.now().seconds
        ess = np.fmin(columns["ess_bulk_min"], columns["ess_tail_min"])
    else:
        draws, verified, ess = peer(row, problem, batch, more or {})
        first = verdicts = 0.0
        seconds = time.perf_counter() - began
        gradients, compiled, busy = draws.gradients, draws.compile_seconds, draws.lanes_busy
        from chainsweep.model.batched import BatchedProblem

        theta = BatchedProblem(problem, batch).constrain(draws.z.reshape(len(batch), -1, draws.z.shape[-1]))
        mean, sd = theta.mean(axis=1), theta.std(axis=1)
    return Row(
        name=NAMES[row],
        data=kind,
        datasets=datasets,
        seconds=seconds,
        compile_seconds=compiled,
        verified=int(np.sum(verified)),
        gradients=gradients,
        ess_per_gradient=float(np.nansum(ess) / gradients),
        lanes_busy=busy,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        wrong=wrong_ones(kind, np.asarray(verified), mean, sd),
        begin_seconds=first,
        verdict_seconds=verdicts,
    )


def in_process(row: str, kind: str, datasets: int, shard: int, folder: Path | None) -> Row:
    """The same in a process of its own, with an empty cache of compiled programs."""
    words = ["--row", row, "--data", kind, "--datasets", str(datasets), "--shard", str(shard)]
    words += [] if folder is None else ["--gamma", str(folder)]
    return Row(**answer_of([__file__, *words]))


def answer_of(words: list[str]) -> dict[str, Any]:
    """What a script of these words prints last, as JSON."""
    with tempfile.TemporaryDirectory() as empty:
        environment = dict(os.environ)
        environment["JAX_COMPILATION_CACHE_DIR"] = empty
        prepare(environment)
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(rows: list[Row]) -> str:
    columns = (
        "data",
        "sets",
        "verified",
        "wrong",
        "verified/s",
        "gradients/s",
        "ESS/gradient",
        "busy",
        "compile s",
        "GiB",
    )
    lines = [f"| | {' | '.join(columns)} |", "|---|---|" + "---:|" * 9]
    for row in rows:
        numbers = [f"{row.rate:.3g}", f"{row.gradients / row.seconds:.3g}", f"{row.ess_per_gradient:.3f}"]
        numbers += [f"{row.lanes_busy:.0%}", f"{row.compile_seconds:.1f}", f"{row.peak_gib:.2f}"]
        share = f"{row.verified / row.datasets:.0%}"
        wrong = "" if row.wrong is None else row.wrong
        lines.append(f"| {row.name} | {row.data} | {row.datasets} | {share} | {wrong} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), help="rows to run")
    parser.add_argument("--kinds", nargs="+", choices=(*DATA, "gamma"), help="default: all there are data for")
    parser.add_argument("--gamma", type=Path, help="folder of measured photopeaks")
    parser.add_argument("--datasets", type=int, help="data sets of each row; default: what suits it")
    parser.add_argument("--shard", type=int, default=256, help="data sets of one call of this engine")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-nuts.json")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--data", choices=(*DATA, "gamma"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(asdict(measure(options.row, options.data, options.datasets, options.shard, options.gamma))))
        return
    rows = []
    for kind in options.kinds or (*DATA, *(["gamma"] if options.gamma else [])):
        for row in options.only:
            rows.append(in_process(row, kind, options.datasets or ROWS[row], options.shard, options.gamma))
            print(table(rows[-1:]), flush=True)
    print(table(rows))
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
