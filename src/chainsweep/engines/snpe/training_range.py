"""The range of designs and priors that a network was trained for, and the data sets that lie outside of it.

A network interpolates. On a design or under a prior that it never saw its draws may be wrong in any way, and a model
without a likelihood has no weights that would show it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.standardisation import prior_quantiles
from chainsweep.model.failing import Failing
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Floats

DESIGN_MARGIN, PRIOR_MARGIN = 0.1, 0.01
"""The largest distance of a data set from the training range, as a share of the range. The one of priors can be small,
because the prior draws always have the same random numbers."""
PRIOR = "prior"


def figure_names(problem: Problem, fields: Collection[str], constants: Collection[str]) -> set[str]:
    """The names of the figures of data sets with these fields and constants: a network must know all to serve them."""
    design = {f"design {name}" for name in fields if name not in problem.observed}
    return {"points"} | design | {f"constant {name}" for name in constants} | {f"{PRIOR} {n}" for n in problem.names}


def figures(problem: Problem, batch: Batch) -> dict[str, Floats]:
    """The figures that describe design and prior of each data set, ``(dataset, figure)`` by name.

    They are the number of points, the least and largest value of each design field, the constants, and the prior's
    16, 50 and 84 % quantiles of each parameter.
    """
    found: dict[str, Floats] = {"points": batch.n_points[:, None].astype(float)}
    for name, values in batch.fields.items():
        if name not in problem.observed:
            # The padding of a data set repeats its last point.
            flat = values.reshape(len(batch), -1)
            found[f"design {name}"] = np.stack([flat.min(axis=1), flat.max(axis=1)], axis=1)
    found |= {f"constant {name}": values.reshape(len(batch), -1) for name, values in batch.constants.items()}
    quantiles = prior_quantiles(problem, batch, unconstrained=False)
    return found | {f"{PRIOR} {name}": quantiles[:, :, i].T for i, name in enumerate(problem.names)}


def coverage_of(problem: Problem, batches: Sequence[Batch]) -> Arrays:
    """The least and largest value of each figure over the data sets trained on, ``(2, figure)`` by name."""
    parts = [figures(problem, batch) for batch in batches]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: np.stack([values.min(axis=0), values.max(axis=0)]) for name, values in joined.items()}


def outside(problem: Problem, batch: Batch, coverage: Mapping[str, Floats]) -> dict[int, str]:
    """The reasons, by position, why data sets of ``batch`` lie outside the training range ``coverage``.

    Figures that are NaN are ignored here.
    """
    reasons: dict[int, str] = {}
    for name, values in figures(problem, batch).items():
        low, high = coverage[name]
        margin = PRIOR_MARGIN if name.startswith(PRIOR) else DESIGN_MARGIN
        slack = margin * (high.max() - low.min()) + 1e-6 * np.abs(coverage[name]).max()
        for i in np.flatnonzero(((values < low - slack) | (values > high + slack)).any(axis=1)).tolist():
            theirs = f"{low.min():.4g} to {high.max():.4g}"
            own = f"{values[i].min():.4g} to {values[i].max():.4g}" if values.shape[1] > 1 else f"{values[i, 0]:.4g}"
            reasons.setdefault(i, f"{Failing.NOT_TRAINED}: {name} is {own}, trained on {theirs}")
    return reasons
