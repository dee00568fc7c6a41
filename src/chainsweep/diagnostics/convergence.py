"""Convergence of Markov chains: R-hat, effective sample sizes, Monte-Carlo error, for many data sets at once.

Every function takes draws of shape ``(..., chain, draw)`` and returns shape ``(...)``, equal to ArviZ on
finite draws that vary. NaN says "cannot be judged", never "converged": it comes back where a draw is NaN or
infinite, where all draws are equal (ArviZ calls such a sample perfect: ESS = number of draws), and where
there are fewer than 4 draws or, for R-hat, 2 chains. A chain that is stuck among moving ones gives a large
R-hat; chains that are each stuck at a value of their own an infinite or astronomically large one. Draws kept
as float32 are folded and compared as float32, as ArviZ does (which draws tie depends on it), and summed as
float64.

With chains split in halves of ``n`` draws, ``B`` and ``W`` their between and within variance: ``R-hat^2 =
(B / W + n - 1) / n``, of the normal scores ``Phi^-1((rank - 3/8) / (S + 1/4))`` of all ``S`` draws.

Reference: A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner, Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16, 667 (2021). C. Geyer,
Practical Markov chain Monte Carlo, Statistical Science 7, 473 (1992), for the initial monotone sequence.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import scipy.fft
import scipy.special
from numpy.typing import ArrayLike, NDArray

from chainsweep.diagnostics.autocorrelation import power_spectrum
from chainsweep.diagnostics.blocks import Kernel, map_rows
from chainsweep.numerics.arrays import Floats

Rows = Floats
Draws = NDArray[np.floating]
AnyFloat = TypeVar("AnyFloat", bound=np.floating)

MIN_DRAWS = 4
TAIL_PROBABILITIES = (0.05, 0.95)
BLOM_OFFSET = 3 / 8
CONVERGENCE_FIGURES = ("rhat", "ess_bulk", "ess_tail", "mcse_mean")


def rhat_rank(draws: ArrayLike) -> Rows:
    """Rank-normalised split R-hat, the larger of bulk and folded (``arviz.rhat(method="rank")``)."""
    return _each(_rhat_rank_rows, draws, min_chains=2)


def rhat(draws: ArrayLike) -> Rows:
    """Split R-hat of the raw draws (``arviz.rhat(method="split")``); needs a finite variance."""
    return _each(lambda rows: _rhat_rows(_double(_split(rows))), draws, min_chains=2)


def ess_bulk(draws: ArrayLike) -> Rows:
    """Effective sample size of the rank-normalised draws (``arviz.ess(method="bulk")``)."""
    return _each(lambda rows: _ess_rows(_normal_scores(_split(rows))), draws)


def ess_tail(draws: ArrayLike) -> Rows:
    """The smaller effective sample size of the 5 % and the 95 % quantile (``arviz.ess(method="tail")``)."""
    return _each(_ess_tail_rows, draws)


def mcse_mean(draws: ArrayLike) -> Rows:
    """Monte-Carlo standard error of the mean, in the unit of the draws (``arviz.mcse(method="mean")``)."""
    return _each(_mcse_mean_rows, draws)


def convergence(draws: ArrayLike) -> dict[str, Rows]:
    """All figures at once: ``rhat`` (rank-normalised), ``ess_bulk``, ``ess_tail``, ``mcse_mean``.

    Same numbers as the single functions; the draws are read and ranked once.
    """
    figures = _each(_convergence_rows, draws, figures=len(CONVERGENCE_FIGURES))
    return {name: figures[..., i] for i, name in enumerate(CONVERGENCE_FIGURES)}


def _each(kernel: Kernel, draws: ArrayLike, min_chains: int = 1, figures: int | None = None) -> Rows:
    """Apply ``kernel`` to the series that can be judged, in blocks; NaN for the others."""
    values = np.asarray(draws)
    if values.ndim < 2:
        raise ValueError(f"draws must have shape (..., chain, draw), got shape {values.shape}")
    result_shape = () if figures is None else (figures,)
    n_chains, n_draws = values.shape[-2:]
    if n_chains < min_chains or n_draws < MIN_DRAWS:
        return np.full((*values.shape[:-2], *result_shape), np.nan)

    def judge(rows: Draws) -> Rows:
        result = np.full((len(rows), *result_shape), np.nan)
        usable = np.isfinite(rows).all(axis=(1, 2))
        # Judged on what the split keeps: it drops the middle draw of an odd number.
        kept = _split(rows)
        usable &= (kept != kept[:, :1, :1]).any(axis=(1, 2))
        if usable.any():
            result[usable] = kernel(rows[usable])
        return result

    dtype = np.float32 if values.dtype == np.float32 else np.float64
    return map_rows(judge, values, core_ndim=2, dtype=dtype)


def _double(rows: Draws) -> Rows:
    return rows.astype(np.float64, copy=False)


def _split(rows: NDArray[AnyFloat]) -> NDArray[AnyFloat]:
    """Halve each chain: ``(row, chain, draw)`` to ``(row, 2 chain, draw // 2)``, first halves first."""
    half = rows.shape[-1] // 2
    return np.concatenate([rows[..., :half], rows[..., -half:]], axis=1)


def _normal_scores(rows: Draws) -> Rows:
    """Replace each draw by the normal quantile of its rank in its row; ties share a mean rank."""
    flat = rows.reshape(len(rows), -1)
    size = flat.shape[1]
    order = np.argsort(flat, axis=1)
    ascending = np.take_along_axis(flat, order, axis=1)
    place = np.arange(size)
    is_new = np.ones(flat.shape, dtype=bool)
    is_new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    first = np.maximum.accumulate(np.where(is_new, place, 0), axis=1)
    ends = np.ones(flat.shape, dtype=bool)
    ends[:, :-1] = is_new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, size)[:, ::-1], axis=1)[:, ::-1]
    # Mean ranks are multiples of one half, so a table replaces one quantile a draw by two a rank.
    ranks = np.arange(2 * size + 1) / 2.0
    scores = np.full(2 * size + 1, np.nan)
    scores[2:] = scipy.special.ndtri((ranks[2:] - BLOM_OFFSET) / (size - 2 * BLOM_OFFSET + 1))
    result = np.empty(flat.shape)
    np.put_along_axis(result, order, scores[first + last + 2], axis=1)
    return result.reshape(rows.shape)


