"""The check, after sampling, that the draws of a data set come from a proper density.

An engine treats a point where the log density is NaN or +inf as one of zero density, and goes on. That is right where
there is no posterior mass, and wrong where there could be some. It also assumes that the model is a function, which
gives the same value at the same point, whatever was evaluated before. Both assumptions are tested here for each data
set and every engine: the log density is evaluated again, twice, and compared with the values that the engine stored
next to the draws while it sampled. NUTS in single precision stores log densities that it evaluated at the end, and
compares them itself with those that it sampled with.
"""

from __future__ import annotations

import numpy as np

from chainsweep.engines.chains import Chains
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import LARGEST_LOG_DENSITY
from chainsweep.numerics.arrays import Floats
from chainsweep.numerics.cut_off import MAX_ROUNDS
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.causes import Cause, Finding
from chainsweep.verdicts.mode_candidates import equal_draws

NEAR = 512
"""The number of points near the draws of a data set at which the density is evaluated."""
STEP = 0.5
"""The distance of these points from a draw, in sds of the draws."""
MOST_UNDEFINED = 0.01
"""The largest share of the ``NEAR`` points at which the log density may be NaN or +inf."""
FEWEST_INFINITE = 2
"""The least number of the ``NEAR`` prior draws with an infinite density that is reported; fewer may be rounding."""
REPEATED = 32
"""The number of draws whose log density is evaluated twice."""
TOLERANCE = 1e-8
"""The largest difference of two log densities, relative to their size where that is above 1."""
ROUNDED, ROUNDING = 16 * np.finfo(float).eps, 8.0
"""The relative shift of the parameters that measures the effect of rounding, and the allowed multiple of the effect."""
TOLD = 4
"""The largest number of parameters of a point that a reason names."""


def density_causes(batched: BatchedProblem, chains: Chains, seeds: Seeds) -> dict[int, Finding]:
    """Return why draws have no proper density, by position; data sets without a problem are absent."""
    stored = np.asarray(chains.sample_stats.get("lp", np.full(chains.theta.shape[:-1], np.nan)), float)
    both = np.concatenate([chains.theta, stored[..., None]], axis=-1)
    drawn = equal_draws(chains, both, batched.batch.ids, NEAR, seeds, "density-draws")
    draws, stored = drawn[..., :-1], drawn[..., -1]
    z = batched.unconstrain_padded(draws)
    return {
        **_without_gradient(batched, chains, z),
        **_undefined_near(batched, z, seeds),
        **_infinite_in_prior(batched, seeds),
        **_no_function(batched, draws, stored),
    }


def _infinite_in_prior(batched: BatchedProblem, seeds: Seeds) -> dict[int, Finding]:
    """Return data sets whose log density is +inf at several prior draws, where all of the mass would be."""
    keys = seeds.jax_keys(batched.batch.ids, "density-prior", 1)[:, 0]
    theta = batched.sample_prior(keys, NEAR)
    z = batched.unconstrain(theta)
    known = np.asarray(np.isfinite(z).all(axis=-1))
    infinite = np.asarray(batched.infinite(np.where(known[..., None], z, 0.0)) & known)
    causes = {}
    for row in np.flatnonzero(infinite.sum(axis=1) >= FEWEST_INFINITE).tolist():
        share = infinite[row].mean()
        example = point_text(batched.problem.names, theta[row, int(np.argmax(infinite[row]))])
        sentence = (
            f"log density is +inf, or above {LARGEST_LOG_DENSITY:g}, at {share:.1%} of {NEAR} prior draws, "
            f"e.g. {example}: that is no density, and was taken for none"
        )
        causes[row] = Finding(Cause.INFINITE_DENSITY, sentence, example)
    return causes


def _without_gradient(batched: BatchedProblem, chains: Chains, z: Floats) -> dict[int, Finding]:
    """Return data sets with divergences whose gradient is not finite at draws ``z`` ``(dataset, draw, n)``."""
    if "diverging" not in chains.sample_stats:
        return {}
    diverged = np.nansum(chains.sample_stats["diverging"], axis=(1, 2)) > 0
    causes = {}
    for row in np.flatnonzero(diverged).tolist():
        points = z[row][np.isfinite(z[row]).all(axis=1)][:REPEATED]
        alone = batched.take(np.array([row]))
        bad = ~alone.sloped(points[None])[0] & np.isfinite(alone.potential(points[None])[0])[:, None]
        if bad.any():
            draw = int(np.argmax(bad.any(axis=1)))
            by = dict.fromkeys(
                name for name, no in zip(batched.problem.unconstrained_names, bad[draw], strict=True) if no
            )
            at = point_text(batched.problem.names, _constrained(batched, row, points[draw]))
            sentence = (
                f"the gradient by {', '.join(by)} is not a number where the density is one, at "
                f"{bad.any(axis=1).mean():.0%} of the draws, e.g. {at}: an unsafe function in a branch of jnp.where, "
                "or of a zero"
            )
            causes[row] = Finding(Cause.GRADIENT_NOT_A_NUMBER, sentence, f"the gradient by {', '.join(by)} at {at}")
    return causes


