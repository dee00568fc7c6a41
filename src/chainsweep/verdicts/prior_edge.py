"""The flag of posteriors that pile up at an end of their prior, converged or not.

Only ends that somebody chose count: both bounds of an interval (``Uniform``, ``TruncatedNormal``, ``Beta``...), and a
bound of a half-line other than 0. That a scale is near 0 under a ``HalfNormal`` is no such end. A bound that depends on
another parameter does not count either.

A posterior is piled up at a bound if at least ``PILED`` of its draws are nearer to it than ``NEAR`` of the width of
their own central 90 %, and if that is ``BEYOND_PRIOR`` times what prior draws have there: a normal posterior cut off
within about 1.5 sd of its centre is, a flat one, which the data say nothing about, is not.
"""

from __future__ import annotations

import numpy as np

from chainsweep.diagnostics.thinning import even_indices
from chainsweep.engines.chains import Chains
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.arrays import Floats
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.mode_candidates import equal_draws

DRAWS = 1000
"""The number of draws of one data set that are looked at."""
PRIOR_DRAWS = 2048
"""The number of prior draws that they are compared with."""
NEAR, PILED, BEYOND_PRIOR = 0.1, 0.05, 2.0
"""The distance from a bound that is near, in widths of the draws' central 90 %; the least share of draws there that is
a pile; and the least ratio of that share and the prior's."""
LOOKED_AT = 8
"""The number of draws of a data set from two of which its bounds are looked for."""
FAR = (40.0, 60.0)
"""Two unconstrained values at which a parameter with a bound is equally close to it: both far out."""
SAME = 1e-9
"""The largest difference of two values at a bound, relative to the bound or to the width of the interval."""
TINY = 1e-300
"""The size of a bound below which it is 0: a share of an interval is never quite 0 (``normal_share``)."""


def piled_up(batched: BatchedProblem, chains: Chains, seeds: Seeds) -> dict[int, str]:
    """Return the parameters that pile up at an end of their prior with that end, by position: ``rate at 0.5``."""
    drawn = np.flatnonzero(chains.n_draws > 0)
    if not drawn.size or batched.problem.ndim != batched.problem.ndim_unconstrained:
        return {}
    some, ids = batched.take(drawn), tuple(batched.batch.ids[i] for i in drawn)
    theta = equal_draws(chains.take(drawn), chains.theta[drawn], ids, DRAWS, seeds, "edge-draws")
    bounds = _bounds(some, theta)
    if not np.isfinite(bounds).any():
        return {}
    prior = some.sample_prior(seeds.jax_keys(ids, "edge-prior", 1)[:, 0], PRIOR_DRAWS)
    found = {}
    for row, position in enumerate(drawn.tolist()):
        draws = theta[row][np.isfinite(theta[row]).all(axis=1)]
        at = _piles(draws, prior[row], bounds[row], batched.problem.names) if len(draws) > 1 else []
        if at:
            found[position] = ", ".join(at)
    return found


def _piles(draws: Floats, prior: Floats, bounds: Floats, names: tuple[str, ...]) -> list[str]:
    """Return the piles of draws ``(draw, n)`` at ``bounds`` ``(2, n)``, NaN where there is none."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    near = NEAR * (high - low)
    with np.errstate(invalid="ignore"):
        share, expected = (
            np.asarray((np.abs(points - bounds[:, None]) < near).mean(axis=1)) for points in (draws, prior)
        )
    least = np.where(np.isfinite(bounds), np.maximum(PILED, BEYOND_PRIOR * expected), np.inf)
    return [f"{names[k]} at {bounds[end, k]:.4g}" for k, end in np.argwhere((share >= least).T).tolist()]


def _bounds(batched: BatchedProblem, theta: Floats) -> Floats:
    """Return the lower and upper bounds that count, ``(dataset, 2, n)``; NaN where a parameter has none.

    Each parameter alone is moved far out, from two of the draws ``theta`` ``(dataset, draw, n)``.
    """
    count, n = len(theta), theta.shape[-1]
    present = [np.flatnonzero(np.isfinite(draws).all(axis=1)) for draws in theta]
    some = [draws[rows[even_indices(len(rows), LOOKED_AT)]] for draws, rows in zip(theta, present, strict=True)]
    filled = [np.concatenate([rows, np.full((LOOKED_AT - len(rows), n), np.nan)]) for rows in some]
    z = batched.unconstrain_padded(np.stack(filled))
    found = np.full((count, 2, n), np.nan)
    usable = np.asarray(np.isfinite(z).all(axis=2))
    rows = np.flatnonzero(usable.sum(axis=1) > 1)
    if not rows.size:
        return found
    base = np.stack([z[row][usable[row]][[0, -1]] for row in rows])
    moved = np.tile(base[:, :, None, None, None, :], (1, 1, 2, 2, n, 1))
    for end, sign in enumerate((-1.0, 1.0)):
        for step, far in enumerate(FAR):
            moved[:, :, end, step, np.arange(n), np.arange(n)] = sign * far
    out = batched.take(rows).constrain(moved.reshape(len(rows), -1, n)).reshape(moved.shape)
    # Axes: data set, the draw that was moved, the end, how far, parameter.
    own = out[..., np.arange(n), np.arange(n)]
    lowest, highest = own.min(axis=(1, 3)), own.max(axis=(1, 3))
    width = (own[:, :, 1].max(axis=(1, 2)) - own[:, :, 0].min(axis=(1, 2)))[:, None]
    # The end 0 of a half-line has no size: the two values there differ by more than their own.
    size = np.fmax(np.maximum(np.abs(lowest), np.abs(highest)), np.where(width < np.exp(FAR[0]), width, 0.0))
    found[rows] = np.where(highest - lowest <= SAME * size, np.where(np.abs(lowest) > TINY, lowest, 0.0), np.nan)
    return found
