"""Seconds until there is something to look at: with an empty and with a filled cache, compared with plain scripts.

    make bench-start  # all rows but the gamma windows; writes build/bench-start.json
    python benchmarks/start.py --only nuts --datasets 1 8  # some rows
    python benchmarks/start.py --gamma FOLDER  # and measured photopeaks (jobs/gamma_lines)

Rows: each engine over 1, 8 and 64 data sets of the worked example, from `chainsweep run DIR --engine E` to the first
published shard with a `converged` data set, and to the report; (plain) NumPyro and emcee in a loop over the same files
(`start_plain.py`), to their first verified data set, and to their last; (ranks) 2 MPI ranks of emcee that sample next
to nothing; (gamma) all windows by NUTS in one worker, to the last shard, compared with a vmapped NumPyro (`nuts.py`,
row c). `cold` begins with an empty cache of compiled programs, `warm` is a new campaign, or the same script, with what
the cold one left there; plain scripts keep no cache. Programs, cache hits and seconds of XLA are those that the shards'
headers tell of: of inference, all processes together. Every row runs in processes of its own; run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.machine.compiling import NOTHING, Compiled
from chainsweep.machine.environment import prepare
from chainsweep.machine.programs import CACHE_VARIABLE
from chainsweep.store.shard import read_header, read_summary

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("emcee", "nuts", "snpe")
ROWS = (*ENGINES, "plain", "ranks", "gamma")
RANKS = 2
POLL_SECONDS = 0.1
CHAINSWEEP = (sys.executable, "-m", "chainsweep")
NEXT_TO_NOTHING = (
    "\n[shards]\nsize = 1\n\n[engines.emcee]\nmax_steps = 100\n\n[engines.emcee.tuning]\ncheck_every = 100\n"
)
SETTINGS = ("JAX_", "XLA_", "CHAINSWEEP_", "OMP_", "OPENBLAS_", "MKL_")
"""How variables begin that would decide what is measured; rows run without the caller's."""


@dataclass(frozen=True)
class Row:
    """One row of the table; seconds count from the start of the command."""

    name: str
    datasets: int
    cache: str
    verified: int
    first_seconds: float | None
    """Until the first verified posterior; None where there is none."""
    shards_seconds: float
    """Until the last posterior."""
    seconds: float
    """Until the command has ended, with its report where it makes one."""
    compiled: Compiled | None = None


def plain_environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)} | more


def done_well(words: Sequence[str], running: subprocess.Popen, log: Path) -> None:
    if running.wait():
        raise SystemExit(f"{' '.join(words)} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")


def made(folder: Path, engine: str, datasets: int, more: str = "") -> Campaign:
    """A campaign of the worked example for one engine, frozen."""
    job = folder / "job"
    shutil.copytree(ROOT / "jobs" / "gaussian_peak", job, ignore=shutil.ignore_patterns("data"))
    generate = (sys.executable, str(job / "make_data.py"), "--out", str(job / "data"), "--count", str(datasets))
    subprocess.run(generate, check=True)
    with (job / "campaign.toml").open("a", encoding="utf-8") as config:
        config.write(f'\n[policy]\nengines = ["{engine}"]\n{more}')
    return frozen(job / "campaign.toml", folder / "campaign")


def frozen(config: Path, out: Path, *more: str) -> Campaign:
    subprocess.run((*CHAINSWEEP, "init", str(config), "--out", str(out), *more), check=True, capture_output=True)
    return Campaign(out)


def followed(name: str, cache: str, campaign: Campaign, engine: str, words: Sequence[str], programs: Path) -> Row:
    """Run a command that publishes the shards of a campaign, and watch them come."""
    waiting = {plan.index: campaign.paths.shard(engine, plan.index) for plan in campaign.shards}
    first, last, verified, compiled = None, 0.0, 0, NOTHING
    log = campaign.paths.root / "bench.log"
    with log.open("wb") as told:
        began = time.perf_counter()
        environment = plain_environment(**{CACHE_VARIABLE: str(programs)})
        running = subprocess.Popen(words, env=environment, stdout=told, stderr=subprocess.STDOUT)
        while waiting and running.poll() is None:
            for index in [index for index, path in waiting.items() if path.exists()]:
                last = time.perf_counter() - began
                good = verified_in(path := waiting.pop(index))
                verified, compiled = verified + good, compiled + compiled_for(path)
                first = last if first is None and good else first
            time.sleep(POLL_SECONDS)
        done_well(words, running, log)
        seconds = time.perf_counter() - began
    for path in waiting.values():  # published just before the end
        verified, compiled, last = verified + verified_in(path), compiled + compiled_for(path), seconds
    first = seconds if first is None and verified else first
    return Row(name, len(campaign.collection.ids), cache, verified, first, last, seconds, compiled)


def verified_in(path: Path) -> int:
    return int((read_summary(path, ["verdict"])["verdict"] == "converged").sum())


def compiled_for(path: Path) -> Compiled:
    """What the header of a shard says that its task compiled."""
    provenance = read_header(path).provenance
    return Compiled(**{name: provenance[name] for name in NOTHING.header()})  # type: ignore[arg-type]