def _undefined_near(batched: BatchedProblem, z: Floats, seeds: Seeds) -> dict[int, Finding]:
    """Return data sets whose log density is NaN or +inf at too many points near draws ``z`` ``(dataset, draw, n)``."""
    near = np.full(z.shape, np.nan)
    for row, name in enumerate(batched.batch.ids):
        inside = z[row][np.isfinite(z[row]).all(axis=1)]
        if len(inside) > 1:
            # Random sums of the draws' deviations from their mean have the covariance of the draws.
            normal = seeds.generator(name, "density-near").standard_normal((NEAR, len(inside)))
            steps = normal @ (inside - inside.mean(axis=0)) / np.sqrt(len(inside))
            near[row] = inside[np.arange(NEAR) % len(inside)] + STEP * steps
    asked = np.asarray(np.isfinite(near).all(axis=-1))
    undefined = np.asarray(batched.undefined(np.where(asked[..., None], near, 0.0)) & asked)
    unfinished = f" (a loop counts as that after {MAX_ROUNDS} rounds)" if batched.problem.structure.loops else ""
    causes = {}
    for row in np.flatnonzero(undefined.mean(axis=1) > MOST_UNDEFINED).tolist():
        points = near[row][undefined[row]]
        inside = near[row][asked[row] & ~undefined[row]]
        away = np.abs(points.mean(axis=0) - inside.mean(axis=0)) / (near[row].std(axis=0) + 1e-300)
        which = int(np.argmax(away)) if inside.size else 0
        one = _constrained(batched, row, points[np.argsort(points[:, which])[len(points) // 2]])
        example = point_text(batched.problem.names, one, which if len(one) == len(away) else 0)
        sentence = (
            f"log density is not a number (NaN or +inf) at {undefined[row].mean():.1%} of the points near the draws, "
            f"e.g. {example}, where the prior has mass{unfinished}"
        )
        causes[row] = Finding(Cause.DENSITY_NOT_A_NUMBER, sentence, example)
    return causes


def _constrained(batched: BatchedProblem, row: int, z: Floats) -> Floats:
    """Return the parameters ``(ndim,)`` of one data set at its unconstrained ``z`` ``(n,)``."""
    alone = batched.take(np.array([row]))
    return alone.constrain(z[None, None])[0, 0]


def point_text(names: tuple[str, ...], theta: Floats, first: int = 0) -> str:
    """Return the point ``theta`` ``(ndim,)`` as text, with the parameter number ``first`` before the others."""
    order = [first, *(k for k in range(len(names)) if k != first)]
    return ", ".join(f"{names[k]} = {theta[k]:.4g}" for k in order[:TOLD])


def _no_function(batched: BatchedProblem, draws: Floats, stored: Floats) -> dict[int, Finding]:
    """Return data sets whose log density at the points ``draws`` ``(dataset, draw, n)`` changes between evaluations.

    It is evaluated twice, the second time in reverse order of data sets and draws; ``stored`` ``(dataset, draw)`` is
    the engine's value while it sampled, NaN where it stored nothing.
    """
    few = slice(None, None, max(1, NEAR // REPEATED))
    some, stored = draws[:, few], stored[:, few]
    asked = np.asarray(np.isfinite(some).all(axis=-1))
    points = np.where(asked[..., None], some, np.nan_to_num(draws[:, :1]))
    first = batched.log_density(points)
    backwards = np.arange(len(points))[::-1]
    again = batched.take(backwards).log_density(points[backwards, ::-1])[backwards, ::-1]
    allowed = TOLERANCE * np.maximum(1.0, np.abs(first))
    with np.errstate(invalid="ignore"):
        apart = asked & (np.abs(first - again) > allowed)
        changed = asked & np.isfinite(stored) & (np.abs(first - stored) > allowed)
    if changed.any() and batched.problem.has_jax_likelihood:
        moved = np.abs(batched.log_density(points * (1.0 + ROUNDED)) - first)
        changed &= ~(np.abs(first - stored) <= allowed + ROUNDING * np.where(np.isfinite(moved), moved, 0.0))
    causes = {}
    for row in np.flatnonzero((apart | changed).any(axis=1)).tolist():
        differs = apart if apart[row].any() else changed
        draw = int(np.argmax(differs[row]))
        at = point_text(batched.problem.names, points[row, draw])
        one, other = (first, again) if differs is apart else (stored, first)
        when = "when it was asked for again" if differs is apart else "when it was asked for again after sampling"
        sentence = (
            f"the model is not a function of its arguments: its log density at {at} was {one[row, draw]:.10g}, "
            f"and {other[row, draw]:.10g} {when}"
        )
        causes[row] = Finding(Cause.NOT_A_FUNCTION, sentence, at)
    return causes
