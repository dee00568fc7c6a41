"""Figures of every data set of a block, from draws padded with NaN: posterior summaries and convergence.

``draws`` has shape ``(dataset, chain, draw, ndim)``; data set ``i`` has ``n_draws[i]`` draws in each chain,
all at the front. The values behind them are never read. Results have shape ``(dataset, ndim)``, NaN for a
data set without draws, and for a parameter of which a draw that counts is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainsweep.diagnostics.blocks import by_length, leading_blocks
from chainsweep.diagnostics.convergence import CONVERGENCE_FIGURES, convergence
from chainsweep.diagnostics.weights import weighted_mean, weighted_quantile, weighted_sd
from chainsweep.numerics.arrays import Floats

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
POSTERIOR_FIGURES = ("mean", "sd", *QUANTILES)


def posterior_summary(draws: NDArray, n_draws: ArrayLike, log_weights: NDArray | None = None) -> dict[str, Floats]:
    """The ``mean``, ``sd`` (``ddof=1``), ``q05``, ``q50``, ``q95`` of all chains together.

    Parameters
    ----------
    draws
        Shape ``(dataset, chain, draw, ndim)``.
    n_draws
        Shape ``(dataset,)``, integers from 0 to the length of the draw axis.
    log_weights
        Shape ``(dataset, chain, draw)``; equal weights by default. Draws of weight ``-inf`` are ignored,
        whatever their value; without usable weights every figure is NaN.

    Returns
    -------
    dict
        Figure to ``(dataset, ndim)``. ``sd`` is NaN where a single draw counts.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or ``n_draws`` lies outside the draw axis.
    """
    _check(draws, n_draws)
    if log_weights is not None and log_weights.shape != draws.shape[:3]:
        raise ValueError(
            f"log_weights must have the shape (dataset, chain, draw) of the draws, {draws.shape[:3]}, "
            f"got {log_weights.shape}"
        )
    result = {name: np.full((len(draws), draws.shape[-1]), np.nan) for name in POSTERIOR_FIGURES}
    for length, positions in by_length(n_draws, draws.shape[2]):
        for block in leading_blocks(len(positions), math.prod(draws.shape[1:])):
            rows = positions[block]
            flat = _flat(draws[rows, :, :length])
            if log_weights is None:
                figures = _plain_figures(flat)
            else:
                figures = _weighted_figures(flat, log_weights[rows, :, :length].reshape(len(rows), 1, -1))
            for name, figure in figures.items():
                result[name][rows] = figure
    return result


def convergence_summary(draws: NDArray, n_draws: ArrayLike) -> dict[str, Floats]:
    """The ``rhat`` (rank-normalised), ``ess_bulk``, ``ess_tail``, ``mcse_mean`` of each data set and parameter.

    Parameters
    ----------
    draws
        Shape ``(dataset, chain, draw, ndim)``.
    n_draws
        Shape ``(dataset,)``, integers from 0 to the length of the draw axis.

    Returns
    -------
    dict
        Figure to ``(dataset, ndim)``; see ``diagnostics.convergence`` for when it is NaN. A verdict must
        treat NaN as not converged: ``not rhat < 1.01`` rather than ``rhat >= 1.01``.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or ``n_draws`` lies outside the draw axis.
    """
    _check(draws, n_draws)
    result = {name: np.full((len(draws), draws.shape[-1]), np.nan) for name in CONVERGENCE_FIGURES}
    for length, positions in by_length(n_draws, draws.shape[2]):
        for block in leading_blocks(len(positions), math.prod(draws.shape[1:])):
            rows = positions[block]
            for name, figure in convergence(np.moveaxis(draws[rows, :, :length], -1, 1)).items():
                result[name][rows] = figure
    return result


def _check(draws: NDArray, n_draws: ArrayLike) -> None:
    if draws.ndim != 4 or np.shape(n_draws) != draws.shape[:1]:
        raise ValueError(
            "draws must have shape (dataset, chain, draw, ndim) and n_draws shape (dataset,), got "
            f"{draws.shape} and {np.shape(n_draws)}"
        )


def _flat(draws: NDArray) -> Floats:
    """Reshape ``(dataset, chain, draw, ndim)`` to float64 ``(dataset, ndim, chain * draw)``."""
    moved = np.moveaxis(draws, -1, 1)
    return np.ascontiguousarray(moved, dtype=np.float64).reshape(*moved.shape[:2], -1)


def _plain_figures(flat: Floats) -> dict[str, Floats]:
    """Figures of equally weighted ``(dataset, ndim, draw)``."""
    sd = flat.std(axis=-1, ddof=1) if flat.shape[-1] > 1 else np.full(flat.shape[:2], np.nan)
    quantiles = np.quantile(flat, list(QUANTILES.values()), axis=-1)
    return {"mean": flat.mean(axis=-1), "sd": sd, **dict(zip(QUANTILES, quantiles, strict=True))}


def _weighted_figures(flat: Floats, log_weights: Floats) -> dict[str, Floats]:
    """Figures of ``(dataset, ndim, draw)`` with log weights ``(dataset, 1, draw)``."""
    quantiles = weighted_quantile(flat, log_weights, list(QUANTILES.values()))
    return {
        "mean": weighted_mean(flat, log_weights),
        "sd": weighted_sd(flat, log_weights),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
