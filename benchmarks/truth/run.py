"""Whole campaigns on small posteriors with exact answers: what is `converged` must be right.

    make bench-truth                                     # all cases and engines, and the plain scripts
    make bench-truth-quick                               # a data set of some, by one engine each: `QUICK`
    python -m benchmarks.truth.run --only funnel 'regression[12]' --datasets 16

A family is one file of `families/`: the model file that a campaign is given, with `dataset(rng)`, the fields
of a data set, and `exact(**fields)`, its posterior, written a second time without the package. Each of its `VARIANTS`,
if it has any, is a case of its own. `wrong` counts the data sets that a method calls converged and whose mean is off
by 0.3 sd, whose sd by 30 %, or whose share of a mode by 0.05. The table is printed, and every data set's errors are
kept in `build/bench-truth.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.truth.answers import Answer, errors, table
from benchmarks.truth.cases import calls, case_names, counted, datasets_of, load, text_of
from benchmarks.truth.exact import Exact
from chainsweep.store.draws import read_draws, relative_weights

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("nuts", "emcee", "snpe")
PLAIN = ("plain NUTS", "plain emcee")
DATASETS, PLAIN_DATASETS = 5, 2
"""The data sets of a case, unless it says that there are fewer; of those the plain scripts, which are slow, do two."""
QUICK: Mapping[str, str] = {
    "aliased_period": "nuts",
    "ar1_scan": "nuts",
    "black_box_hard_support": "emcee",
    "black_box_nan_zone": "emcee",
    "black_box_sinusoid": "emcee",
    "black_box_two_modes": "emcee",
    "change_point": "emcee",
    "eight_schools": "nuts",
    "flip_flop": "nuts",
    "funnel": "nuts",
    "funnel_data[centred]": "emcee",
    "hyperbola": "nuts",
    "image": "nuts",
    "label_switching": "emcee",
    "line_odd_scales": "emcee",
    "one_point": "nuts",
    "ordered_mixture": "nuts",
    "radial_velocity": "nuts",
    "regression[12]": "nuts",
    "two_peaks": "nuts",
    "uniform_end": "emcee",
    "weak_peak": "emcee",
}
"""The cases of ``--quick``, a data set each, and its engine: those that have the most ways to go wrong, and one of each
kind. All of them, by both engines, take six times as long, most of it to compile programs."""


def by_campaign(name: str, engines: Sequence[str], exacts: Sequence[Exact], workers: int) -> Iterator[Answer]:
    """The answers of the engines: one campaign, from its command line."""
    served = [engine for engine in engines if engine in getattr(load(name), "ENGINES", ENGINES)]
    if not served:
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sets = datasets_of(name, len(exacts))
        np.savez(folder / "data.npz", **{field: np.stack([each[field] for each in sets]) for field in sets[0]})
        black_box, noted = hasattr(load(name), "log_likelihood"), folder / "calls"
        text = counted(text_of(name), noted) if black_box else text_of(name)
        (folder / "model.py").write_text(text, encoding="utf-8")
        listed = ", ".join(f'"{engine}"' for engine in served)
        (folder / "campaign.toml").write_text(
            f'[campaign]\nname = "truth"\n[model]\nfile = "model.py"\n[data]\nsource = "data.npz"\nmin_points = 1\n'
            f"[policy]\nengines = [{listed}]\n[report]\nworst = 0\n",
            encoding="utf-8",
        )
        sweep = folder / "sweep"
        _command("init", folder / "campaign.toml", "--out", sweep)
        _command("run", sweep, "--workers", str(workers))
        counts = calls(noted, sets) if black_box else [None] * len(sets)
        rows = pd.read_parquet(sweep / "catalogue.parquet")
        for engine in served:
            own = rows[rows["engine"] == engine]
            for number, row in enumerate(own.to_dict("records")):
                found = _errors(row, engine, exacts[number], sweep / "posterior.h5")
                good = row["verdict"] == "converged"
                yield Answer(name, engine, number, good, *found, row["seconds"], row["reason"], counts[number])


def _errors(row: dict, engine: str, exact: Exact, posterior: Path) -> tuple[float, float, float]:
    if not np.isfinite(row[f"mean_{next(iter(exact.mean))}"]):
        return np.nan, np.nan, np.nan
    mean, sd = ({column: row[f"{what}_{column}"] for column in exact.mean} for what in ("mean", "sd"))
    if exact.mode_of is None:
        return errors(exact, mean, sd)
    drawn = read_draws(posterior, row["dataset_id"], engine)
    flat = {site: values.reshape(-1, *values.shape[2:]) for site, values in drawn.posterior.items()}
    return errors(exact, mean, sd, flat, relative_weights(drawn).ravel())


def _command(*arguments: str | Path) -> None:
    line = [sys.executable, "-m", "chainsweep", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        )


def answers_of(
    name: str, engines: Sequence[str], count: int, workers: int, plain: bool
) -> tuple[list[Answer], float, str]:
    """The answers of all methods to one case, the seconds that they took, and what broke, if anything did."""
    began, broken = time.monotonic(), ""
    sets = datasets_of(name, min(count, getattr(load(name), "DATASETS", count)))
    found: list[Answer] = []
    try:
        exacts = [load(name).exact(**fields) for fields in sets]
    except ArithmeticError as error:
        return [], time.monotonic() - began, f"no exact posterior: {error}"
    try:
        found += by_campaign(name, engines, exacts, workers)
    except RuntimeError as error:
        broken = str(error)
    if plain:
        line = [sys.executable, "-m", "benchmarks.truth.plain", name, str(min(len(sets), PLAIN_DATASETS))]
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, cwd=ROOT)
        if done.returncode:
            broken = f"{broken} {' '.join(line)} ended with {done.returncode}".strip()
        else:
            found += [Answer(**each) for each in json.loads(done.stdout)]
    return found, time.monotonic() - began, broken


def main() -> int:
    """Run the bench; exit with 1 if anything that is called converged by chainsweep is wrong, or a campaign broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=case_names(), metavar="CASE")
    parser.add_argument("--engines", nargs="+", choices=ENGINES)
    parser.add_argument("--datasets", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plain", action="store_true", help="plain NumPyro NUTS and plain emcee on the same data too")
    parser.add_argument("--jobs", type=int, default=2, help="campaigns at a time, of a worker each; 1: of all cores")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-truth.json")
    options = parser.parse_args()
    names = options.only or (list(QUICK) if options.quick else case_names())
    count = options.datasets or (1 if options.quick else DATASETS)
    workers = (os.cpu_count() or 1) if options.jobs == 1 else 1
    answers: list[Answer] = []
    took: dict[str, float] = {}
    faults: list[str] = []

    def answered(name: str) -> tuple[list[Answer], float, str]:
        engines = options.engines or ((QUICK[name],) if options.quick and name in QUICK else ENGINES)
        return answers_of(name, engines, count, workers, options.plain)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, (found, seconds, broken) in zip(names, pool.map(answered, names), strict=True):
            took[name] = seconds
            answers += found
            faults += [f"{name}: {broken}"] if broken else []
            options.out.write_text(json.dumps([asdict(each) for each in answers], indent=1) + "\n", encoding="utf-8")
            print(*table(found, took).splitlines()[2:-1], *([name, broken] if broken else []), flush=True)
    print(table(answers, took))
    posteriors = len({(answer.family, answer.dataset) for answer in answers})
    print(f"{len(names)} cases, {posteriors} posteriors, {time.monotonic() - began:.0f} s in all")
    wrong = [answer for answer in answers if answer.is_wrong]
    print(*(f"wrong: {answer}" for answer in wrong), *(f"broke: {fault}" for fault in faults), sep="\n")
    return 1 if faults or any(answer.method in ENGINES for answer in wrong) else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(ROOT / "src"))
    sys.exit(main())
