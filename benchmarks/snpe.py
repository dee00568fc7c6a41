"""SNPE compared with sbi's own loop: one training for many designs, then exact weights.

    python benchmarks/snpe.py train --kind narrow --minutes 20   # this package; keeps the network in build/
    python benchmarks/snpe.py infer --kind narrow                # fresh data sets through it, with exact weights
    python benchmarks/snpe.py grow --kind narrow                 # cost by data sets and by points
    python benchmarks/snpe.py single                             # (a) sbi as in its tutorials: one design
    python benchmarks/snpe.py loop --kind narrow --minutes 5     # (b) sbi's loop with this network, many designs

Every command prints JSON and writes build/bench-snpe-<command>-<kind>.json. Data: Gaussian peaks drawn from the prior,
20 to 60 points each; training never sees them. Losses are negative log densities of the parameters themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import nuts as bench  # noqa: E402 (the folder of the project comes first)

SHORTEST, LONGEST = 20, 60
DESIGNS = 1024
"""Data sets whose designs are trained on."""
BANK = 50_000
"""Simulations of sbi's loop on the amortised task, which has a fixed set."""
EDGES = {"width": (0.0, 0.05, 0.1, 0.2, 0.5, 2.0), "signal to noise": (0.0, 3.0, 10.0, 30.0, 1000.0)}


@dataclass(frozen=True)
class Made:
    """Data sets as a Batch, and the ``truth`` ``(dataset, parameter)`` that they were made with."""

    batch: Any
    truth: Any

    @property
    def signal_to_noise(self) -> Any:
        """Of the peak alone, ``(dataset,)``."""
        import numpy as np

        x, y_err = self.batch.fields["x"], self.batch.fields["y_err"]
        height, place, width = (self.truth[:, i, None] for i in range(3))
        shape = np.exp(-((x - place) ** 2) / width**2) / y_err**2
        return np.abs(height[:, 0]) * np.sqrt(np.where(self.batch.mask, shape, 0.0).sum(axis=1))


def made(kind: str, datasets: int, seed: int, points: tuple[int, int] = (SHORTEST, LONGEST)) -> Made:
    """Peaks drawn from the prior of a kind, with ragged lengths, padded with their last point."""
    import numpy as np

    from chainsweep.data.collection import Batch

    limits = {"narrow": ([0, 0, 0, -1, 0], [2, 1, 1, 1, 1]), "broad": ([-2, -2, 0, -2, -2], [2, 2, 2, 2, 2])}[kind]
    rng = np.random.default_rng(seed)
    lengths = rng.integers(points[0], points[1] + 1, datasets)
    x = np.sort(rng.uniform(0, 1, (datasets, points[1])), axis=1)
    y_err = rng.uniform(0.05, 0.25, x.shape)
    truth = rng.uniform(*limits, (datasets, 5))
    height, place, width, level, slope = truth.T[:, :, None]
    y = height * np.exp(-((x - place) ** 2) / (2 * width**2)) + level + slope * x + y_err * rng.standard_normal(x.shape)
    last = np.minimum(np.arange(points[1]), lengths[:, None] - 1)
    fields = {name: np.take_along_axis(v, last, 1) for name, v in (("x", x), ("y_err", y_err), ("y", y))}
    mask = np.arange(points[1]) < lengths[:, None]
    return Made(Batch(tuple(f"{kind}-{seed}-{k}" for k in range(datasets)), fields, {}, mask), truth)


def settings_of(options: argparse.Namespace, **more: Any) -> Any:
    from chainsweep.engines.snpe import engine
    from chainsweep.engines.snpe.settings import SnpeSettings, SnpeTuning

    engine.THREADS = options.threads
    given = dict(pair.split("=", 1) for pair in options.set)
    tuning = {name: given.pop(name) for name in SnpeTuning.model_fields.keys() & given.keys()}
    return SnpeSettings(**more | given, tuning=tuning)


def network_path(options: argparse.Namespace) -> Path:
    return options.out / f"bench-snpe-{options.kind}.safetensors"


def load(options: argparse.Namespace) -> Any:
    from safetensors.numpy import load_file

    from chainsweep.engines.snpe.engine import Trained

    return Trained.from_arrays(load_file(network_path(options)))


