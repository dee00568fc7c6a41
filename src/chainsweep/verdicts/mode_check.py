"""The check, by exact importance weights, that the chains cover all of the posterior, which R-hat cannot show.

R-hat compares chains with each other and does not see a mode that none of them visits. Here a defensive mixture
(kernels on the chains' draws, Laplace kernels on modes found elsewhere, a defensive component of the prior's size) is
adapted for a few rounds, also to likely prior draws, and its exactly weighted draws are compared with the
chains' draws: means and sds of every parameter, and the mass that lies where the chains have too few draws. Where a
figure is near its limit and its error too large to tell, a further pass draws many of its points where the chains have
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.weights import normalised_weights
from chainsweep.importance.adaptive import Settings, WeightedDraws, adapt
from chainsweep.importance.global_proposal import MOST_DIMENSIONS
from chainsweep.importance.mixture import combine, log_density
from chainsweep.importance.mixture_density import Mixture
from chainsweep.importance.target import CHAIN_COMPONENTS, Start, Target, defensive_mixture, from_chains, target_of
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.arrays import Bools, Floats, Ints
from chainsweep.numerics.keys import fold_keys
from chainsweep.numerics.resampling import systematic

OUTSIDE_SLACK = 3.0
"""A point is outside if the log density of the chains is more than this below its value at an outermost draw."""
OUTERMOST = 0.005
"""The share of the chains' draws whose density is below that of an outermost draw."""
ERRORS = 3.0
"""A shift, a mass or a ratio counts only beyond this many of its own Monte-Carlo errors."""
LEAST_ESS = 100.0
"""The effective number of draws below which a check is inconclusive, whatever its k-hat."""

PASSES = (
    Settings(draws=1500, rounds=4, components=48, points=512, effective=100.0, mode_share=0.35, ess=200.0),
    Settings(draws=4000, rounds=8, components=256, points=2048, effective=300.0, mode_share=0.2, ess=200.0),
)
"""The settings of a quick check of every data set, then of a thorough one where the quick one is inconclusive."""
MANY_PARAMETERS = MOST_DIMENSIONS + 1
"""The number of unconstrained parameters from which kernels on a few draws describe nothing."""
PASSES_OF_MANY = (
    Settings(draws=8000, rounds=1, components=32, points=1024, khat=0.7),
    Settings(draws=24000, rounds=1, components=32, points=1024, khat=0.7),
)
"""The same passes for many parameters: draws of one wide component on all of the chains, to which nothing is fitted
again, since in many dimensions a few hundred weighted draws cannot tell a covariance better than the chains do."""
WHOLE_SHARE, WHOLE_INFLATION = 0.85, 1.1
"""The share of this component of those on the chains, and its covariance in units of that of their draws."""
MODES_OF_MANY = 0.3
"""The share of modes found elsewhere of the components that are not of the prior's size."""
SHARP = (
    Settings(draws=6000, rounds=2, components=96, points=1024, effective=100.0, mode_share=0.6, ess=200.0),
    Settings(draws=30000, rounds=2, components=96, points=1024, effective=100.0, mode_share=0.6, ess=200.0),
)
"""The settings of a pass that tells whether a figure near its limit is beyond it, and of one for where it does not."""
MOST_DRAWS = max(settings.draws for settings in (*PASSES, *PASSES_OF_MANY, *SHARP))
"""The most draws of a data set in one pass."""
NEAR_LIMIT = 0.7
"""The share of its limit from which a figure is near it."""
KERNEL_DRAWS = 400
"""The number of the chains' draws to which kernels are fitted."""
THIN_DRAWS = 1000
"""The number of the chains' draws among which those in thin places are chosen."""
PASS_KEYS = 1000
"""The number from which on passes are counted, beyond those of the rounds of one."""
DEFAULT_LIMITS = VerdictSection()
"""The limits of a campaign that sets none."""


