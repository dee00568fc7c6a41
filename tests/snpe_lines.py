"""A linear-Gaussian problem with its exact posterior, and a sink that remembers, for the tests of snpe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chainsweep.campaign.config import parse_config
from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.weights import weighted_mean, weighted_sd
from chainsweep.engines.base import Inputs
from chainsweep.engines.chains import Chains
from chainsweep.engines.snpe import engine as snpe
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.model.load import example_observation, load_problem
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays
from chainsweep.numerics.seeds import Seeds
from tests.engine_settings import changed

PRIOR_SD = 2.0

MODEL = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, centre, y=None):
    a = numpyro.sample("a", dist.Normal(centre, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("obs", dist.Normal({curve}, y_err), obs=y)
"""

HOST_MODEL = """
import numpy as np
import numpyro.distributions as dist

prior = {"a": dist.Normal(0, 2), "b": dist.Normal(0, 2)}

def simulate(params, rng, x, y_err, centre):
    return {"y": params["a"] + params["b"] * x + y_err * rng.standard_normal(len(x))}
"""

TINY = changed(
    SnpeSettings(),
    train_steps=40,
    batch=64,
    transforms=2,
    hidden=16,
    embedding=8,
    grid=8,
    draws=500,
    adaptive_rounds=0,
    bank_simulations=1000,
    simulations_per_round=500,
    rounds=2,
    round_steps=30,
)

LEARNING = changed(
    TINY,
    train_steps=400,
    jitter=0.0,
    batch=128,
    learning_rate=3e-3,
    hidden=32,
    draws=2000,
    round_steps=300,
)
"""Enough to learn a straight line in a few seconds."""


def line_problem(folder: Path, text: str | None = None, curve: str = "a + b * x") -> Problem:
    """The problem of a straight line, or of another model ``text`` with the same fields."""
    path = folder / "model.py"
    path.write_text(text if text is not None else MODEL.format(curve=curve))
    config = parse_config(
        {
            "model": {"file": str(path)},
            "data": {"fields": {"x": "x", "y": "y", "y_err": "y_err"}, "constants": ["centre"]},
        },
        origin="test",
    )
    batch = line_batch(1)
    fields = {name: values[0] for name, values in batch.fields.items()}
    return load_problem(path, config, example_observation(fields, {"centre": 0.0}))


def line_batch(datasets: int, seed: int = 0, width: int = 14, spread: float = 0.0) -> Batch:
    """Straight lines of 8 to ``width`` points, padded with their last; ``centre`` within ``spread`` of 0."""
    rng = np.random.default_rng(seed)
    centre = spread * rng.uniform(-1, 1, datasets)
    a, b = centre + rng.normal(0, 1, datasets), rng.normal(0, 1, datasets)
    lengths = rng.integers(8, width + 1, datasets)
    last = np.minimum(np.arange(width), lengths[:, None] - 1)
    x = np.sort(rng.uniform(-1, 1, (datasets, width)), axis=1)
    y_err = rng.uniform(0.3, 0.8, (datasets, width))
    y = a[:, None] + b[:, None] * x + y_err * rng.standard_normal(x.shape)
    fields = {n: np.take_along_axis(v, last, 1) for n, v in (("x", x), ("y", y), ("y_err", y_err))}
    ids = tuple(f"line-{i}" for i in range(datasets))
    return Batch(ids, fields, {"centre": centre}, np.arange(width) < lengths[:, None])


def exact_posterior(batch: Batch, position: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of (a, b), and the log evidence."""
    real = batch.mask[position]
    x, y, sigma = (batch.fields[name][position][real] for name in ("x", "y", "y_err"))
    centre = np.array([batch.constants["centre"][position], 0.0])
    design = np.stack([np.ones_like(x), x], axis=1)
    precision = design.T @ (design / sigma[:, None] ** 2) + np.eye(2) / PRIOR_SD**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (design.T @ (y / sigma**2) + centre / PRIOR_SD**2)
    marginal = np.diag(sigma**2) + PRIOR_SD**2 * design @ design.T
    residual = y - design @ centre
    sign, log_determinant = np.linalg.slogdet(2 * np.pi * marginal)
    assert sign > 0
    return mean, covariance, float(-0.5 * (log_determinant + residual @ np.linalg.solve(marginal, residual)))


@dataclass
class MemorySink:
    """Keeps copies of all checkpoints."""

    states: list[Arrays] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def checkpoint(self, state: Arrays) -> None:
        self.states.append({name: np.array(value) for name, value in state.items()})

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.notes.append(note)


def never() -> bool:
    """A deadline that does not come."""
    return False


def after(calls: int) -> Callable[[], bool]:
    """A deadline that comes at the call after so many."""
    left = [calls]

    def deadline() -> bool:
        left[0] -= 1
        return left[0] < 0

    return deadline


def differing(first: Arrays, second: Arrays) -> list[str]:
    """Names of arrays that are not equal bit for bit (NaN equals NaN), the clock aside."""
    assert first.keys() == second.keys()
    return [
        name
        for name in first
        if "seconds" not in name and not np.array_equal(first[name], second[name], equal_nan=True)
    ]


def train(problem: Problem, batch: Batch, **changes: Any) -> snpe.Trained:
    """A network trained by `LEARNING` with ``changes``."""
    settings = changed(LEARNING, **changes)
    trained = snpe.train(problem, batch, settings, 11, sink=MemorySink(), resume=None, deadline=never)
    assert trained is not None
    return trained


def draws(problem: Problem, trained: snpe.Trained, batch: Batch, **changes: Any) -> Chains:
    """Weighted draws by `LEARNING` with ``changes``."""
    settings = changed(LEARNING, **changes)
    arguments = {"sink": MemorySink(), "resume": None, "deadline": never, "inputs": Inputs(trained=trained)}
    chains = snpe.run(problem, batch, settings, Seeds(2, "snpe"), limits=VerdictSection(), **arguments).chains
    assert chains is not None
    assert not chains.failures
    return chains


def errors(chains: Chains, batch: Batch) -> np.ndarray:
    """Weighted means and sds less the exact ones, absolute, in Monte-Carlo errors, ``(4, dataset)``."""
    exact = [exact_posterior(batch, i) for i in range(len(batch))]
    log_weight = chains.sample_stats["log_weight"][:, 0]
    ess = chains.info["ess"] if np.isfinite(chains.info["ess"]).all() else log_weight.shape[1]
    log_weight = np.where(np.isnan(log_weight), -np.inf, log_weight)  # behind a data set's own draws
    rows = []
    for column in range(2):
        values = np.nan_to_num(chains.theta[:, 0, :, column])
        mean = np.array([m[column] for m, _, _ in exact])
        sd = np.array([np.sqrt(c[column, column]) for _, c, _ in exact])
        rows.append((weighted_mean(values, log_weight) - mean) / (sd / np.sqrt(ess)))
        rows.append((weighted_sd(values, log_weight) - sd) / (sd / np.sqrt(2 * ess)))
    return np.abs(rows)
