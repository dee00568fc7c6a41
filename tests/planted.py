"""Data sets planted with one trouble each, run by a real engine and judged by the real judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Inputs
from chainsweep.engines.emcee import engine as emcee
from chainsweep.engines.emcee.settings import EmceeSettings
from chainsweep.engines.nuts import engine as nuts
from chainsweep.engines.nuts.settings import NutsSettings
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.judge import judge
from tests.engine_settings import changed
from tests.snpe_lines import MemorySink, line_batch, line_problem, never

JAX_KINDS = {
    "fine": (0, 0.0),
    "several modes": (1, 3.0),
    "edge of the prior": (0, 5.5),
    "root of a negative number": (2, 0.0),
    "infinite": (3, 0.0),
    "underflow": (4, 0.0),
    "gradient": (5, 0.0),
    "misfit": (6, 0.0),
    "funnel": (7, 0.0),
    "NaN everywhere": (8, 0.0),
}
"""The number of each kind, which the model has as ``centre``, and the level of its data."""

JAX_MODEL = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

def model(x, y_err, centre, y=None):
    kind = jnp.round(centre)
    a = numpyro.sample("a", dist.Uniform(-5, 5))
    b = numpyro.sample("b", dist.Normal(0, 2))
    level = jnp.where(kind == 1, jnp.abs(a), a)
    level = level + jnp.where(kind == 2, 0.0 * jnp.sqrt(jnp.where(kind == 2, 0.1 - a, 1.0)), 0.0)
    level = level + jnp.where(x > 9, jnp.sqrt(jnp.where(kind == 5, x - a - 9, 1.0)), 0.0)
    level = level + jnp.where(kind == 8, jnp.where(kind == 8, a, 1.0) * jnp.nan, 0.0)
    err = y_err * jnp.where(kind == 7, 1e4, 1.0)
    funnel = -0.5 * (b / jnp.exp(1.5 * a)) ** 2 - 1.5 * a + b**2 / 8
    extra = jnp.where(kind == 7, funnel, 0.0) + jnp.where((kind == 3) & (a > 0.1), jnp.inf, 0.0)
    far = jnp.where(kind == 4, -1e4 * (a + 7) ** 2, 0.0)
    extra = extra + jnp.where(kind == 4, jnp.log(jnp.exp(far) + jnp.exp(far - 1)), 0.0)
    numpyro.factor("extra", extra)
    numpyro.sample("obs", dist.Normal(level + b * x, err), obs=y)
"""

HOST_KINDS = {
    "fine": 0,
    "noisy": 1,
    "state": 2,
    "infinite": 3,
    "needle": 4,
    "NaN": 5,
    "raises": 6,
    "flat": 7,
    "huge": 8,
}

HOST_MODEL = """
import numpy as np
import numpyro.distributions as dist
prior = {"a": dist.Uniform(-5, 5), "b": dist.Normal(0, 2)}
rng, calls = np.random.default_rng(0), [0]

def log_likelihood(params, x, y, y_err, centre):
    a, b, kind = float(params["a"]), float(params["b"]), int(round(float(centre)))
    good = -0.5 * float(np.sum(((y - a - b * x) / y_err) ** 2))
    calls[0] += 1
    if kind == 1:
        return good + rng.normal(0, 0.1)
    if kind == 2:
        return good - 1e-3 * calls[0]
    if kind == 3:
        return np.inf if a > 4 else good
    if kind == 4:
        return good if abs(a) < 1e-6 else -np.inf
    if kind == 5:
        return good if a < 0.1 else np.nan
    if kind == 6:
        raise ValueError("detector killed its process by saturation")
    if kind == 7:
        return 0.0
    if kind == 8:
        return 1e300 if a > 4.5 else good
    return good
"""


def planted(kinds: dict[str, Any]) -> Batch:
    """Straight lines of 14 points at level 0, or at that of their kind; those of "misfit" have outliers."""
    plain = line_batch(len(kinds))
    rng = np.random.default_rng(4)
    numbers = [kind if isinstance(kind, tuple) else (kind, 0.0) for kind in kinds.values()]
    x = np.tile(np.linspace(-1, 1, 14), (len(kinds), 1))
    y = np.array([level for _, level in numbers])[:, None] + 0.4 * rng.standard_normal(x.shape)
    if "misfit" in kinds:
        y[list(kinds).index("misfit")] += 20 * rng.choice([-1.0, 1.0], 14)
    fields = {"x": x, "y": y, "y_err": np.full(x.shape, 0.4)}
    centre = np.array([float(number) for number, _ in numbers])
    return replace(plain, ids=tuple(kinds), fields=fields, constants={"centre": centre}, mask=np.ones(x.shape, bool))


def judged_nuts(folder: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """The catalogue rows of the JAX kinds by NUTS with ``settings``."""
    problem, batch = line_problem(folder, JAX_MODEL), planted(JAX_KINDS)
    few = changed(NutsSettings(), algorithm="nuts", jumps=0, attempts=1, precision="float64", **settings)
    return _judged(nuts, problem, batch, few, "nuts")


def judged_emcee(folder: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """The catalogue rows of the black-box kinds by emcee with ``settings``."""
    problem, batch = line_problem(folder, HOST_MODEL), planted(HOST_KINDS)
    return _judged(emcee, problem, batch, changed(EmceeSettings(), **settings), "emcee")


def _judged(engine: Any, problem: Any, batch: Batch, settings: Any, name: str) -> dict[str, dict[str, Any]]:
    limits, seeds = VerdictSection(), Seeds(1, name)
    outcome = engine.run(
        problem, batch, settings, seeds, limits=limits, sink=MemorySink(), resume=None, deadline=never, inputs=Inputs()
    )
    columns = judge(outcome.chains, BatchedProblem(problem, batch), limits, seeds)
    return rows_of(columns)


def rows_of(columns: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The columns of a judge as rows by data set."""
    return {
        name: {column: values[i] for column, values in columns.items()} for i, name in enumerate(columns["dataset_id"])
    }