@dataclass(frozen=True)
class ModeCheck:
    """The result of the check; every array is ``(dataset,)``.

    ``shift`` is the largest distance between the means of a constrained parameter, in sds of the weighted draws, and
    ``shift_se`` its Monte-Carlo error, that of the chains included. ``sd_ratio`` is the chains' sd over the weighted
    draws' for the parameter where it is furthest from 1 in its errors, and ``sd_se`` the error of its log.
    ``mass_outside`` in 0..1 is the posterior mass far from most of the chains' draws, less their share of draws there,
    and ``mass_outside_se`` its error, that of the chains' share included. All of these are NaN where the weights are
    unusable or the chains have fewer than two finite draws. Where ``conclusive`` is False (k-hat or the effective
    number of draws do not suffice) they show neither that a mode is missing nor that none is.
    """

    shift: Floats
    shift_se: Floats
    sd_ratio: Floats
    sd_se: Floats
    mass_outside: Floats
    mass_outside_se: Floats
    khat: Floats
    ess: Floats
    log_evidence: Floats
    log_evidence_se: Floats
    conclusive: Bools

    def take(self, positions: Ints) -> ModeCheck:
        """Return the check of the data sets at ``positions``."""
        return ModeCheck(**{item.name: getattr(self, item.name)[positions] for item in fields(self)})

    @property
    def significant_shift(self) -> Floats:
        """The value of ``shift`` minus ``ERRORS`` of its errors, at least 0; 0 where the check is inconclusive."""
        return np.where(self.conclusive, np.maximum(self.shift - ERRORS * self.shift_se, 0.0), 0.0)

    @property
    def significant_mass(self) -> Floats:
        """The value of ``mass_outside`` minus ``ERRORS`` of its errors, at least 0; 0 where inconclusive."""
        return np.where(self.conclusive, np.maximum(self.mass_outside - ERRORS * self.mass_outside_se, 0.0), 0.0)

    @property
    def significant_spread(self) -> Floats:
        """The absolute log of ``sd_ratio`` minus ``ERRORS`` of its errors, at least 0; 0 where inconclusive or NaN."""
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.abs(np.log(self.sd_ratio)) - ERRORS * self.sd_se
        return np.where(self.conclusive & ~np.isnan(excess), np.maximum(excess, 0.0), 0.0)

    def unproven(self) -> dict[int, str]:
        """Return a sentence on each data set whose check is inconclusive, by position."""
        needed = f"(limits {PASSES[-1].khat:g} and {LEAST_ESS:g})"
        return {
            int(i): f"mode check inconclusive: k-hat {self.khat[i]:.2f}, {self.ess[i]:.0f} effective draws {needed}"
            for i in np.flatnonzero(~self.conclusive)
        }