def loss_of(problem: Any, network: Any, batch: Any, truth: Any) -> Any:
    """``(dataset,)`` negative log density of the true parameters."""
    import numpy as np

    from chainsweep.model.batched import BatchedProblem

    batched = BatchedProblem(problem, batch)
    z = batched.unconstrain(truth[:, None])
    w, log_scale = network.space.to_working(z)
    log_q = network.sampler.log_prob(network.packed, w) + log_scale
    # the density of z over that of theta is the Jacobian, which the two densities of the model differ by
    log_jacobian = np.asarray(batched.log_density_unconstrained(z)) - np.asarray(batched.log_density(truth[:, None]))
    return -(log_q - log_jacobian)[:, 0]


def train(options: argparse.Namespace) -> dict[str, Any]:
    """A network of this package; its history, by seconds and by simulations."""
    import numpy as np
    from safetensors.numpy import save_file

    from chainsweep.diagnostics.calibration import most_overconfident, worst
    from chainsweep.engines.snpe import engine as snpe
    from chainsweep.engines.snpe.network import Network

    problem = bench.model(options.kind)
    settings = settings_of(options, train_minutes=options.minutes, train_steps=10**6)
    began = time.perf_counter()
    trained = snpe.train(
        problem,
        made(options.kind, DESIGNS, 1).batch,
        settings,
        options.seed,
        sink=Notes(),
        resume=None,
        deadline=lambda: False,
    )
    seconds = time.perf_counter() - began
    save_file({name: np.array(v, order="C") for name, v in trained.arrays().items()}, network_path(options))
    fresh = made(options.kind, 2000, 2)
    loss = loss_of(problem, Network(problem, trained, fresh.batch, trained.sampler("cpu")), fresh.batch, fresh.truth)
    found = trained.findings(problem)
    history = trained.history
    return {
        "minutes": options.minutes,
        "seconds": seconds,
        "steps": int(history["step"][-1]),
        "simulations": int(history["simulations"][-1]),
        "held_out_loss": float(loss.mean()),
        "calibration_worst": worst(found).sentence(),
        "calibration_most_overconfident": most_overconfident(found).sentence(),
        "history": [
            {"seconds": float(s), "simulations": int(n), "validation_loss": float(v)}
            for s, n, v in zip(history["seconds"], history["simulations"], history["validation_loss"], strict=True)
        ],
    }


class Notes:
    """A sink that keeps nothing and prints how far it is."""

    def checkpoint(self, state: Any) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        print(f"{done} {note}", file=sys.stderr, flush=True)


def infer(options: argparse.Namespace) -> dict[str, Any]:
    """Fresh data sets through the network: it alone, and with rounds of adaptation where its weights do not suffice."""
    import numpy as np

    from chainsweep.config.sections import VerdictSection
    from chainsweep.engines.base import Inputs
    from chainsweep.engines.snpe import engine as snpe
    from chainsweep.numerics.seeds import Seeds

    problem, trained = bench.model(options.kind), load(options)
    fresh = made(options.kind, options.datasets, 2)
    arguments = {"limits": VerdictSection(), "sink": Notes(), "resume": None, "deadline": lambda: False}
    began = time.perf_counter()
    chains = snpe.run(
        problem, fresh.batch, settings_of(options), Seeds(1, "snpe"), inputs=Inputs(trained=trained), **arguments
    ).chains
    seconds = time.perf_counter() - began
    info, good = chains.info, (chains.info["khat"] < 0.7) & (chains.info["ess"] > 400)
    row = {
        "datasets": options.datasets,
        "seconds": seconds,
        "datasets_per_second": options.datasets / seconds,
        "network_efficiency": np.nanquantile(info["proposal_efficiency"], (0.1, 0.25, 0.5, 0.75)).tolist(),
        "network_khat_good": float((info["proposal_khat"] < 0.7).mean()),
        "good": float(good.mean()),
        "khat_good": float((info["khat"] < 0.7).mean()),
        "rounds": float(np.nanmean(info["rounds"])),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "by": {},
    }
    figures = {"width": fresh.truth[:, 2], "signal to noise": fresh.signal_to_noise}
    for name, edges in EDGES.items():
        for low, high in itertools.pairwise(edges):
            inside = (figures[name] >= low) & (figures[name] < high)
            if inside.any():
                row["by"][f"{name} {low:g} to {high:g}"] = {
                    "datasets": int(inside.sum()),
                    "median_efficiency": float(np.median(info["proposal_efficiency"][inside])),
                    "network_khat_good": float((info["proposal_khat"][inside] < 0.7).mean()),
                    "good": float(good[inside].mean()),
                }
    return row


