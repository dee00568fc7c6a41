"""Modes of known mass, planted far from the chains: which of them the mode check sees, and which it misses.

    python -m benchmarks.planted_modes             # all sizes, distances and dimensions
    python -m benchmarks.planted_modes --quick     # 1, 2 and 5 parameters alone

The posterior is a normal distribution of unit width and a planted mode, in a normal prior that holds both. Chains that
never went to the planted mode are given to the check (`seen`, `missed` or `open`, where it says that it can tell
nothing), and chains with the right share of it (`right`, `alarm` or `open`). `missed` are only those that count: a
mass above 1 %, or an sd that it changes by 20 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.stats import chi2

from chainsweep.campaign.config import parse_config
from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.load import example_observation, load_problem
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.mode_candidates import check_chains
from chainsweep.verdicts.rules import checks_of, mode_rules

MASSES = (0.005, 0.01, 0.02, 0.05)
DISTANCES = (3.0, 5.0, 10.0, 30.0, 100.0)
WIDTHS = (0.2, 1.0, 3.0)
DIMENSIONS = (1, 2, 5, 10, 20)
QUICK_DIMENSIONS = (1, 2, 5)
CHAINS, DRAWS = 4, 500
LEAST_PRIOR_SD = 3.0
"""The smallest sd of the prior, in sds of the main mode."""
LEAST_MASS, LEAST_SD_RATIO = 0.01, 1.2
"""The mass outside the main mode, and the ratio of sds with and without it, above which a missed mode counts."""
MAIN_MODE = 0.9995
"""The share of the main mode's draws that lie within what counts as inside."""
MODEL = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

DIMENSIONS = {dimensions}


def normal(z, centre, sd):
    return -0.5 * jnp.sum(((z - centre) / sd) ** 2) - DIMENSIONS * jnp.log(sd)


def model(x, half, mass, width, prior_sd, y=None):
    z = numpyro.sample("z", dist.Normal(0.0, prior_sd).expand([DIMENSIONS]).to_event(1))
    here = jnp.log1p(-mass) + normal(z, -half, 1.0)
    there = jnp.log(mass) + normal(z, half, width)
    numpyro.factor("posterior", jnp.logaddexp(here, there) - normal(z, 0.0, prior_sd))
    numpyro.sample("y", dist.Normal(0.0 * x, 1.0), obs=y)
"""


@dataclass(frozen=True)
class Planted:
    """A planted mode: its share of the mass, its distance and width in sds of the main mode, and the dimensions."""

    dimensions: int
    mass: float
    distance: float
    width: float

    @property
    def half(self) -> float:
        """The distance of each mode from the origin along each axis."""
        return 0.5 * self.distance / float(np.sqrt(self.dimensions))

    @property
    def prior_sd(self) -> float:
        """The sd of the prior along each axis: wide enough for both modes and for the width of each."""
        return max(LEAST_PRIOR_SD, 2.0 * self.half, 2.0 * self.width)

    @property
    def counts(self) -> bool:
        """True where chains without the mode are wrong."""
        variance = 1 + self.mass * (self.width**2 - 1) + self.mass * (1 - self.mass) * (2 * self.half) ** 2
        within = self.draws(np.random.default_rng(0), 1.0).reshape(-1, self.dimensions) + self.half
        outside = self.mass * np.mean((within**2).sum(axis=1) > chi2.ppf(MAIN_MODE, self.dimensions))
        return bool(outside > LEAST_MASS or np.sqrt(variance) > LEAST_SD_RATIO)

    def draws(self, rng: np.random.Generator, share: float) -> np.ndarray:
        """Draws ``(CHAINS, DRAWS, dimensions)``, ``share`` of which are in the planted mode."""
        there = rng.uniform(size=(CHAINS, DRAWS, 1)) < share
        noise = rng.standard_normal((CHAINS, DRAWS, self.dimensions))
        return np.where(there, self.half + self.width * noise, -self.half + noise)


@dataclass(frozen=True)
class Found:
    """The words of the check on chains without the planted mode, and on chains with it."""

    planted: Planted
    lacking: str
    whole: str
    mass_outside: float
    seconds: float


def problem_of(cases: Sequence[Planted], repeat: int) -> BatchedProblem:
    """The posteriors of planted modes of one number of dimensions, as one batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.py"
        path.write_text(MODEL.format(dimensions=cases[0].dimensions), encoding="utf-8")
        names = ("half", "mass", "width", "prior_sd")
        data = {"fields": {"x": "x", "y": "y"}, "constants": list(names)}
        config = parse_config({"model": {"file": "model.py"}, "data": data}, "planted modes")
        constants = {name: np.array([float(getattr(case, name)) for case in cases]) for name in names}
        fields = {"x": np.zeros((len(cases), 3)), "y": np.full((len(cases), 3), 0.5)}
        ids = tuple(f"{c.mass}-{c.distance}-{c.width}-{repeat}" for c in cases)
        batch = Batch(ids, fields, constants, np.ones((len(cases), 3), bool))
        example = example_observation({k: v[0] for k, v in fields.items()}, {k: v[0] for k, v in constants.items()})
        return BatchedProblem(load_problem(path, config, example), batch)


