"""Effective draws as SNPE publishes them, compared with the truth, for 1,000 posteriors and stand-ins of a network.

    python -m benchmarks.ess            # 1,000 posteriors: a table, build/bench-ess.json and build/bench-ess.png
    python -m benchmarks.ess --quick    # 100 posteriors

The posteriors (benchmarks/ess_targets.py) have a known density, and the stand-in of the network is a normal
distribution that fits it, is narrower or wider, shifted, without one of its modes, or nearly blind. The rest is the
package's own: draws of the proposal stage by stage until they suffice, else the quick, the thorough and the broad
adaptation. The true number of effective draws of a proposal q is ``n / E_p[p / q]``, from exact draws of the posterior
p, which meet the largest weights often, where draws of q may never meet them. (Where the weights have no variance that
number is 0; the mean over 20,000 draws of p is then a number of that order of draws.)
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ess_targets import FAMILIES, FAR, Posterior, Posteriors, posterior
from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.weights import effective_sample_size
from chainsweep.engines.snpe import inference
from chainsweep.engines.snpe.proposal import Proposal
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.importance import adaptive
from chainsweep.importance.global_proposal import DEEP, QUICK
from chainsweep.importance.mixture import log_density
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.modes import Pool
from chainsweep.importance.target import from_chains, from_prior, target_of
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.mode_check import LEAST_ESS, PASSES

BUILD = Path(__file__).resolve().parents[1] / "build"
DIMENSIONS = (1, 2, 3, 4, 6, 8, 10)
NETWORKS = ("fitted", "narrow", "wide", "shifted", "one mode", "blind")
TOGETHER = 12
EXACT_DRAWS = 20_000
"""Draws of a posterior for the truth."""


@dataclass(frozen=True)
class Claim:
    """The effective draws of one posterior as published (``claimed``), by Kish's formula, and the truth."""

    family: str
    network: str
    dimension: int
    stage: str
    draws: int
    khat: float
    claimed: float
    kish: float
    true: float
    true_error: float
    """The relative standard error of ``true``."""
    rounds: float
    seconds: float


class NormalNetwork:
    """Normal distributions in place of a network: ``draw`` and ``log_density`` are those of `Network`."""

    def __init__(self, mean: Any, factor: Any) -> None:
        self.mean, self.factor = mean, factor
        self.usable = np.ones(len(mean), bool)

    def draw(self, base: Any, rows: Any = None) -> tuple[Any, Any]:
        """Return draws made from normal numbers ``base`` ``(row, draw, n)``, and their log density."""
        rows = np.arange(len(base)) if rows is None else rows
        z = self.mean[rows, None] + np.einsum("rij,rkj->rki", self.factor[rows], base)
        return z, self.log_density(z, rows)

    def log_density(self, z: Any, rows: Any) -> Any:
        """The log density ``(row, draw)``."""
        scaled = np.linalg.solve(self.factor[rows], np.swapaxes(z - self.mean[rows, None], 1, 2))
        volume = np.log(np.diagonal(self.factor[rows], axis1=1, axis2=2)).sum(axis=1)
        return -0.5 * (scaled**2).sum(axis=1) - volume[:, None] - z.shape[-1] / 2 * np.log(2 * np.pi)


def stand_in(kind: str, target: Posterior, rng: np.random.Generator) -> tuple[Any, Any]:
    """The mean and factor of a normal distribution that is fitted to a posterior, and then spoilt."""
    z = target.draw(rng, 4000)
    if kind == "one mode" and target.family == "mixture":
        along = (z - target.mean) @ np.linalg.inv(target.root)[0]
        z = z[along < 0.0] if target.share > 0.5 else z[along > 0.0]
    mean, factor = z.mean(axis=0), np.linalg.cholesky(np.cov(z.T).reshape(z.shape[1], -1))
    n = len(mean)
    if kind == "narrow":
        factor = factor * rng.uniform(0.6, 0.95)
    elif kind == "wide":
        factor = factor * rng.uniform(1.1, 2.0)
    elif kind == "shifted":
        step = rng.standard_normal(n)
        mean = mean + factor @ (step / np.linalg.norm(step) * rng.uniform(0.3, 1.5))
    elif kind == "blind":
        mean, factor = mean + 2.0 * factor @ rng.standard_normal(n), 4.0 * factor
    return mean, factor