def grow(options: argparse.Namespace) -> dict[str, Any]:
    """Draws of the network alone, and seconds with weights and rounds, by data sets and by points."""
    import numpy as np

    from chainsweep.config.sections import VerdictSection
    from chainsweep.engines.base import Inputs
    from chainsweep.engines.snpe import engine as snpe
    from chainsweep.engines.snpe.network import Network
    from chainsweep.numerics.seeds import Seeds

    problem, trained, rows = bench.model(options.kind), load(options), []
    arguments = {"limits": VerdictSection(), "sink": Notes(), "resume": None, "deadline": lambda: False}
    sizes = [(n, (SHORTEST, LONGEST)) for n in options.sizes] + [(64, (n, n)) for n in (20, 40, 60)]
    for datasets, points in sizes:
        batch, peaks, good = made(options.kind, datasets, 3, points).batch, [], 0
        began = time.perf_counter()
        for first in range(0, datasets, 4096):
            part = batch.take(np.arange(first, min(first + 4096, datasets)))
            chains = snpe.run(
                problem, part, settings_of(options), Seeds(1, "snpe"), inputs=Inputs(trained=trained), **arguments
            ).chains
            good += int(((chains.info["khat"] < 0.7) & (chains.info["ess"] > 400)).sum())
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        seconds = time.perf_counter() - began
        some = batch.take(np.arange(min(64, datasets)))
        network = Network(problem, trained, some, trained.sampler("cpu"))
        base = np.random.default_rng(0).standard_normal((len(some), 1000, 5))
        began = time.perf_counter()
        network.draw(base)
        draws = base.shape[0] * base.shape[1] / (time.perf_counter() - began)
        rows.append({"datasets": datasets, "points": points, "seconds": seconds, "draws_per_second": draws})
        rows[-1] |= {"datasets_per_second": datasets / seconds, "good": good / datasets, "peak_gib": peaks}
        print(rows[-1], flush=True)
    return {"rows": rows}


def single(options: argparse.Namespace) -> dict[str, Any]:
    """(a) sbi, default NPE on 10,000 simulations of the worked example's first design, and the exact posterior."""
    import numpy as np
    import torch
    from sbi.inference import NPE
    from sbi.utils import BoxUniform

    from chainsweep.config.sections import VerdictSection
    from chainsweep.diagnostics.weights import weighted_mean, weighted_sd
    from chainsweep.engines.base import Inputs
    from chainsweep.engines.snpe import engine as snpe
    from chainsweep.importance.adaptive import Settings, adapt
    from chainsweep.importance.modes import prior_pool
    from chainsweep.importance.target import from_prior, target_of
    from chainsweep.model.batched import BatchedProblem
    from chainsweep.numerics.seeds import Seeds

    problem, first = bench.model("narrow"), worked_example()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    prior = BoxUniform(torch.tensor([0.0, 0, 0, -1, 0]), torch.tensor([2.0, 1, 1, 1, 1]))
    theta = prior.sample((10_000,))
    x, y_err, y = (torch.as_tensor(first.fields[name][0], dtype=torch.float32) for name in ("x", "y_err", "y"))
    height, place, width, level, slope = theta.T[:, :, None]
    curve = height * torch.exp(-((x - place) ** 2) / (2 * width**2)) + level + slope * x
    began = time.perf_counter()
    inference = NPE(prior)
    inference.append_simulations(theta, curve + y_err * torch.randn(curve.shape)).train()
    drawn = inference.build_posterior().sample((4000,), x=y, show_progress_bars=False).numpy()
    seconds = time.perf_counter() - began
    batched, seeds = BatchedProblem(problem, first), Seeds(1, "exact")
    pool = prior_pool(batched, seeds.jax_keys(first.ids, "prior", 1)[:, 0], 1 << 17)
    target = target_of(batched)
    keys = seeds.jax_keys(first.ids, "adapt", 1)[:, 0]
    exact = adapt(target, from_prior(target, pool), keys, Settings(draws=60_000, ess=15_000.0))
    points = batched.constrain(exact.z)
    mean, sd = (
        np.array([figure(points[..., i], exact.log_weight)[0] for i in range(5)])
        for figure in (weighted_mean, weighted_sd)
    )
    options.kind = "narrow"
    # errors of a tenth of an sd are to be seen
    precise = settings_of(options, draws=20_000)
    arguments = {
        "limits": VerdictSection(ess=4000.0),
        "sink": Notes(),
        "resume": None,
        "deadline": lambda: False,
        "inputs": Inputs(trained=load(options)),
    }
    chains = snpe.run(problem, first, precise, Seeds(1, "snpe"), **arguments).chains
    own = slice(int(chains.n_draws[0]))
    flat = chains.theta[0, 0, own]
    log_weight = chains.sample_stats["log_weight"][0, :, own]
    ours = [
        np.array([figure(flat[None, :, i], log_weight)[0] for i in range(5)]) for figure in (weighted_mean, weighted_sd)
    ]
    return {
        "exact_ess": float(exact.ess[0]),
        "sbi_seconds": seconds,
        "sbi_epochs": int(inference.summary["epochs_trained"][-1]),
        "sbi_sd_ratio": (drawn.std(axis=0) / sd).tolist(),
        "sbi_shift_sd": ((drawn.mean(axis=0) - mean) / sd).tolist(),
        "ours_sd_ratio": (ours[1] / sd).tolist(),
        "ours_shift_sd": ((ours[0] - mean) / sd).tolist(),
        "ours_ess": float(chains.info["ess"][0]),
    }


