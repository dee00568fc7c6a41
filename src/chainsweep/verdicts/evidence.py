"""The evidence on data sets without a verdict ``converged`` that tells more than the figure that fails.

A large R-hat has many causes. Here the draws are looked at for chains that stand still, and for separate modes; and
prior draws for a density that is nowhere a number, or zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainsweep.diagnostics.valleys import Valley, deepest_valley
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.failing import Failing, failing
from chainsweep.numerics.arrays import Bools, Floats
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.causes import NO_DENSITY, Cause
from chainsweep.verdicts.density_check import point_text
from chainsweep.verdicts.mode_candidates import equal_draws

DRAWS = 400
"""The number of draws of one data set in which modes are looked for."""
STEPS = 17
"""The number of points on the line between two modes at which the density is evaluated."""
BARRIER = 2.0
"""The least drop of the log density between two modes, below the lower one."""
PRIOR_DRAWS = 256
"""The number of prior draws at which the density is evaluated."""
LEAST_FINITE = 0.01
"""The share of them with a density at or below which the density underflows."""
SLOPES = 32
"""The number of prior draws at which the gradient is evaluated where no optimiser descent came to an end."""


def evidence(batched: BatchedProblem, chains: Chains, rows: Sequence[int], seeds: Seeds) -> dict[int, dict[Cause, str]]:
    """Return the causes that there is evidence of for the data sets at ``rows``, by position, each with its place.

    Data sets without draws are asked only if their failure says that no point has a density.
    """
    told = {**batched.failures, **chains.failures}
    found: dict[int, dict[Cause, str]] = {row: {} for row in rows}
    drawn = [row for row in rows if chains.n_draws[row] > 0 and row not in told]
    for row in drawn:
        found[row] |= _still(chains, row, batched.problem)
    if not batched.problem.has_likelihood:
        return found
    if chains.kind is not DrawKind.WEIGHTED:
        for row, at in _modes(batched, chains, drawn, seeds).items():
            found[row][Cause.SEVERAL_MODES] = at
    for row, at in _sparse(batched, drawn, seeds).items():
        found[row][Cause.UNDERFLOW] = at
    kinds = {row: kind for row in rows if row in told and (kind := failing(told[row])) in NO_DENSITY}
    for row, cause, at in _nowhere(batched, kinds, seeds):
        found[row][cause] = at
    return found


def _still(chains: Chains, row: int, problem: Any) -> dict[Cause, str]:
    """Return the first parameter that a chain never changed, with its value."""
    if chains.kind is DrawKind.WEIGHTED or chains.n_draws[row] < 2:
        return {}
    theta = chains.theta[row, :, : chains.n_draws[row]][..., list(problem.varying)]
    for chain, k in np.argwhere(np.ptp(theta, axis=1) == 0.0).tolist():
        return {Cause.STUCK: f"{problem.names[problem.varying[k]]} = {theta[chain, 0, k]:.4g} all along chain {chain}"}
    return {}


def _modes(batched: BatchedProblem, chains: Chains, rows: list[int], seeds: Seeds) -> dict[int, str]:
    """Return data sets whose draws lie in modes with a barrier between them: a parameter and its two values."""
    if not rows:
        return {}
    positions, ids = np.array(rows), tuple(batched.batch.ids[row] for row in rows)
    points = equal_draws(chains.take(positions), chains.theta[positions], ids, DRAWS, seeds, "cause-draws")
    z = batched.take(positions).unconstrain_padded(points)
    found = {}
    for k, row in enumerate(rows):
        usable = np.isfinite(z[k]).all(axis=1)
        theta, free = points[k][usable], z[k][usable]
        valleys = {column: deepest_valley(theta[:, column]) for column in batched.problem.varying}
        known = {column: valley for column, valley in valleys.items() if valley is not None}
        if not known:
            continue
        column = min(known, key=lambda name: known[name].depth)
        valley = known[column]
        if _barrier(batched.take(np.array([row])), free, valley) > BARRIER:
            left, right = (float(theta[heap, column].mean()) for heap in (valley.left, valley.right))
            found[row] = f"{batched.problem.names[column]} near {left:.4g} and near {right:.4g}"
    return found


def _barrier(alone: BatchedProblem, z: Floats, valley: Valley) -> float:
    """Return the drop of the log density on the line between a central draw of each heap, below the lower of them."""
    start, end = (z[_central(z, heap)] for heap in (valley.left, valley.right))
    share = np.linspace(0.0, 1.0, STEPS)[:, None]
    density = alone.log_density_unconstrained(((1.0 - share) * start + share * end)[None])[0]
    lower, between = min(density[0], density[-1]), float(density[1:-1].min())
    return float(lower - between) if np.isfinite(lower) else 0.0


def _central(z: Floats, heap: Bools) -> int:
    """Return the draw of a heap that is nearest to its mean, in sds of the heap."""
    inside = z[heap]
    distance = (((inside - inside.mean(axis=0)) / (inside.std(axis=0) + 1e-300)) ** 2).sum(axis=1)
    return int(np.flatnonzero(heap)[np.argmin(distance)])


def _sparse(batched: BatchedProblem, rows: list[int], seeds: Seeds) -> dict[int, str]:
    """Return data sets with draws that have a density at next to no prior draw, with the share that has none."""
    if not rows:
        return {}
    some, theta = _at_prior_draws(batched, rows, seeds)
    finite = np.isfinite(some.log_density(theta)).mean(axis=1)
    return {
        row: _without(share)
        for k, (row, share) in enumerate(zip(rows, finite.tolist(), strict=True))
        if share <= LEAST_FINITE and k not in some.failures
    }


def _nowhere(batched: BatchedProblem, kinds: dict[int, Failing], seeds: Seeds) -> list[tuple[int, Cause, str]]:
    """Return the causes of data sets that found no point with a density, of the failures ``kinds``, with their places.

    A density that is no number, or infinite, at more prior draws than it is a number comes before one that is zero.
    """
    if not kinds:
        return []
    rows = list(kinds)
    some, theta = _at_prior_draws(batched, rows, seeds)
    z = some.unconstrain(theta)
    known = np.asarray(np.isfinite(z).all(axis=-1))
    z = np.where(known[..., None], z, 0.0)
    finite = np.isfinite(some.log_density(theta))
    undefined, infinite = (np.asarray(of(z) & known) for of in (some.undefined, some.infinite))
    found = []
    for k, row in enumerate(rows):
        if k in some.failures:
            continue
        bad = {Cause.INFINITE_DENSITY: infinite[k], Cause.DENSITY_NOT_A_NUMBER: undefined[k] & ~infinite[k]}
        cause, where = max(bad.items(), key=lambda item: int(item[1].sum()))
        if where.sum() > finite[k].sum():
            example = point_text(batched.problem.names, theta[k, int(np.argmax(where))])
            found.append((row, cause, f"at {where.mean():.0%} of {PRIOR_DRAWS} prior draws, e.g. {example}"))
        elif kinds[row] is Failing.NO_DESCENT and batched.problem.has_jax_likelihood and finite[k].any():
            at = _sloped(batched.take(np.array([row])), z[k][finite[k]][:SLOPES])
            found += [(row, Cause.GRADIENT_NOT_A_NUMBER, at)] if at else []
        else:
            found.append((row, Cause.UNDERFLOW, _without(float(finite[k].mean()))))
    return found


def _at_prior_draws(batched: BatchedProblem, rows: list[int], seeds: Seeds) -> tuple[BatchedProblem, Floats]:
    """Return the problem of the data sets at ``rows`` with its own failures, and prior draws ``(row, draw, n)``."""
    ids = tuple(batched.batch.ids[row] for row in rows)
    some = batched.take(np.array(rows))
    return some, some.sample_prior(seeds.jax_keys(ids, "cause-prior", 1)[:, 0], PRIOR_DRAWS)


def _without(finite: float) -> str:
    return f"-inf at {1.0 - finite:.1%} of {PRIOR_DRAWS} prior draws"


def _sloped(alone: BatchedProblem, z: Floats) -> str:
    """Return the parameters by which the gradient is no number at one of ``z`` ``(draw, n)``; empty if it is one."""
    bad = ~alone.sloped(z[None])[0]
    names = alone.problem.unconstrained_names
    by = dict.fromkeys(name for name, no in zip(names, bad.any(axis=0), strict=True) if no)
    return f"the gradient by {', '.join(by)} at {bad.any(axis=1).mean():.0%} of the prior draws" if by else ""
