"""Easy posteriors beside vmapped NumPyro: seconds from `chainsweep run` to the verdicts of 256 data sets.

    make bench-easy
    python -m benchmarks.easy --only logistic --datasets 64

Five families of the truth bench by NUTS alone, with an empty cache of compiled programs and again with a warm one. The
peer is NumPyro's kernel vmapped over chains and data sets (`nuts.py`, row c), one process for each core with its part
of the data sets, from the start of Python to R-hat and effective draws. It looks for no modes. `wrong` counts verified
ones of the first 16 data sets whose mean is off by 0.3 sd, or sd by 30 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.start import CHAINSWEEP, followed, frozen, plain_environment
from benchmarks.truth.answers import MOST_MEAN, MOST_SD, errors
from benchmarks.truth.cases import datasets_of, load, text_of
from chainsweep.campaign.campaign import Campaign
from chainsweep.machine.environment import prepare
from chainsweep.store.catalogue import read_catalogue

FAMILIES = ("logistic", "poisson_counts", "unknown_sigma", "student_t", "gamma_rates")
DATASETS = 256
COMPARED = 16
"""The number of data sets that are compared with the exact posterior."""


@dataclass(frozen=True)
class Row:
    """The seconds that one way took for all data sets of a family, and how many are verified and, of some, wrong."""

    family: str
    way: str
    datasets: int
    verified: int
    wrong: int
    seconds: float


def campaign_of(family: str, datasets: int, folder: Path) -> Campaign:
    """A frozen campaign of a family by NUTS."""
    folder.mkdir(parents=True)
    sets = datasets_of(family, datasets)
    np.savez(folder / "data.npz", **{field: np.stack([each[field] for each in sets]) for field in sets[0]})
    (folder / "model.py").write_text(text_of(family), encoding="utf-8")
    (folder / "campaign.toml").write_text(
        '[campaign]\nname = "easy"\n[model]\nfile = "model.py"\n[data]\nsource = "data.npz"\n'
        '[policy]\nengines = ["nuts"]\n[report]\nworst = 0\n',
        encoding="utf-8",
    )
    return frozen(folder / "campaign.toml", folder / "campaign")


def wrong_of(family: str, verified: Sequence[bool], mean: Sequence[dict], sd: Sequence[dict]) -> int:
    """The number of verified ones of the first data sets that are not the exact posterior."""
    wrong = 0
    for number, fields in enumerate(datasets_of(family, min(COMPARED, len(verified)))):
        if verified[number]:
            of_mean, of_sd, _ = errors(load(family).exact(**fields), mean[number], sd[number])
            wrong += of_mean >= MOST_MEAN or of_sd >= MOST_SD
    return int(wrong)


def by_chainsweep(family: str, datasets: int, place: Path) -> list[Row]:
    rows = []
    for cache in ("cold", "warm"):
        campaign = campaign_of(family, datasets, place / cache)
        words = (*CHAINSWEEP, "run", str(campaign.paths.root))
        took = followed(family, cache, campaign, "nuts", words, place / "programs").shards_seconds
        found = read_catalogue(campaign.paths.catalogue)
        names = [name.removeprefix("mean_") for name in found if name.startswith("mean_")]
        tables = [found[[f"{what}_{name}" for name in names]].set_axis(names, axis=1) for what in ("mean", "sd")]
        good = (found["verdict"] == "converged").tolist()
        wrong = wrong_of(family, good, *(table.to_dict("records") for table in tables))
        rows.append(Row(family, f"chainsweep, {cache}", datasets, sum(good), wrong, took))
    return rows


def by_peer(family: str, datasets: int, place: Path) -> Row:
    """The peer in as many processes as there are cores."""
    campaign_of(family, datasets, place / "peer")
    edges = np.unique(np.linspace(0, datasets, (os.cpu_count() or 1) + 1).astype(int)).tolist()
    environment = plain_environment(PYTHONPATH=os.pathsep.join(sys.path))
    began = time.perf_counter()
    line = (sys.executable, "-m", "benchmarks.easy", "--peer", str(place / "peer" / "campaign"))
    running = [
        subprocess.Popen((*line, str(first), str(last)), env=environment, stdout=subprocess.PIPE, text=True)
        for first, last in pairwise(edges)
    ]
    said = [process.communicate()[0] for process in running]
    took = time.perf_counter() - began
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of the peer of {family} failed")
    parts = [json.loads(text) for text in said]
    good, mean, sd = ([each for part in parts for each in part[name]] for name in ("verified", "mean", "sd"))
    return Row(family, "NumPyro vmapped", datasets, sum(good), wrong_of(family, good, mean, sd), took)


def peer(folder: Path, first: int, last: int) -> None:
    """Print what the peer finds for the data sets ``first`` to ``last`` of a campaign."""
    from benchmarks import nuts

    prepare()
    from chainsweep.model.batched import BatchedProblem

    campaign = Campaign(folder)
    batch = campaign.collection.batch(np.arange(first, last), int(campaign.collection.lengths.max()))
    problem = campaign.problem
    draws, verified, _ = nuts.peer("c", problem, batch, {})
    theta = BatchedProblem(problem, batch).constrain(draws.z.reshape(len(batch), -1, draws.z.shape[-1]))
    moments = [
        [dict(zip(problem.names, row, strict=True)) for row in table.tolist()]
        for table in (theta.mean(axis=1), theta.std(axis=1))
    ]
    print(json.dumps({"verified": verified.tolist(), "mean": moments[0], "sd": moments[1]}))


def table(rows: Sequence[Row]) -> str:
    lines = ["| family | way | verified | wrong of 16 | s | verified/s |", "|---|---|---|---|---|---|"]
    for row in rows:
        verified, rate = f"{row.verified} of {row.datasets}", row.verified / row.seconds
        lines.append(f"| {row.family} | {row.way} | {verified} | {row.wrong} | {row.seconds:.0f} | {rate:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--datasets", type=int, default=DATASETS)
    parser.add_argument("--peer", nargs=3, metavar=("CAMPAIGN", "FIRST", "LAST"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench-easy.json"))
    options = parser.parse_args()
    if options.peer:
        return peer(Path(options.peer[0]), int(options.peer[1]), int(options.peer[2]))
    rows: list[Row] = []
    for family in options.only:
        with tempfile.TemporaryDirectory() as place:
            rows += [
                *by_chainsweep(family, options.datasets, Path(place)),
                by_peer(family, options.datasets, Path(place)),
            ]
        print(table(rows[-3:]), flush=True)
    print(table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
