"""The stored part of ensembles: thinned steps while they run, then draws and diagnostics of finished data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from chainsweep.config.sections import VerdictSection
from chainsweep.diagnostics.autocorrelation import integrated_time
from chainsweep.diagnostics.convergence import rhat_rank
from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.engines.emcee.initial_walkers import low_walkers
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Floats, Ints

CAPACITY = 500
"""The most steps kept of each chain; when they are full, every second one is deleted and the stride doubles."""

BURN_IN_SHARE = 0.2
BURN_IN_TAU = 5.0
"""The part of a settled chain that is discarded: the larger of this share of it and ``BURN_IN_TAU`` autocorrelation
times."""

MOST_DRAWS = 2000
"""The largest number of draws kept of one ensemble (kept steps times walkers); a longer chain is thinned."""

LEAST_STEPS = 20
"""The least number of kept steps at which a chain is judged."""


@dataclass
class Thinned:
    """Every ``stride``-th step of the chains of one data set, at most ``CAPACITY`` of them however long the chains are.

    The first ``count`` rows of ``theta`` ``(step, ensemble, walker, ndim)`` and ``log_prob`` are filled; row ``j`` is
    step ``(j + 1) * stride``, counted from 1.
    """

    theta: Floats
    log_prob: Floats
    count: int = 0
    stride: int = 1

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Thinned:
        """An empty chain for ``shape`` ``(ensemble, walker, ndim)``; pages that are not written use no memory."""
        return cls(np.empty((CAPACITY, *shape)), np.empty((CAPACITY, *shape[:-1])))

    def append(self, step: int, theta: Floats, log_prob: Floats) -> None:
        """Keep ``step`` if it is a multiple of the stride."""
        if self.count == CAPACITY and step % self.stride == 0:
            self._halve()
        if step % self.stride == 0:
            self.theta[self.count], self.log_prob[self.count] = theta, log_prob
            self.count += 1

    def _halve(self) -> None:
        half = CAPACITY // 2
        self.theta[:half], self.log_prob[:half] = self.theta[1::2], self.log_prob[1::2]
        self.count, self.stride = half, 2 * self.stride

    def after(self, step: int) -> tuple[Floats, Floats]:
        """The kept steps after ``step``: points ``(step, ensemble, walker, ndim)``, and their log densities."""
        rows = slice(step // self.stride, self.count)
        return self.theta[rows], self.log_prob[rows]


def packed_chains(chains: Sequence[Thinned]) -> Arrays:
    """The chains as flat arrays, one data set after the other; ``unpacked_chains`` is the inverse."""
    return {
        "chain_theta": np.concatenate([chain.theta[: chain.count] for chain in chains]),
        "chain_log_prob": np.concatenate([chain.log_prob[: chain.count] for chain in chains]),
        "chain_count": np.array([chain.count for chain in chains]),
        "chain_stride": np.array([chain.stride for chain in chains]),
    }


def unpacked_chains(arrays: Arrays) -> list[Thinned]:
    """The chains that ``packed_chains`` saved."""
    chains, first = [], 0
    for count, stride in zip(arrays["chain_count"].tolist(), arrays["chain_stride"].tolist(), strict=True):
        chain = Thinned.empty(arrays["chain_theta"].shape[1:])
        chain.count, chain.stride = count, stride
        chain.theta[:count] = arrays["chain_theta"][first : first + count]
        chain.log_prob[:count] = arrays["chain_log_prob"][first : first + count]
        chains.append(chain)
        first += count
    return chains


@dataclass(frozen=True)
class Assessment:
    """The diagnostics of the chains of one data set. Figures are NaN where they cannot be computed.

    ``first`` is the first kept row after burn-in; ``tau`` ``(ndim,)`` is in rows of the kept chain.
    """

    first: int
    tau: Floats
    kept_over_tau: float
    rhat_max: float
    ess_min: float
    stuck: int
    passed: bool


def assess(theta: Floats, log_prob: Floats, limits: VerdictSection, final: bool) -> Assessment:
    """Judge the chains of one data set, ``(step, ensemble, walker, ndim)``, from the step where burn-in could end.

    R-hat compares halves of the ensembles, walkers pooled, in every parameter and the log density; it is left
    NaN where the chains are too short to pass, unless ``final``.
    """
    rows, ensembles, walkers, _ = theta.shape
    first = int(BURN_IN_SHARE * rows)
    tau = ensemble_tau(theta[first:])
    if np.isfinite(tau).all() and BURN_IN_TAU * tau.max() > first:
        first = min(int(BURN_IN_TAU * tau.max()), rows // 2)
        tau = ensemble_tau(theta[first:])
    theta, log_prob = theta[first:], log_prob[first:]
    ratio = len(theta) / float(tau.max())
    ess = ratio * ensembles * walkers
    long_enough = ratio > limits.tau and ess > limits.ess
    if len(theta) < LEAST_STEPS or not (long_enough or final):
        return Assessment(first, tau, ratio, np.nan, ess, 0, passed=False)
    stuck = int(low_walkers(log_prob, theta.shape[-1]).sum())
    # Rows closer than an autocorrelation time add little to R-hat and cost time.
    even = slice(None, None, max(1, int(tau.max())) if np.isfinite(tau).all() else 1)
    pooled = theta[even]
    # A density that is the same everywhere has no R-hat; chains that do not move are detected by their parameters.
    if not (np.isfinite(log_prob).all() and np.ptp(log_prob) == 0):
        pooled = np.concatenate([pooled, log_prob[even, ..., None]], axis=-1)
    rhat = float(np.max(rhat_rank(np.moveaxis(pooled, (3, 1), (0, 1)).reshape(pooled.shape[-1], ensembles, -1))))
    passed = bool(long_enough and rhat < limits.rhat and stuck == 0)
    return Assessment(first, tau, ratio, rhat, ess, stuck, passed)


def ensemble_tau(theta: Floats) -> Floats:
    """Autocorrelation time ``(ndim,)`` of ``(step, ensemble, walker, ndim)``, in steps; NaN if a walker is stuck.

    Sokal's estimate centres each walker on its own mean, so it cannot see walkers that stay apart. Where
    walkers' means scatter more than twice as much as it allows, their scatter gives the time instead.
    """
    rows = len(theta)
    if rows < LEAST_STEPS:
        return np.full(theta.shape[-1], np.nan)
    series = theta.reshape(rows, -1, theta.shape[-1])
    tau = integrated_time(np.moveaxis(series, 2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = rows * series.mean(axis=0).var(axis=0, ddof=1) / series.var(axis=(0, 1))
    return np.maximum(1.0, np.where(scatter > 2.0 * tau, scatter, tau))


@dataclass(frozen=True)
class Info:
    """Diagnostics of one data set; lengths are in steps of the sampler, burn-in included in ``n_steps``.

    ``tau`` ``(ndim,)``; ``acceptance`` ``(ensemble,)``; ``ess_min`` counts all walkers of all ensembles, and
    ``ess_kept`` the draws among them that are kept;
    ``stuck_moved`` counts the walkers that were moved to other places during burn-in, ``stuck_walkers`` those that have
    a low density at the end; ``trace`` ``(step, ndim)`` follows one walker of the first ensemble from the first step
    on, every ``trace_thin``-th step, and its first ``trace_burn_in`` rows are burn-in.
    """

    tau: Floats
    tau_max: float
    acceptance: Floats
    n_steps: int
    burn_in: int
    thin: int
    kept_over_tau: float
    rhat_max: float
    ess_min: float
    ess_kept: float
    stuck_moved: int
    stuck_walkers: int
    walkers: int
    seconds: float
    trace: Floats
    trace_burn_in: int
    trace_thin: int


class Results:
    """The draws and ``Info`` of the finished data sets of a batch; NaN for the others."""

    def __init__(self, datasets: int, ensembles: int, ndim: int, max_draws: int) -> None:
        shapes = {"tau": (ndim,), "acceptance": (ensembles,), "trace": (CAPACITY, ndim)}
        self.info = {f.name: np.full((datasets, *shapes.get(f.name, ())), np.nan) for f in fields(Info)}
        self.theta: Floats = np.full((datasets, ensembles, max_draws, ndim), np.nan)
        self.log_prob: Floats = np.full((datasets, ensembles, max_draws), np.nan)
        self.n_draws: Ints = np.zeros(datasets, dtype=np.int64)
        self.failures: dict[int, str] = {}

    def add(self, position: int, theta: Floats, log_prob: Floats, info: Info) -> None:
        """Store the draws ``(ensemble, draw, ndim)`` of a finished data set."""
        draws = theta.shape[1]
        self.theta[position, :, :draws], self.log_prob[position, :, :draws] = theta, log_prob
        self.n_draws[position] = draws
        for name, column in self.info.items():
            value = np.asarray(getattr(info, name), dtype=float)
            if name == "trace":
                column[position, : len(value)] = value
            else:
                column[position] = value

    @property
    def finished(self) -> int:
        """The number of data sets that are done, failed ones included."""
        return int((self.n_draws > 0).sum()) + len(self.failures)

    def _columns(self) -> Arrays:
        own = {"theta": self.theta, "log_prob": self.log_prob, "n_draws": self.n_draws}
        return {f"done_{name}": column for name, column in (own | self.info).items()}

    def arrays(self) -> Arrays:
        """The finished data sets as flat arrays by name; ``restore`` is the inverse."""
        rows = np.flatnonzero(self.n_draws)
        failures = json.dumps({str(k): v for k, v in self.failures.items()}).encode()
        saved = {name: column[rows] for name, column in self._columns().items()}
        return saved | {"done": rows, "failures": np.frombuffer(failures, dtype=np.uint8)}

    def restore(self, arrays: Arrays) -> None:
        """Set the finished data sets from the arrays that ``arrays`` gave."""
        rows = np.asarray(arrays["done"], dtype=np.int64)
        for name, column in self._columns().items():
            column[rows] = arrays[name]
        saved = json.loads(np.asarray(arrays["failures"], dtype=np.uint8).tobytes())
        self.failures = {int(position): reason for position, reason in saved.items()}

    def chains(self, batched: BatchedProblem, sampled: Problem) -> Chains:
        """All draws, in the space of the model even where it was ``sampled`` in another one.

        The draw axis is as long as that of the data set with the most draws.
        """
        longest = max(1, int(self.n_draws.max(initial=0)))
        theta, log_prob, info = self.theta[:, :, :longest], self.log_prob[:, :, :longest], self.info
        if sampled is not batched.problem:
            datasets, ensembles = theta.shape[:2]
            theta = batched.constrain(theta.reshape(datasets, -1, theta.shape[-1]))
            log_prob = np.where(np.isnan(log_prob), np.nan, batched.log_density(theta).reshape(log_prob.shape))
            theta = theta.reshape(datasets, ensembles, longest, -1)
            info = {**info, "trace": batched.constrain(info["trace"])}
        return Chains(DrawKind.ENSEMBLE, theta, {"lp": log_prob}, self.n_draws, info, self.failures)