def worked_example() -> Any:
    """The first data set of ``jobs/gaussian_peak`` as a Batch of one."""
    import numpy as np

    from chainsweep.data.collection import Batch

    table = np.genfromtxt(ROOT / "jobs" / "gaussian_peak" / "data" / "peak-000.csv", delimiter=",", names=True)
    fields = {name: table[name][None] for name in ("x", "y_err", "y")}
    return Batch(("first",), fields, {}, np.ones(fields["x"].shape, bool))


def loop(options: argparse.Namespace) -> dict[str, Any]:
    """(b) sbi's own training loop with this package's network and features, on a fixed set of simulations."""
    import numpy as np
    import torch
    from sbi.inference import NPE

    from chainsweep.engines.snpe.designs import usable_designs
    from chainsweep.engines.snpe.estimator import build_estimator
    from chainsweep.engines.snpe.network import architecture_of, fit_encoder
    from chainsweep.engines.snpe.simulator import FreshSimulations, Simulator, usable_pairs

    torch.set_num_threads(options.threads)
    problem, settings = bench.model(options.kind), settings_of(options)
    began = time.perf_counter()
    batches, spaces = usable_designs(problem, [made(options.kind, DESIGNS, 1).batch])
    simulators = [Simulator(problem, batches[0], 5)]
    encoder = fit_encoder(problem, batches, spaces, [simulators[0].rows(9, 4096)], settings.tuning.grid)
    provider, sizes = FreshSimulations(simulators, spaces, encoder), architecture_of(problem, encoder, settings)
    held_out = [torch.as_tensor(part) for part in usable_pairs(*provider.block(0, 4096))]
    blocks = [usable_pairs(*provider.block(k + 1, 5000)) for k in range(BANK // 5000)]
    packed, w = (torch.as_tensor(np.concatenate(parts)) for parts in zip(*blocks, strict=True))
    inference = NPE(prior=None, density_estimator=lambda *_: build_estimator(sizes, 0))
    inference.append_simulations(w, packed)
    history = []
    while time.perf_counter() - began < 60 * options.minutes:
        estimator = inference.train(
            training_batch_size=settings.tuning.batch,
            max_num_epochs=len(history) + 1,
            resume_training=bool(history),
            stop_after_epochs=10**6,
        )
        with torch.no_grad():
            losses = [estimator.loss(held_out[1][i : i + 512], held_out[0][i : i + 512]) for i in range(0, 4096, 512)]
        history.append({"seconds": time.perf_counter() - began, "validation_loss": float(torch.cat(losses).mean())})
        print(history[-1], file=sys.stderr, flush=True)
    best = min(history, key=lambda line: line["validation_loss"])
    return {"simulations": BANK, "epochs": len(history), "best": best, "history": history}


COMMANDS = {"train": train, "infer": infer, "grow": grow, "single": single, "loop": loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--kind", choices=("narrow", "broad"), default="narrow")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--datasets", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of [engines.snpe] and its tuning"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    from chainsweep.machine.environment import prepare

    prepare()
    result = COMMANDS[options.command](options)
    path = options.out / f"bench-snpe-{options.command}-{options.kind}.json"
    path.write_text(json.dumps(result, indent=1))
    print(json.dumps({name: value for name, value in result.items() if name != "history"}, indent=1))


if __name__ == "__main__":
    main()