def _rhat_rows(rows: Rows) -> Rows:
    """R-hat of chains as they are: ``sqrt((B / W + n - 1) / n)``."""
    n_draws = rows.shape[-1]
    between = n_draws * rows.mean(axis=-1).var(axis=-1, ddof=1)
    within = rows.var(axis=-1, ddof=1).mean(axis=-1)
    # W = 0 is all chains stuck: infinite when they differ, NaN when they agree.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + n_draws - 1) / n_draws)


def _rhat_rank_rows(rows: Draws) -> Rows:
    split = _split(rows)
    return _larger_rhat(split, _normal_scores(split))


def _larger_rhat(split: Draws, scores: Rows) -> Rows:
    """The larger of the bulk R-hat (of ``scores``) and of the folded one, which sees scale and tails."""
    bulk = _rhat_rows(scores)
    folded = _rhat_rows(_normal_scores(np.abs(split - np.median(split, axis=(1, 2), keepdims=True))))
    # Two-valued draws fold to a constant, whose R-hat is NaN: the bulk one is then taken.
    return np.where(folded > bulk, folded, bulk)


def _ess_rows(rows: Rows) -> Rows:
    """ESS of the mean of ``(row, chain, draw)``; a row without variation counts every draw, as in ArviZ."""
    _, n_chains, n_draws = rows.shape
    power, length = power_spectrum(rows)
    covariance = scipy.fft.irfft(power.mean(axis=1), n=length, axis=-1)[:, :n_draws] / n_draws
    within = covariance[:, :1] * n_draws / (n_draws - 1.0)
    pooled = within * (n_draws - 1.0) / n_draws
    if n_chains > 1:
        pooled = pooled + rows.mean(axis=-1).var(axis=-1, ddof=1)[:, None]
    constant = (rows == rows[:, :1, :1]).all(axis=(1, 2))
    pooled[constant] = 1.0
    rho = 1.0 - (within - covariance) / pooled
    rho[:, 0] = 1.0
    total = float(n_chains * n_draws)
    # Antithetic chains beat independent draws, but no estimate of that is trusted beyond this factor.
    tau = np.maximum(_geyer_tau(rho), 1.0 / np.log10(total))
    return np.where(constant, total, total / tau)


def _geyer_tau(rho: Rows) -> Rows:
    """Integrated time of autocorrelations ``(row, lag)`` by Geyer's initial monotone sequence.

    Pair sums ``rho_{2k} + rho_{2k+1}`` are kept while positive and replaced by their running minimum; the
    even term after the last kept pair still counts, once, unless both it and its pair are negative.
    """
    n_lags = rho.shape[1]
    last = max(0, (n_lags - 3) // 2)
    pairs = rho[:, 0 : 2 * last + 1 : 2] + rho[:, 1 : 2 * last + 2 : 2]
    stops = ~(pairs > 0.0)
    stops[:, last] = True
    stop = np.argmax(stops, axis=1)[:, None]
    kept = np.where(np.arange(last + 1) < stop, np.minimum.accumulate(pairs, axis=1), 0.0).sum(axis=1)
    even = np.take_along_axis(rho, 2 * stop, axis=1)[:, 0]
    pair = np.take_along_axis(pairs, stop, axis=1)[:, 0]
    return -1.0 + 2.0 * kept + np.where((even > 0.0) | (pair >= 0.0), even, 0.0)


def _ess_tail_rows(rows: Draws) -> Rows:
    sizes = [_ess_rows(_split((rows <= cut).astype(np.float64))) for cut in _tail_quantiles(rows)]
    return np.minimum(*sizes)


def _tail_quantiles(rows: Draws) -> list[Rows]:
    """Type-7 quantiles of all draws of a row, in the very operations of ``mquantiles``.

    ``draw <= quantile`` compares equals whenever a quantile falls on a draw, so here the last bit matters.
    """
    flat = rows.reshape(len(rows), -1)
    size = flat.shape[1]
    positions = [size * p + (1 - p) for p in TAIL_PROBABILITIES]
    lower = [int(np.clip(position, 1, size - 1)) for position in positions]
    ordered = np.partition(flat, sorted({k - 1 for k in lower} | set(lower)), axis=1)
    cuts = []
    for position, k in zip(positions, lower, strict=True):
        gamma = min(max(position - k, 0.0), 1.0)
        low, high = _double(ordered[:, k - 1]), _double(ordered[:, k])
        cuts.append(((1.0 - gamma) * low + gamma * high)[:, None, None])
    return cuts


def _mcse_mean_rows(rows: Draws) -> Rows:
    double = _double(rows)
    return double.std(axis=(1, 2), ddof=1) / np.sqrt(_ess_rows(_split(double)))


def _convergence_rows(rows: Draws) -> Rows:
    split = _split(rows)
    scores = _normal_scores(split)
    judged = _larger_rhat(split, scores) if rows.shape[1] > 1 else np.full(len(rows), np.nan)
    return np.stack([judged, _ess_rows(scores), _ess_tail_rows(rows), _mcse_mean_rows(rows)], axis=-1)