def said(
    batched: BatchedProblem, cases: Sequence[Planted], shares: Sequence[float], seed: int
) -> tuple[list, np.ndarray]:
    """Return the words of the check on chains with these shares of planted modes, and the mass found outside."""
    rng = np.random.default_rng(seed)
    theta = np.stack([case.draws(rng, share) for case, share in zip(cases, shares, strict=True)])
    chains = Chains(DrawKind.MARKOV, theta, {}, np.full(len(cases), DRAWS))
    ess = np.full(len(cases), float(CHAINS * DRAWS))
    check = check_chains(batched, chains, ess, Seeds(seed, "nuts"))
    figures = [check.significant_shift, check.significant_mass, check.significant_spread]
    passed = np.all([each.passed for each in checks_of(mode_rules(VerdictSection()), figures)], axis=0)
    words = np.where(~check.conclusive, "open", np.where(passed, "passed", "refused"))
    return words.tolist(), check.mass_outside


def measured(dimensions: int, repeat: int) -> list[Found]:
    cases = [Planted(dimensions, *each) for each in product(MASSES, DISTANCES, WIDTHS)]
    batched = problem_of(cases, repeat)
    if repeat == 0:  # compiles
        said(batched, cases[:1] * len(cases), [0.0] * len(cases), repeat)
    began = time.monotonic()
    lacking, outside = said(batched, cases, [0.0] * len(cases), 2 * repeat)
    seconds = (time.monotonic() - began) / len(cases)
    whole, _ = said(batched, cases, [case.mass for case in cases], 2 * repeat + 1)
    rows = zip(cases, lacking, whole, outside.tolist(), strict=True)
    return [Found(case, *what, seconds) for case, *what in rows]


def table(found: Sequence[Found]) -> str:
    """A row for each number of dimensions, width and distance; a letter for each mass."""
    lines = ["| dimensions | width | " + " | ".join(f"{d:g} sd" for d in DISTANCES) + " |"]
    lines.append("|---|---|" + "---|" * len(DISTANCES))
    letters = {"refused": "S", "open": "o", "passed": "M"}
    for dimensions, width in product(sorted({f.planted.dimensions for f in found}), WIDTHS):
        cells = []
        for distance in DISTANCES:
            own = [
                f
                for f in found
                if (f.planted.dimensions, f.planted.width, f.planted.distance) == (dimensions, width, distance)
            ]
            letter = [letters[f.lacking] if f.planted.counts or f.lacking == "refused" else "." for f in own]
            cells.append("".join(letter))
        lines.append(f"| {dimensions} | {width:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(found: Sequence[Found]) -> str:
    counting = [f for f in found if f.planted.counts]
    lines = []
    for dimensions in sorted({f.planted.dimensions for f in found}):
        own, all_own = ([f for f in some if f.planted.dimensions == dimensions] for some in (counting, found))
        seen, missed = (sum(f.lacking == word for f in own) for word in ("refused", "passed"))
        alarms, undecided = (sum(f.whole == word for f in all_own) for word in ("refused", "open"))
        lines.append(
            f"{dimensions:3d} dimensions: {seen} of {len(own)} seen, {missed} missed, {len(own) - seen - missed} open; "
            f"right chains: {alarms} of {len(all_own)} refused, {undecided} open; {all_own[0].seconds:.2f} s a data set"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dimensions", type=int, nargs="*")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/planted-modes.json"))
    arguments = parser.parse_args()
    dimensions = arguments.dimensions or (QUICK_DIMENSIONS if arguments.quick else DIMENSIONS)
    found: list[Found] = []
    for number, repeat in product(dimensions, range(arguments.repeats)):
        found += measured(number, repeat)
        print(summary([f for f in found if f.planted.dimensions == number]), flush=True)
    print(table(found))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([asdict(each) for each in found], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
