"""emcee over many data sets: the usual ways compared with this engine, on visible peaks under the broad prior.

    make bench-emcee                                  # all rows, some fifteen minutes; writes build/bench-emcee.json
    python benchmarks/ensembles.py --only a e2        # some rows
    python benchmarks/ensembles.py --only e1 --kind broad --datasets 32   # draws of the prior in place of peaks

Rows: (a) the plain script, 30 walkers x 10,000 steps and a likelihood in NumPy; (b) the same likelihood over all
walkers at once (`vectorize=True`), with the walkers, of 32 to 1,024, that give the most; (c) the plain script with
schwimmbad's MultiPool of 2, as its documentation shows; (d) NumPyro's AIES, 64 walkers; (z) zeus, where it is
installed; (e1 to e8) a campaign of this package on so many MPI ranks, which on fewer cores show overhead and not
speed. Walkers of a to z start in a ball around the best of 1,024 prior draws. ESS is walkers x kept steps / tau of
the slowest parameter, after a fifth for burn-in. A peer's data set is verified when its kept steps exceed 50 tau, ESS
400, and R-hat between its two halves of walkers is below 1.01; this engine's when its campaign says `converged`,
which needs the mode check as well. Seconds include start-up and compiling.

`--ranks 1 2 4 8` instead: likelihoods of 1 microsecond to 1 s, data sets or walkers over ranks.
`--growth` instead: row e2 over 16 to 4,096 data sets.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuts import ROOT, answer_of, peaks, wrong_ones

Floats = NDArray[np.float64]

ROWS = {"a": 6, "b": 6, "c": 2, "d": 6, "z": 6, "e1": 512, "e2": 512, "e4": 512, "e8": 512}
NAMES = {
    "a": "plain script",
    "b": "vectorised over walkers",
    "c": "plain script, MultiPool of 2",
    "d": "NumPyro's AIES, 64 walkers",
    "z": "zeus",
    "e1": "chainsweep, 1 rank",
    "e2": "chainsweep, 2 ranks",
    "e4": "chainsweep, 4 ranks",
    "e8": "chainsweep, 8 ranks",
}
GROWTH = [16, 64, 256, 1024, 4096]
LOW, HIGH = np.array([-2, -2, 0, -2, -2.0]), np.array([2.0, 2, 2, 2, 2])
NDIM = 5
CAMPAIGN = """
[campaign]
name = "bench"
[model]
file = "model.py"
function = "broad"
observed = ["y"]
[data]
source = "data.npz"
fields = { x = "x", y = "y", y_err = "y_err" }
[policy]
engines = ["emcee"]
"""
COSTLY = """
import os
import struct
import time
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}
cost = float(os.environ["BENCH_COST"])
tally = os.open(os.environ["BENCH_CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
calls, told = 0, time.time()

def log_likelihood(params, x, y, y_err):
    global calls, told
    if cost > 0.001:
        time.sleep(cost)
    else:
        end = time.perf_counter() + cost
        while time.perf_counter() < end:
            pass
    calls += 1
    now = time.time()
    if now - told > 0.1:
        os.write(tally, struct.pack("dd", now, calls))
        calls, told = 0, now
    return -0.5 * np.sum(((y - params["a"] - params["b"] * x) / y_err) ** 2)
"""
COSTLY_CAMPAIGN = f"""{CAMPAIGN.replace('function = "broad"', "")}
[engines.emcee]
walkers = 32
max_steps = 1000000
prior_draws = 64

[verdict]
tau = 1000000
"""
COSTS = {1e-6: 20.0, 1e-4: 20.0, 1e-3: 20.0, 0.05: 20.0, 1.0: 60.0}
"""Seconds of a likelihood, and for how long its calls are counted."""
MPIEXEC = Path(sys.executable).with_name("mpiexec")


@dataclass
class Row:
    """One row of the table."""

    name: str
    datasets: int
    seconds: float
    densities: float
    ess: float
    verified: int
    wrong: int | None
    peak_gib: float
    note: str = ""


class Peak:
    """The posterior of one data set in NumPy alone."""

    def __init__(self, x: Floats, y: Floats, y_err: Floats) -> None:
        self.x, self.y, self.y_err = x, y, y_err

    def one(self, theta: Floats) -> float:
        """As a plain script has it."""
        if np.any(theta <= LOW) or np.any(theta >= HIGH):
            return -np.inf
        height, place, width, level, slope = theta
        mu = height * np.exp(-((self.x - place) ** 2) / (2 * width**2)) + level + slope * self.x
        return float(-0.5 * np.sum(((self.y - mu) / self.y_err) ** 2))

    def many(self, theta: Floats) -> Floats:
        """The same of points ``(point, 5)``."""
        inside = np.all((theta > LOW) & (theta < HIGH), axis=1)
        height, place, width, level, slope = np.where(inside[:, None], theta, 1.0).T[..., None]
        mu = height * np.exp(-((self.x - place) ** 2) / (2 * width**2)) + level + slope * self.x
        return np.where(inside, -0.5 * np.sum(((self.y - mu) / self.y_err) ** 2, axis=1), -np.inf)

    def start(self, walkers: int, rng: np.random.Generator) -> Floats:
        """A small ball around the best of 1,024 prior draws."""
        draws = rng.uniform(LOW, HIGH, (1024, NDIM))
        best = draws[np.argmax(self.many(draws))]
        return np.clip(best + 1e-3 * rng.standard_normal((walkers, NDIM)), LOW + 1e-6, HIGH - 1e-6)


def judged(chain: Floats) -> tuple[float, bool, Floats, Floats]:
    """ESS, verdict, means and sds of a chain ``(step, walker, 5)``."""
    from chainsweep.diagnostics.convergence import rhat_rank
    from chainsweep.engines.emcee.chain import ensemble_tau

    kept = chain[len(chain) // 5 :]
    tau = float(np.nan_to_num(ensemble_tau(kept[:, None]), nan=np.inf).max())
    ess = kept.shape[0] * kept.shape[1] / tau
    halves = np.moveaxis(kept.reshape(len(kept), 2, -1, NDIM), (3, 1), (0, 1)).reshape(NDIM, 2, -1)
    good = len(kept) > 50 * tau and ess > 400 and float(rhat_rank(halves).max()) < 1.01
    return ess, good, kept.mean(axis=(0, 1)), kept.std(axis=(0, 1))


def plain(peak: Peak, rng: np.random.Generator, steps: int = 10_000, pool: Any = None) -> tuple[Floats, int]:
    import emcee

    sampler = emcee.EnsembleSampler(30, NDIM, peak.one, pool=pool)
    sampler.run_mcmc(peak.start(30, rng), steps)
    return sampler.get_chain(), 30 * steps


def pooled(peak: Peak, rng: np.random.Generator) -> tuple[Floats, int]:
    from schwimmbad import MultiPool

    with MultiPool(processes=2) as pool:
        return plain(peak, rng, pool=pool)


def vectorised(walkers: int) -> Callable:
    def run(peak: Peak, rng: np.random.Generator) -> tuple[Floats, int]:
        import emcee

        sampler = emcee.EnsembleSampler(walkers, NDIM, peak.many, vectorize=True)
        sampler.run_mcmc(peak.start(walkers, rng), 10_000)
        return sampler.get_chain(), walkers * 10_000

    return run


def zeus_run(peak: Peak, rng: np.random.Generator) -> tuple[Floats, int]:
    import zeus

    sampler = zeus.EnsembleSampler(30, NDIM, peak.many, vectorize=True, verbose=False)
    sampler.run_mcmc(peak.start(30, rng), 3000, progress=False)
    return sampler.get_chain(), int(sampler.ncall)


def aies(batch: Any) -> tuple[list[Floats], float]:
    """NumPyro's affine-invariant ensembles, compiled once for all data sets."""
    import jax
    from numpyro.infer import AIES, MCMC
    from nuts import model

    problem, steps, walkers = model("visible"), 10_000, 64
    options = {"num_warmup": 2000, "num_samples": steps, "num_chains": walkers, "chain_method": "vectorized"}
    mcmc = MCMC(AIES(problem.model), **options, progress_bar=False, jit_model_args=True)
    chains = []
    for k in range(len(batch)):
        fields = {name: values[k] for name, values in batch.fields.items()}
        begin = Peak(fields["x"], fields["y"], fields["y_err"]).start(walkers, np.random.default_rng(k))
        share = (begin - LOW) / (HIGH - LOW)
        start = dict(zip(problem.names, np.log(share / (1 - share)).T, strict=True))  # NumPyro's own free coordinates
        mcmc.run(jax.random.key(k), **fields, init_params=start)
        samples = mcmc.get_samples(group_by_chain=True)
        chains.append(np.stack([np.asarray(samples[name]).T for name in problem.names], axis=-1))
    return chains, len(batch) * walkers * (steps + 2000.0)


def peer(row: str, datasets: int, kind: str) -> Row:
    """A peer's row, in this process."""
    began, batch, note = time.perf_counter(), peaks(kind, datasets), ""
    if row == "d":
        chains, densities = aies(batch)
    else:
        data = [Peak(*(batch.fields[name][k] for name in ("x", "y", "y_err"))) for k in range(datasets)]
        run: Callable = {"a": plain, "c": pooled, "z": zeus_run}.get(row, plain)
        if row == "b":
            walkers = best_walkers(data[0])
            run, note, began = vectorised(walkers), f"{walkers} walkers", time.perf_counter()
        done = [run(peak, np.random.default_rng(k)) for k, peak in enumerate(data)]
        chains, densities = [chain for chain, _ in done], float(sum(calls for _, calls in done))
    seconds = time.perf_counter() - began
    figures = [judged(chain) for chain in chains]
    verified = np.array([good for _, good, _, _ in figures])
    wrong = wrong_ones(kind, verified, np.array([f[2] for f in figures]), np.array([f[3] for f in figures]))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ess = float(sum(f[0] for f in figures))
    return Row(NAMES[row], datasets, seconds, densities, ess, int(verified.sum()), wrong, peak_gib, note)


def best_walkers(peak: Peak) -> int:
    """The number of walkers that gives the most ESS a second on one data set."""
    rates = {}
    for walkers in (32, 64, 128, 256, 512, 1024):
        began = time.perf_counter()
        chain, _ = vectorised(walkers)(peak, np.random.default_rng(0))
        rates[walkers] = judged(chain)[0] / (time.perf_counter() - began)
    return max(rates, key=lambda walkers: rates[walkers])


def campaign_of(folder: Path, datasets: int, model: str | None, text: str, kind: str = "visible") -> Any:
    """A campaign of peaks of a kind."""
    from chainsweep.campaign.freeze import init_campaign

    own = (ROOT / "jobs" / "gaussian_peak" / "model.py").read_text(encoding="utf-8")
    (folder / "model.py").write_text(own if model is None else model, encoding="utf-8")
    (folder / "campaign.toml").write_text(text, encoding="utf-8")
    np.savez(folder / "data.npz", **peaks(kind, datasets).fields)
    return init_campaign(folder / "campaign.toml", folder / "campaign", None)


def command(campaign: Any, ranks: int, form: str) -> list[str]:
    """What runs all tasks of a campaign on MPI ranks."""
    tasks = [str(plan.index) for plan in campaign.shards]
    words = [sys.executable, "-m", "mpi4py", "-m", "chainsweep", "task", str(campaign.paths.root), "infer", *tasks]
    return [str(MPIEXEC), "-n", str(ranks), *words, "--form", form]


def launch(campaign: Any, ranks: int, form: str) -> float:
    """Run all its tasks on MPI ranks; seconds."""
    began = time.perf_counter()
    done = subprocess.run(command(campaign, ranks, form), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - began


def own_row(row: str, datasets: int, kind: str) -> Row:
    """A campaign of this package, from the launch of its ranks to its last shard."""
    from chainsweep.store.shard import read_shard, read_summary

    with tempfile.TemporaryDirectory() as place:
        campaign = campaign_of(Path(place), datasets, None, CAMPAIGN, kind)
        seconds = launch(campaign, int(row[1]), "datasets")
        ess, verified, densities, first = 0.0, [], 0.0, []
        for plan in campaign.shards:
            path = campaign.paths.shard("emcee", plan.index)
            summary = read_summary(path)
            ess += float(np.nansum(summary["ess_bulk_min"]))
            verified += [str(verdict) == "converged" for verdict in np.asarray(summary["verdict"]).astype(str)]
            walkers = campaign.config.engines.emcee.walkers or 32
            densities += float(np.nansum(summary["steps"])) * walkers * campaign.config.engines.emcee.ensembles
            first.append(read_shard(path).posterior)
    names = ("l", "m", "s", "a", "b")
    mean = np.concatenate([np.stack([np.nanmean(p[n], axis=(1, 2)) for n in names], axis=1) for p in first])
    sd = np.concatenate([np.stack([np.nanstd(p[n], axis=(1, 2)) for n in names], axis=1) for p in first])
    good = np.array(verified)
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    wrong = wrong_ones(kind, good, mean, sd)
    return Row(NAMES[row], datasets, seconds, densities, ess, int(good.sum()), wrong, peak_gib)


def steady(cost: float, ranks: int, form: str) -> float:
    """Calls a second of a likelihood that takes ``cost`` seconds, in mid-chain.

    32 walkers in 2 ensembles move by halves of 32 points, which 1 to 8 ranks divide: halves cost nothing.
    """
    with tempfile.TemporaryDirectory() as place:
        tally = Path(place) / "calls"
        os.environ.update({"BENCH_CALLS": str(tally), "BENCH_COST": str(cost)})
        # each rank has a task where they share out data sets
        count = 1 if form == "walkers" else ranks
        shards = "" if form == "walkers" else "\n[shards]\nsize = 1\n"
        campaign = campaign_of(Path(place), count, COSTLY, COSTLY_CAMPAIGN + shards)
        running = subprocess.Popen(command(campaign, ranks, form), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            # the prior draws are over when each rank has made its part of a few halves
            wait_for(lambda: calls_of(tally, 0.0) > 64 + 128 * count, running)
            begun, ending = time.time() + 1.0, time.time() + 1.0 + COSTS[cost]
            wait_for(lambda: time.time() > ending, running)
            return (calls_of(tally, begun) - calls_of(tally, ending)) / (ending - begun)
        finally:
            running.terminate()
            running.wait()


def calls_of(tally: Path, since: float) -> float:
    """Calls that were told of since a time."""
    if not tally.exists():
        return 0.0
    records = np.frombuffer(tally.read_bytes(), float).reshape(-1, 2)
    return float(records[records[:, 0] >= since, 1].sum())


def wait_for(condition: Callable[[], bool], running: subprocess.Popen) -> None:
    while not condition():
        if running.poll() is not None:
            assert running.stderr is not None
            raise SystemExit(f"the ranks ended early:\n{running.stderr.read().decode()[-3000:]}")
        time.sleep(0.05)


def rank_table(counts: list[int]) -> str:
    """Calls a second over ranks and costs of a likelihood, and the share of the ranks' time that they take."""
    lines = ["| a call takes | ranks share out | ranks | calls/s | of the ranks' time |", "|---:|---|---:|---:|---:|"]
    for cost in COSTS:
        for form in ("datasets", "walkers"):
            # more ranks than cores compute no faster; they sleep through a costly call
            for ranks in [n for n in counts if cost > 0.001 or n <= 2]:
                if ranks == 1 and form == "walkers":
                    continue
                rate = steady(cost, ranks, form)
                lines.append(f"| {cost:g} s | {form} | {ranks} | {rate:.4g} | {rate * cost / ranks:.0%} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    lines = [
        "| | sets | seconds | verified | wrong | verified/s | ESS/s | log densities/s | GiB |",
        "|---|" + "---:|" * 8,
    ]
    for row in rows:
        name = f"{row.name} ({row.note})" if row.note else row.name
        share = f"{row.verified / row.datasets:.0%}"
        rates = [row.verified / row.seconds, row.ess / row.seconds, row.densities / row.seconds]
        figures = " | ".join(f"{rate:.3g}" for rate in rates)
        wrong = "" if row.wrong is None else row.wrong
        lines.append(
            f"| {name} | {row.datasets} | {row.seconds:.0f} | {share} | {wrong} | {figures} | {row.peak_gib:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), help="rows to run")
    parser.add_argument("--datasets", type=int, help="data sets of each row; default: what suits it")
    parser.add_argument("--kind", choices=("visible", "broad"), default="visible")
    parser.add_argument("--ranks", nargs="+", type=int, help="scaling of a costly likelihood over these instead")
    parser.add_argument("--growth", action="store_true", help="row e2 over numbers of data sets instead")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-emcee.json")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ranks:
        print(rank_table(options.ranks))
        return
    if options.row:
        count = options.datasets or ROWS[options.row]
        row = (
            own_row(options.row, count, options.kind)
            if options.row[0] == "e"
            else peer(options.row, count, options.kind)
        )
        print(json.dumps(asdict(row)))
        return
    sizes = GROWTH if options.growth else [options.datasets]
    rows = []
    for row, size in [(row, size) for row in (["e2"] if options.growth else options.only) for size in sizes]:
        if row == "z" and importlib.util.find_spec("zeus") is None:
            print("zeus is not installed: pip install zeus-mcmc", file=sys.stderr)
            continue
        words = [
            __file__,
            "--row",
            row,
            "--kind",
            options.kind,
            *(["--datasets", str(size)] if size else []),
        ]
        rows.append(Row(**answer_of(words)))
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