def mode_check(
    batched: BatchedProblem,
    chain_z: Floats,
    start: Start,
    keys: NDArray[np.uint32],
    passes: Sequence[Settings] | None = None,
    chain_ess: Floats | None = None,
    limits: VerdictSection = DEFAULT_LIMITS,
) -> ModeCheck:
    """Compare the chains of each data set with exactly weighted draws.

    Parameters
    ----------
    chain_z
        Unconstrained draws of all chains, thinned to a few thousand, ``(dataset, draw, nz)``; NaN rows are padding.
    start
        The candidates for mass elsewhere: prior draws (``from_prior``) and, as its ``mode_components``, modes
        (``from_modes``) or the kernels of another engine's draws (``from_chains``).
    keys
        Raw keys ``(dataset, 2)``, one per data set.
    chain_ess
        Effective draws behind the chains' means, ``(dataset,)``; by default the draws given, as if independent.
    limits
        The limits of the figures, near which they are measured more sharply.
    """
    target = target_of(batched)
    chain = _chain(batched, target, chain_z, keys, chain_ess)
    many = chain_z.shape[-1] >= MANY_PARAMETERS
    if passes is None:
        passes = PASSES_OF_MANY if many else PASSES
    mode_components = _halves(chain.kernels, chain.rare)
    if many:
        whole = defensive_mixture(chain_z, WHOLE_INFLATION)
        mode_components = combine((WHOLE_SHARE, whole), (1.0 - WHOLE_SHARE, mode_components))
    if start.mode_components is not None:
        share = MODES_OF_MANY if many else 0.5
        mode_components = combine((1.0 - share, mode_components), (share, start.mode_components))
    start = start._replace(mode_components=mode_components)
    check = unchecked(len(chain_z))
    outside = np.full((len(chain_z), KERNEL_DRAWS // 2, chain_z.shape[-1]), np.nan)
    for number, settings in enumerate(passes):
        open_positions = np.flatnonzero(~check.conclusive & chain.usable)
        weighted = adapt(target, start, _keys_of(keys, number), settings, open_positions)
        newer, weights, is_outside = _judge(batched, chain, weighted, settings)
        check = replaced(check, newer.take(open_positions), open_positions)
        for row in open_positions.tolist():
            outside[row] = _resampled(weighted.z[row], np.where(is_outside[row], weights[row], 0.0), len(outside[row]))
    there = None
    sharper = SHARP if batched.problem.has_jax_likelihood else SHARP[:1]
    for number, settings in enumerate(sharper if passes else (), start=len(passes)):
        near = np.flatnonzero(check.conclusive & near_a_limit(check, limits))
        if not near.size:
            break
        there = from_chains(target, outside, _keys_of(keys, number)) if there is None else there
        sharp = replace(settings, rounds=1) if many else settings
        sharpened = start._replace(mode_components=_halves(mode_components, there))
        weighted = adapt(target, sharpened, _keys_of(keys, number), sharp, near)
        newer = _judge(batched, chain, weighted, sharp)[0].take(near)
        check = replaced(check, newer.take(np.flatnonzero(newer.conclusive)), near[newer.conclusive])
    return check


def _keys_of(keys: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    """Return the keys of a pass: none has the random numbers of another one, of whose points it makes use."""
    return fold_keys(keys, PASS_KEYS + number) if number else keys


def near_a_limit(check: ModeCheck, limits: VerdictSection) -> Bools:
    """True where a figure is near its limit or beyond it, and its errors are too large to tell on which side it is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.abs(np.log(check.sd_ratio))
    measured = (
        (check.shift, check.shift_se, check.significant_shift, limits.mode_shift),
        (check.mass_outside, check.mass_outside_se, check.significant_mass, limits.mass_outside),
        (spread, check.sd_se, check.significant_spread, limits.mode_spread),
    )
    doubtful = [
        (value > NEAR_LIMIT * limit) & (value + ERRORS * error > limit) & (significant < limit)
        for value, error, significant, limit in measured
    ]
    beyond = [significant >= limit for *_, significant, limit in measured]
    return np.asarray(np.any(doubtful, axis=0) & ~np.any(beyond, axis=0))


def _resampled(z: Floats, weights: Floats, count: int) -> Floats:
    """Return ``count`` of the points ``z`` ``(draw, n)`` chosen by ``weights`` ``(draw,)``; NaN without any weight."""
    with np.errstate(divide="ignore"):
        logs = np.log(weights)
    return z[systematic(logs, count, 0.5)] if np.any(weights > 0.0) else np.full((count, z.shape[1]), np.nan)


@dataclass(frozen=True)
class _Chain:
    """The chains of every data set: the density of kernels on them, its value at an outermost draw, moments.

    ``share_outside`` is the share of the draws that lie outside all the same, ``share_se`` its error; ``rare`` has
    kernels on draws where the others are thin; ``usable`` is True where there are draws.
    """

    kernels: Mixture
    rare: Mixture
    least_log_density: Floats
    share_outside: Floats
    share_se: Floats
    moments: _Moments
    usable: Bools


def _chain(batched: BatchedProblem, target: Target, z: Floats, keys: NDArray[np.uint32], ess: Floats | None) -> _Chain:
    present = np.asarray(np.isfinite(z).all(axis=-1))
    count = np.maximum(present.sum(axis=1), 1)
    filled = np.where(present[..., None], z, 0.0)
    # The fitted density is too high at the draws that it was fitted to, the more so in high dimensions. So it is fitted
    # to some draws, and its lowest value is taken over others.
    stride = max(2, 2 * z.shape[1] // KERNEL_DRAWS)
    fitted_to = np.arange(z.shape[1]) % stride == 0
    kernels = from_chains(target, z[:, fitted_to], keys)
    density = np.where(present & ~fitted_to, np.asarray(log_density(kernels, filled)), np.nan)
    asked = np.isfinite(density)
    lowest = np.array(
        [np.quantile(d[a], OUTERMOST) if a.any() else np.nan for d, a in zip(density, asked, strict=True)]
    )
    least = lowest - OUTSIDE_SLACK
    outside = asked & (density < least[:, None])
    share = outside.sum(axis=1) / np.maximum(asked.sum(axis=1), 1)
    rare = from_chains(target, _thin_places(batched, target, filled, asked, density), keys)
    effective = count if ess is None else np.minimum(count, np.asarray(ess, dtype=float))
    moments = _moments(_parameters(batched, filled), present / count[:, None])
    scale = np.sqrt(count / effective)[:, None]
    moments = _Moments(moments.mean, moments.sd, moments.error * scale, moments.sd_error * scale)
    # A region without draws may have as much mass as one effective draw.
    share_se = np.sqrt((share + 1.0 / effective) / effective)
    return _Chain(kernels, rare, least, share, share_se, moments, present.sum(axis=1) > 1)


def _thin_places(batched: BatchedProblem, target: Target, z: Floats, asked: Bools, density: Floats) -> Floats:
    """Return draws ``(dataset, draw, n)`` where the kernels' ``density`` is lowest, compared with the exact one.

    A narrow mode that holds few of the draws has no kernel of its own. The calls of a black box are too expensive for
    this: there it is where the density of the kernels is lowest by itself.
    """
    few = slice(1, None, max(1, z.shape[1] // THIN_DRAWS))
    z, asked, density = z[:, few], asked[:, few], density[:, few]
    exact = target.log_density(z, np.arange(len(z))) if batched.problem.has_jax_likelihood else np.zeros(asked.shape)
    ratio = np.where(asked, exact - density, -np.inf)
    thinnest = np.argsort(-ratio, axis=1, kind="stable")[:, :CHAIN_COMPONENTS]
    found = np.isfinite(np.take_along_axis(ratio, thinnest, axis=1))
    return np.where(found[..., None], np.take_along_axis(z, thinnest[..., None], axis=1), np.nan)


def _parameters(batched: BatchedProblem, z: Floats) -> Floats:
    """Return the constrained parameters at ``z`` except constant ones, which have no sd to compare."""
    return batched.constrain(z)[..., batched.problem.varying]


def _halves(first: Mixture, second: Mixture) -> Mixture:
    return combine((0.5, first), (0.5, second))


def _judge(
    batched: BatchedProblem, chain: _Chain, weighted: WeightedDraws, settings: Settings
) -> tuple[ModeCheck, Floats, Bools]:
    """Return the check by weighted draws, their weights, and whether each lies outside, ``(dataset, draw)``."""
    usable = chain.usable & (weighted.ess > 0.0)
    z = np.where(usable[:, None, None], weighted.z, 0.0)
    weights = normalised_weights(np.where(usable[:, None], weighted.log_weight, np.nan))
    exact = _moments(_parameters(batched, z), weights)
    shift, shift_se, sd_ratio, sd_se = _compare(chain.moments, exact)
    outside = np.asarray(log_density(chain.kernels, z)) < chain.least_log_density[:, None]
    mass = (weights * outside).sum(axis=1)
    mass_se = np.sqrt((weights**2 * (outside - mass[:, None]) ** 2).sum(axis=1))
    check = ModeCheck(
        shift=np.where(usable, shift, np.nan),
        shift_se=np.where(usable, shift_se, np.nan),
        sd_ratio=np.where(usable, sd_ratio, np.nan),
        sd_se=np.where(usable, sd_se, np.nan),
        mass_outside=np.maximum(mass - chain.share_outside, 0.0),
        mass_outside_se=np.hypot(mass_se, chain.share_se),
        khat=weighted.khat,
        ess=weighted.ess,
        log_evidence=weighted.log_evidence,
        log_evidence_se=weighted.log_evidence_se,
        conclusive=usable & (weighted.khat < settings.khat) & (weighted.ess >= LEAST_ESS),
    )
    return check, weights, outside


def unchecked(datasets: int) -> ModeCheck:
    """Return the check of data sets that have not been checked: NaN and inconclusive."""
    unknown, numbers = np.zeros(datasets, dtype=bool), {item.name: np.nan for item in fields(ModeCheck)}
    numbers |= {"khat": np.inf, "ess": 0.0}
    return ModeCheck(
        **{name: unknown if name == "conclusive" else np.full(datasets, value) for name, value in numbers.items()}
    )


def replaced(check: ModeCheck, newer: ModeCheck, positions: Ints) -> ModeCheck:
    """Return ``check`` with the data sets at ``positions`` replaced by those of ``newer``, in order."""
    columns = {item.name: np.array(getattr(check, item.name)) for item in fields(ModeCheck)}
    for name, column in columns.items():
        column[positions] = getattr(newer, name)
    return ModeCheck(**columns)


@dataclass(frozen=True)
class _Moments:
    """The mean, sd, error of the mean and relative error of the sd of each parameter, ``(dataset, ndim)``."""

    mean: Floats
    sd: Floats
    error: Floats
    sd_error: Floats


def _moments(theta: Floats, weights: Floats) -> _Moments:
    """Return the weighted moments of ``theta``; in their errors a draw counts by its weight squared."""
    theta = np.where(weights[..., None] > 0.0, theta, 0.0)
    mean = np.einsum("dn,dnp->dp", weights, theta)
    squares = (theta - mean[:, None]) ** 2
    variance = np.einsum("dn,dnp->dp", weights, squares)
    error = np.sqrt(np.einsum("dn,dnp->dp", weights**2, squares))
    of_variance = np.sqrt(np.einsum("dn,dnp->dp", weights**2, (squares - variance[:, None]) ** 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _Moments(mean, np.sqrt(variance), error, 0.5 * of_variance / variance)


def _compare(chain: _Moments, exact: _Moments) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the largest shift of a mean and its error, and the most significant ratio of sds and its error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.abs(exact.mean - chain.mean) / exact.sd
        error = np.hypot(exact.error, chain.error) / exact.sd
        ratio = chain.sd / exact.sd
        ratio_error = np.hypot(exact.sd_error, chain.sd_error)
        extreme = np.abs(np.log(ratio)) - ERRORS * ratio_error
    rows = np.arange(len(shift))
    worst = np.argmax(np.where(np.isnan(shift), -1.0, shift), axis=1)
    furthest = np.argmax(np.where(np.isnan(extreme), -np.inf, extreme), axis=1)
    return shift[rows, worst], error[rows, worst], ratio[rows, furthest], ratio_error[rows, furthest]
