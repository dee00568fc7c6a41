"""The log density of a model at a few fixed points: kept by ``init``, and computed again when a task starts.

A hash of the model file does not change with the other things that the model depends on: installed packages, the
environment, files that compiled code opens. The density does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chainsweep.data.collection import Batch
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Floats

KEY = np.zeros((1, 2), np.uint32)
"""The key of the prior draws."""
DRAWN = 256
"""The number of prior draws of which the likeliest are kept."""
KEPT = 2
"""The number of points that are kept of a data set."""
TOLERANCE = 1e-6
"""The largest allowed relative difference of two log densities. It is relative to the absolute log density, or to the
number of points of the data set where that is more."""
MOVED, SENSITIVE = 1e-12, 10.0
"""The relative shift of points that shows the effect of rounding, and the multiple of this effect that is allowed."""


def fingerprint(problem: Problem, batch: Batch) -> dict[str, Any] | None:
    """The record of the one data set of ``batch``, plain enough for JSON; None where there is nothing to keep.

    There is nothing where the model has no likelihood, where its density is not finite at the points, and where the
    density of a black box differs when it is computed again. A black box is called ``KEPT + 1`` times.
    """
    if not problem.has_likelihood:
        return None
    batched = BatchedProblem(problem, batch)
    z, values, moved = _of_black_box(batched) if problem.black_box else _of_model(batched)
    good = np.isfinite(z).all(axis=1) & np.isfinite(values) & np.isfinite(moved)
    if not good.any():
        return None
    size = np.maximum(np.abs(values), float(batch.n_points[0]))
    within = TOLERANCE * np.maximum(size, 1.0) + SENSITIVE * np.abs(moved - values)
    return {
        "dataset": batch.ids[0],
        "at": z[good].tolist(),
        "log_density": values[good].tolist(),
        "within": within[good].tolist(),
    }


def changed(batched: BatchedProblem, known: Mapping[str, Any]) -> str | None:
    """The sentence on how the density of the one data set of ``batched`` differs from its record; None where equal."""
    z, expected, within = (np.array(known[name], float) for name in ("at", "log_density", "within"))
    found = batched.log_density_unconstrained(z[None])[0]
    far = np.flatnonzero(~(np.abs(found - expected) <= within))
    if not far.size:
        return None
    at = int(far[0])
    theta = batched.constrain(z[None, at : at + 1])[0, 0]
    told = ", ".join(f"{name} = {value:.4g}" for name, value in zip(batched.problem.names, theta, strict=True))
    why = f" ({batched.failures[0]})" if 0 in batched.failures else ""
    return (
        f"data set {known['dataset']}: expected the log density {expected[at]:.10g} at {told}, within "
        f"{within[at]:.2g}, got {found[at]:.10g}{why}"
    )


def _of_model(batched: BatchedProblem) -> tuple[Floats, Floats, Floats]:
    """The likeliest of some prior draws ``(point, n)``, the log density there, and that at slightly shifted points."""
    z = batched.unconstrain(batched.sample_prior(KEY, DRAWN))
    values, moved = np.split(batched.log_density_unconstrained(np.concatenate([z, z * (1.0 + MOVED)], axis=1))[0], 2)
    best = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")[:KEPT]
    return z[0, best], values[best], moved[best]


def _of_black_box(batched: BatchedProblem) -> tuple[Floats, Floats, Floats]:
    """The first prior draws ``(point, n)``, the log density there, and the same again; NaN where it then differs."""
    z = batched.unconstrain(batched.sample_prior(KEY, KEPT))
    values = batched.log_density_unconstrained(z)[0]
    again = batched.log_density_unconstrained(z[:, :1])[0]
    return z[0], values, np.where(again == values[0], values, np.nan)