def engine_rows(engine: str, datasets: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        for cache in ("cold", "warm"):
            campaign = made(Path(place, cache), engine, datasets)
            words = (*CHAINSWEEP, "run", str(campaign.paths.root), "--engine", engine)
            yield followed(engine, cache, campaign, engine, words, Path(place, "programs"))


def plain_row(way: str, datasets: int) -> Row:
    """A plain script, from its start to its last data set."""
    with tempfile.TemporaryDirectory() as place:
        data, log = Path(place, "data"), Path(place, "log")
        generate = (sys.executable, str(ROOT / "jobs" / "gaussian_peak" / "make_data.py"), "--out", str(data))
        subprocess.run((*generate, "--count", str(datasets)), check=True)
        words = (sys.executable, str(ROOT / "benchmarks" / "start_plain.py"), way, str(data))
        verified, first, last = 0, None, 0.0
        with log.open("wb") as told:
            began = time.perf_counter()
            running = subprocess.Popen(words, env=plain_environment(), stdout=subprocess.PIPE, stderr=told, text=True)
            assert running.stdout is not None
            for line in running.stdout:
                last = time.perf_counter() - began
                verified += line == "verified\n"
                first = last if first is None and verified else first
            done_well(words, running, log)
        return Row(f"plain {way}", datasets, "none", verified, first, last, time.perf_counter() - began)


def ranks_rows() -> Iterator[Row]:
    """The start of MPI ranks: a data set and 100 steps for each."""
    launch = (str(Path(sys.executable).with_name("mpiexec")), "-n", str(RANKS), sys.executable, "-m", "mpi4py")
    with tempfile.TemporaryDirectory() as place:
        for cache in ("cold", "warm"):
            campaign = made(Path(place, cache), "emcee", RANKS, NEXT_TO_NOTHING)
            tasks = [str(plan.index) for plan in campaign.shards]
            task = ("-m", "chainsweep", "task", str(campaign.paths.root), "infer", *tasks, "--form", "datasets")
            name = f"start of {RANKS} MPI ranks, emcee"
            yield followed(name, cache, campaign, "emcee", (*launch, *task), Path(place, "programs"))


def gamma_rows(folder: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        for cache in ("cold", "warm"):
            config = ROOT / "jobs" / "gamma_lines" / "campaign.toml"
            campaign = frozen(config, Path(place, cache), "--data", str(folder))
            words = (*CHAINSWEEP, "run", str(campaign.paths.root), "--engine", "nuts", "--workers", "1")
            yield followed("gamma windows, nuts", cache, campaign, "nuts", words, Path(place, "programs"))
        for cache in ("cold", "warm"):
            yield vmapped_row(folder, len(campaign.collection.ids), cache, Path(place, "vmapped"))


def vmapped_row(folder: Path, windows: int, cache: str, programs: Path) -> Row:
    """NumPyro vmapped over chains and windows; the cache is more than it has by itself."""
    words = [sys.executable, str(ROOT / "benchmarks" / "nuts.py"), "--row", "c", "--data", "gamma"]
    words += ["--datasets", str(windows), "--gamma", str(folder)]
    environment = plain_environment(JAX_COMPILATION_CACHE_DIR=str(programs))
    prepare(environment)
    began = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    found: Mapping = json.loads(done.stdout.splitlines()[-1])
    first = seconds if found["verified"] else None
    return Row("gamma windows, NumPyro vmapped", windows, cache, found["verified"], first, seconds, seconds)


def table(rows: Sequence[Row]) -> str:
    columns = ("sets", "cache", "verified", "first verified", "all posteriors", "end", "verified/s", "programs")
    columns = (*columns, "from the cache", "XLA s", "loading s", "tracing s")
    lines = [f"| | {' | '.join(columns)} |", "|---|---:|---|" + "---:|" * (len(columns) - 2)]
    for row in rows:
        cells = [row.name, str(row.datasets), row.cache, str(row.verified)]
        cells += ["–" if row.first_seconds is None else f"{row.first_seconds:.1f} s"]
        cells += [f"{row.shards_seconds:.1f} s", f"{row.seconds:.1f} s", f"{row.verified / row.shards_seconds:.3g}"]
        if (compiled := row.compiled) is None:
            cells += [""] * 5
        else:
            cells += [str(compiled.programs), str(compiled.cache_hits), f"{compiled.compile_seconds:.1f}"]
            cells += [f"{compiled.load_seconds:.1f}", f"{compiled.trace_seconds:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(rows: Sequence[str], sizes: Sequence[int], gamma: Path | None) -> Iterator[Row]:
    for datasets in sizes:
        for engine in (each for each in ENGINES if each in rows):
            yield from engine_rows(engine, datasets)
        for way in ("numpyro", "emcee") if "plain" in rows else ():
            yield plain_row(way, datasets)
    if "ranks" in rows:
        yield from ranks_rows()
    if gamma is not None and "gamma" in rows:
        yield from gamma_rows(gamma.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to run")
    parser.add_argument("--datasets", nargs="*", type=int, default=[1, 8, 64], help="sizes of a campaign")
    parser.add_argument("--gamma", type=Path, help="folder of measured photopeaks")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-start.json")
    options = parser.parse_args()
    rows = []
    options.json.parent.mkdir(exist_ok=True)
    for row in measured(options.only, options.datasets, options.gamma):
        rows.append(row)
        print(table(rows[-1:]), flush=True)
        options.json.write_text(json.dumps([asdict(each) for each in rows], indent=1))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