def normal_fits(target: Posterior, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """A normal fit of each of the two modes, as the arrays of a mixture; they are one where there is one mode."""
    z = target.draw(rng, 4000)
    first = (z - target.mean) @ np.linalg.inv(target.root)[0] < 0.0 if target.family == "mixture" else z[:, 0] < np.inf
    parts = [z[first], z[~first] if target.family == "mixture" else z]
    factors = [np.linalg.cholesky(np.cov(part.T).reshape(z.shape[1], -1)) for part in parts]
    return np.log([0.5, 0.5]), np.stack([part.mean(axis=0) for part in parts]), np.stack(factors)


@contextmanager
def recorded() -> Iterator[dict[bytes, Mixture]]:
    """The mixtures from which draws of the adaptation came, by the bytes of the first draw."""
    seen: dict[bytes, Mixture] = {}
    original = adaptive.draw

    def draw(mixture: Mixture, keys: Any, count: int) -> Any:
        z = original(mixture, keys, count)
        for i, own in enumerate(np.asarray(z)):
            seen[own[0].tobytes()] = Mixture(*(np.asarray(part)[i : i + 1] for part in mixture))
        return z

    adaptive.draw = draw
    try:
        yield seen
    finally:
        adaptive.draw = original


def claims_of(members: list[Posterior], kinds: list[str], number: int, settings: SnpeSettings) -> list[Claim]:
    """Claims and truth of a few posteriors of one dimension."""
    ids = [f"ess-{number}-{i}" for i in range(len(members))]
    rng = np.random.default_rng(number)
    batched, seeds = Posteriors(members, ids), Seeds(11, "snpe")
    stands = [stand_in(kind, target, rng) for kind, target in zip(kinds, members, strict=True)]
    network = NormalNetwork(*(np.stack(part) for part in zip(*stands, strict=True)))
    thorough = inference.thorough_of(settings, VerdictSection())
    info = inference.Info.empty(len(members))
    info.rounds[:] = 0.0
    started = time.monotonic()
    with recorded() as seen:
        drawn = inference._network_draws(batched, network, info, thorough, seeds)
        inference._adapt(batched, network, drawn, info, thorough, seeds)
    seconds = (time.monotonic() - started) / len(members)
    proposal = Proposal(network, tuple(ids), members[0].mean.size, seeds)
    found = []
    for i, target in enumerate(members):
        exact, count = target.draw(rng, EXACT_DRAWS)[None], int(drawn.count[i])
        mixture = seen.get(drawn.z[i, 0].tobytes())
        log_q = log_density(mixture, exact) if mixture else proposal.log_density(exact, np.array([i]))
        ratio = np.exp(target.log_density(exact[0]) - log_q[0])
        stage = "network" if mixture is None else "quick" if count < settings.draws else "thorough"
        figures = (float(info.khat[i]), float(info.ess[i]), float(effective_sample_size(drawn.log_weight[i, :count])))
        true, error = count / ratio.mean(), ratio.std() / ratio.mean() / np.sqrt(len(ratio))
        about = (target.family, kinds[i], len(target.mean), stage, count)
        found.append(Claim(*about, *figures, float(true), float(error), float(info.rounds[i]), seconds))
    return found


def searches_of(members: list[Posterior], number: int) -> list[Claim]:
    """Claims and truth of what the chains' search and the mode check adapt, each quickly, and thoroughly where needed.

    Both know prior draws; the search knows normal fits of the modes too, and the mode check 400 exact draws.
    """
    ids = tuple(f"search-{number}-{i}" for i in range(len(members)))
    rng, seeds = np.random.default_rng(number + 7), Seeds(12, "nuts")
    batched = Posteriors(members, list(ids))
    n, target = members[0].mean.size, target_of(batched)
    z = batched.sample_prior(seeds.jax_keys(ids, "prior", 1)[:, 0], 4096)
    log_prior = -0.5 * (z**2).sum(axis=-1) / FAR**2 - n / 2 * np.log(2 * np.pi * FAR**2)
    start = from_prior(target, Pool(z, z, batched.log_density_unconstrained(z) - log_prior), QUICK.draws)
    exact = np.stack([member.draw(rng, 400) for member in members])
    modes = Mixture(*(np.stack(part) for part in zip(*(normal_fits(m, rng) for m in members), strict=True)))
    chains = from_chains(target, exact, seeds.jax_keys(ids, "kernels", 1)[:, 0])
    found = []
    for name, passes, components, least in (
        ("search", (QUICK, DEEP), modes, QUICK.ess),
        ("mode check", PASSES, chains, LEAST_ESS),
    ):
        left = np.arange(len(members))
        own = start._replace(mode_components=components)
        for k, settings in enumerate(passes):
            started = time.monotonic()
            with recorded() as seen:
                result = adaptive.adapt(target, own, seeds.jax_keys(ids, f"{name}-{k}", 1)[:, 0], settings, left)
            seconds = (time.monotonic() - started) / max(left.size, 1)
            good = (result.khat < settings.khat) & (result.ess >= least)
            for i in left[good[left] | (k == len(passes) - 1)]:
                member = members[i]
                draws = member.draw(rng, EXACT_DRAWS // 2)
                mixture = seen.get(result.z[i, 0].tobytes())
                if mixture is None:
                    continue
                ratio = np.exp(member.log_density(draws) - log_density(mixture, draws[None])[0])
                kish = float(effective_sample_size(result.log_weight[i]))
                figures = (float(result.khat[i]), float(result.ess[i]), kish)
                true, error = settings.draws / ratio.mean(), ratio.std() / ratio.mean() / np.sqrt(len(ratio))
                about = (member.family, name, n, f"{name} {k + 1}", settings.draws)
                found.append(Claim(*about, *figures, float(true), float(error), float(result.rounds[i]), seconds))
            left = left[~good[left]]
            if not left.size:
                break
    return found


def measured(count: int, searches: bool, seed: int, families: Sequence[str]) -> list[Claim]:
    """The claims of ``count`` posteriors: all families, stand-ins and dimensions in turn."""
    rng, settings, claims = np.random.default_rng(seed), SnpeSettings(), []
    pairs = list(itertools.product(families, NETWORKS))
    each = -(-count // len(DIMENSIONS))
    for n in DIMENSIONS:
        chosen = [pairs[k % len(pairs)] for k in rng.permutation(len(pairs) * (-(-each // len(pairs))))[:each]]
        members = [posterior(family, n, rng) for family, _ in chosen]
        for first in range(0, each, TOGETHER):
            part = slice(first, min(first + TOGETHER, each))
            number = 1000 * n + first
            claims += claims_of(members[part], [kind for _, kind in chosen[part]], number, settings)
            if searches:
                claims += searches_of(members[part], number)
    return claims


def passes(claim: Claim) -> bool:
    """True where the weights are verified."""
    limits = VerdictSection()
    return claim.khat < limits.khat and claim.claimed > limits.ess


def row(name: str, claims: list[Claim]) -> str:
    """A row of the table: quantiles of claimed / true of the verified, the largest, how many exceed 2, and Kish's."""
    held = [claim for claim in claims if passes(claim)]
    if not held:
        return f"| {name} | 0 of {len(claims)} |" + " |" * 8
    ratio = np.array([claim.claimed / claim.true for claim in held])
    kish = np.array([claim.kish / claim.true for claim in held])
    low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
    quantiles = " | ".join(f"{value:.2f}" for value in (middle, low, high, *np.quantile(kish, [0.5, 0.95, 0.99])))
    return f"| {name} | {len(held)} of {len(claims)} | {quantiles} | {(ratio > 2.0).sum()} | {(kish > 2.0).sum()} |"


def table(claims: list[Claim]) -> str:
    """The table of claimed / true: of all, and by everything that a claim has."""
    head = "| | verified | median | 5 % | 95 % | Kish: median | 95 % | 99 % | above 2 | Kish above 2 |"
    lines = [head, "|---|" + "---:|" * 9, row("**all**", claims)]
    for field in ("family", "network", "dimension", "stage"):
        for value in sorted({getattr(claim, field) for claim in claims}):
            lines.append(row(f"{field} {value}", [claim for claim in claims if getattr(claim, field) == value]))
    for low, high in itertools.pairwise((-np.inf, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7)):
        lines.append(row(f"k-hat {low:g} to {high:g}", [claim for claim in claims if low <= claim.khat < high]))
    return "\n".join(lines)


def drawn(claims: list[Claim], path: Path) -> None:
    """Save the figure: claimed against true effective draws of the verified, by stage."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    held = [claim for claim in claims if passes(claim)]
    for stage in sorted({claim.stage for claim in held}):
        some = [claim for claim in held if claim.stage == stage]
        axes.scatter([c.true for c in some], [c.claimed for c in some], s=8, alpha=0.6, label=stage)
    ends = np.array([50.0, 8000.0])
    for factor, style in ((0.5, ":"), (1.0, "-"), (2.0, ":")):
        axes.plot(ends, factor * ends, style, color="grey", lw=1)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=(300, 8000))
    axes.set(xlabel="true effective draws", ylabel="claimed effective draws")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print the table, and keep the claims."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="100 posteriors in place of 1,000")
    options.add_argument("--count", type=int, help="the number of posteriors")
    options.add_argument("--only", nargs="+", default=FAMILIES, choices=FAMILIES, help="families of posteriors")
    options.add_argument("--seed", type=int, default=2024, help="the seed of the posteriors")
    options.add_argument("--searches", action="store_true", help="also the weights of searches and mode checks")
    given = options.parse_args()
    jax.config.update("jax_enable_x64", True)
    started = time.monotonic()
    claims = measured(given.count or (100 if given.quick else 1000), given.searches, given.seed, given.only)
    print(table(claims))
    print(f"{time.monotonic() - started:.0f} s; draws and adaptation {sum(claim.seconds for claim in claims):.0f} s")
    BUILD.mkdir(exist_ok=True)
    drawn(claims, BUILD / "bench-ess.png")
    (BUILD / "bench-ess.json").write_text(json.dumps([asdict(claim) for claim in claims]))


if __name__ == "__main__":
    main()
