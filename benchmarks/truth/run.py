"""Whole campaigns on small posteriors with exact answers: what is `converged` must be right.

    make bench-truth                                     # all families and engines, and the plain scripts
    python -m benchmarks.truth.run --quick               # two data sets a family, without SNPE and plain scripts
    python -m benchmarks.truth.run --only funnel logistic --datasets 16

A family is one file of `families/`: the model file that a campaign is given, with `dataset(rng)`, the fields
of a data set, and `exact(**fields)`, its posterior, written a second time without the package. `wrong` counts the data
sets that a method calls converged and whose mean is off by 0.3 sd, whose sd by 30 %, or whose share of a mode by 0.05.
The table is printed, and every data set's errors are kept in `build/bench-truth.json`.
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
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from benchmarks.truth.exact import Exact
from chainsweep.store.draws import read_draws, relative_weights

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = Path(__file__).with_name("families")
ENGINES = ("nuts", "emcee", "snpe")
PLAIN = ("plain NUTS", "plain emcee")
DATASETS, QUICK_DATASETS = 8, 2
SEED = 20261129
MOST_MEAN, MOST_SD, MOST_MASS = 0.3, 0.3, 0.05
"""The errors above which an answer is wrong: of a mean, in exact sds; of an sd, relative; of the share of a mode."""


@dataclass(frozen=True)
class Answer:
    """The answer of one method to one data set, with its errors; NaN where there are no draws."""

    family: str
    method: str
    dataset: int
    converged: bool
    mean_error: float
    sd_error: float
    mass_error: float
    seconds: float
    reason: str = ""

    @property
    def is_wrong(self) -> bool:
        """True where it is called converged and is not the exact posterior."""
        close = self.mean_error < MOST_MEAN and self.sd_error < MOST_SD and self.mass_error < MOST_MASS
        return self.converged and not close


def family_names() -> list[str]:
    return sorted(path.stem for path in FAMILIES.glob("*.py") if path.stem != "__init__")


def load(name: str) -> ModuleType:
    return import_module(f"benchmarks.truth.families.{name}")


def datasets_of(family: ModuleType, count: int) -> list[dict[str, np.ndarray]]:
    """The fields of the data sets, the same for every number of them."""
    name = family.__name__.rpartition(".")[2]
    return [family.dataset(np.random.default_rng([SEED, *name.encode(), number])) for number in range(count)]


def errors(
    exact: Exact,
    mean: Mapping[str, float],
    sd: Mapping[str, float],
    draws: Mapping[str, np.ndarray] | None = None,
    weights: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """The largest errors of the means, in exact sds, of the sds, relative, and of the shares of modes."""
    off = [abs(mean[name] - exact.mean[name]) / exact.sd[name] for name in exact.mean]
    ratio = [max(sd[name] / exact.sd[name], exact.sd[name] / max(sd[name], 1e-300)) - 1 for name in exact.mean]
    share = 0.0
    if exact.mode_of is not None and draws is not None:
        found = np.bincount(np.asarray(exact.mode_of(draws)).ravel(), weights, minlength=len(exact.masses))
        share = float(np.max(np.abs(found / found.sum() - exact.masses)))
    return float(np.max(off)), float(np.max(ratio)), share


def by_campaign(name: str, engines: Sequence[str], count: int, exacts: Sequence[Exact]) -> Iterator[Answer]:
    """The answers of the engines: one campaign, from its command line."""
    family = load(name)
    served = [engine for engine in engines if engine in getattr(family, "ENGINES", ENGINES)]
    if not served:
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sets = datasets_of(family, count)
        np.savez(folder / "data.npz", **{field: np.stack([each[field] for each in sets]) for field in sets[0]})
        (folder / "model.py").write_text(Path(str(family.__file__)).read_text(encoding="utf-8"), encoding="utf-8")
        listed = ", ".join(f'"{engine}"' for engine in served)
        (folder / "campaign.toml").write_text(
            f'[campaign]\nname = "{name}"\n[model]\nfile = "model.py"\n[data]\nsource = "data.npz"\n'
            f"[policy]\nengines = [{listed}]\n[report]\nworst = 0\n",
            encoding="utf-8",
        )
        sweep = folder / "sweep"
        _command("init", folder / "campaign.toml", "--out", sweep)
        _command("run", sweep)
        rows = pd.read_parquet(sweep / "catalogue.parquet")
        for engine in served:
            own = rows[rows["engine"] == engine]
            for number, row in enumerate(own.to_dict("records")):
                yield _answer(name, engine, number, row, exacts[number], sweep / "posterior.h5")


def _answer(name: str, engine: str, number: int, row: dict, exact: Exact, posterior: Path) -> Answer:
    found = (np.nan, np.nan, np.nan)
    if np.isfinite(row[f"mean_{next(iter(exact.mean))}"]):
        mean, sd = ({column: row[f"{what}_{column}"] for column in exact.mean} for what in ("mean", "sd"))
        drawn = read_draws(posterior, row["dataset_id"], engine) if exact.mode_of is not None else None
        weights = None if drawn is None else relative_weights(drawn).ravel()
        flat = None if drawn is None else {k: v.reshape(-1, *v.shape[2:]) for k, v in drawn.posterior.items()}
        found = errors(exact, mean, sd, flat, weights)
    return Answer(name, engine, number, row["verdict"] == "converged", *found, row["seconds"], row["reason"])


def _command(*arguments: str | Path) -> None:
    line = [sys.executable, "-m", "chainsweep", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def table(answers: Sequence[Answer], took: Mapping[str, float]) -> str:
    """The answers as a Markdown table: a row for each family, and a column for each method."""
    methods = list(dict.fromkeys(answer.method for answer in answers))
    lines = [
        "| family | " + " | ".join(f"{m}: converged, wrong, worst mean, worst sd" for m in methods) + " |",
        "|---|" + "---|" * len(methods),
    ]
    for name in dict.fromkeys(answer.family for answer in answers):
        cells = [_cell([a for a in answers if (a.family, a.method) == (name, method)]) for method in methods]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = [_cell([a for a in answers if a.method == method]) for method in methods]
    lines.append(f"| **all** | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{sum(took.values()):.0f} s in all"])


def _cell(answers: Sequence[Answer]) -> str:
    good = [answer for answer in answers if answer.converged]
    if not answers:
        return "–"
    if not good:
        return f"0/{len(answers)}"
    wrong = sum(answer.is_wrong for answer in good)
    mean, sd = (max(getattr(answer, what) for answer in good) for what in ("mean_error", "sd_error"))
    return f"{len(good)}/{len(answers)}, {f'**{wrong}**' if wrong else 0}, {mean:.2f}, {sd:.0%}"


def main() -> int:
    """Run the bench; exit with 1 if anything that is called converged by chainsweep is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=family_names(), default=family_names())
    parser.add_argument("--engines", nargs="+", choices=ENGINES)
    parser.add_argument("--datasets", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plain", action="store_true", help="plain NumPyro NUTS and plain emcee on the same data too")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-truth.json")
    options = parser.parse_args()
    engines = options.engines or (("nuts", "emcee") if options.quick else ENGINES)
    count = options.datasets or (QUICK_DATASETS if options.quick else DATASETS)
    answers: list[Answer] = []
    took: dict[str, float] = {}
    for name in options.only:
        began = time.monotonic()
        sets = datasets_of(load(name), count)
        exacts = [load(name).exact(**fields) for fields in sets]
        found = list(by_campaign(name, engines, count, exacts))
        if options.plain and hasattr(load(name), "model"):
            from benchmarks.truth.plain import answers_of

            found += answers_of(name, sets, exacts)
        took[name] = time.monotonic() - began
        answers += found
        print(table(found, {name: took[name]}).splitlines()[2], f"{took[name]:.0f} s", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(answer) for answer in answers], indent=1) + "\n", encoding="utf-8")
    print(table(answers, took))
    wrong = [answer for answer in answers if answer.is_wrong]
    for answer in wrong:
        print(f"wrong: {answer.family} {answer.method} {answer.dataset}: {answer}")
    return 1 if any(answer.method in ENGINES for answer in wrong) else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(ROOT / "src"))
    sys.exit(main())
