"""Autocorrelation functions and integrated autocorrelation times of chains, by FFT over the draw axis.

``rho_t = sum_i (x_i - m) (x_{i+t} - m) / sum_i (x_i - m)^2`` and ``tau = 1 + 2 sum_{t=1}^{M} rho_t`` with
Sokal's window: the smallest ``M`` with ``M >= c tau(M)``.

Reference: A. Sokal, Monte Carlo Methods in Statistical Mechanics (1997), section 3; D. Foreman-Mackey et al.,
emcee: The MCMC Hammer, PASP 125, 306 (2013).
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike

from chainsweep.diagnostics.blocks import map_rows
from chainsweep.numerics.arrays import Bools, Floats

WINDOW = 5.0
"""Sokal's ``c``: the window is at least this many autocorrelation times wide."""


def autocorrelation(draws: ArrayLike) -> Floats:
    """Normalised autocorrelation function along the last axis.

    Parameters
    ----------
    draws
        Shape ``(..., draw)``.

    Returns
    -------
    ndarray
        Shape ``(..., draw)``: lag 0 is 1. All NaN for a series that is constant or holds a NaN or infinity.
    """
    values = np.asarray(draws)
    if values.ndim < 1 or values.shape[-1] == 0:
        raise ValueError(f"draws must have shape (..., draw) with at least one draw, got shape {values.shape}")
    return map_rows(_autocorrelation_rows, values, core_ndim=1)


def integrated_time(chain: ArrayLike, c: float = WINDOW) -> Floats:
    """Integrated autocorrelation time of an ensemble: one Sokal window on the mean of the walkers' functions.

    Equal to ``emcee.autocorr.integrated_time(x, c=c, quiet=True)``; whether the chain is long enough for its
    own ``tau`` (N > 50 tau) is the caller's question. Short chains bias ``tau`` low.

    Parameters
    ----------
    chain
        Shape ``(..., draw, walker)``.
    c
        Width of the window in autocorrelation times.

    Returns
    -------
    ndarray
        Shape ``(...)``, in draws. NaN where any walker is constant or holds a NaN or infinity: a stuck walker
        has no autocorrelation time (emcee then returns NaN or, by rounding, an arbitrary number).
    """
    values = np.asarray(chain)
    if values.ndim < 2 or 0 in values.shape[-2:]:
        raise ValueError(
            f"chain must have shape (..., draw, walker) with at least one of each, got shape {values.shape}"
        )

    def kernel(rows: Floats) -> Floats:
        return _tau_rows(rows, c)

    return map_rows(kernel, np.swapaxes(values, -1, -2), core_ndim=2)


def power_spectrum(rows: Floats) -> tuple[Floats, int]:
    """Power of the centred series, zero padded against wrap-around, and the padded length.

    ``irfft(power, n=length)[..., :draw]`` is ``sum_i (x_i - m)(x_{i+t} - m)`` at each lag ``t``. Averages
    over chains or walkers commute with that inverse: taken on the power, one inverse serves all of them.
    """
    length = scipy.fft.next_fast_len(2 * rows.shape[-1], real=True)
    transform = scipy.fft.rfft(rows - rows.mean(axis=-1, keepdims=True), n=length, axis=-1)
    return transform.real**2 + transform.imag**2, length


def _autocorrelation_rows(rows: Floats) -> Floats:
    """Autocorrelation functions of ``(row, draw)``, NaN in rows that are constant or hold a NaN or infinity."""
    result = np.full(rows.shape, np.nan)
    moving = _moving(rows)
    if moving.any():
        power, length = power_spectrum(rows[moving])
        sums = scipy.fft.irfft(power, n=length, axis=-1)[:, : rows.shape[-1]]
        result[moving] = sums / sums[:, :1]
    return result


def _tau_rows(rows: Floats, c: float) -> Floats:
    """Integrated autocorrelation times ``(row,)`` of ``(row, walker, draw)``."""
    tau = np.full(len(rows), np.nan)
    usable = _moving(rows).all(axis=-1)
    if not usable.any():
        return tau
    n_draws = rows.shape[-1]
    power, length = power_spectrum(rows[usable])
    # Each walker counts alike, whatever its variance: its spectrum is divided by its own lag-0 sum (Parseval's).
    lag0 = (2.0 * power.sum(axis=-1) - power[..., 0] - (power[..., -1] if length % 2 == 0 else 0.0))[..., None] / length
    acf = scipy.fft.irfft((power / lag0).mean(axis=1), n=length, axis=-1)[:, :n_draws]
    taus = 2.0 * np.cumsum(acf, axis=-1) - 1.0
    # taus ends at 0 but for rounding (a centred series), so some lag always closes the window.
    window = np.argmin(np.arange(n_draws) < c * taus, axis=-1)
    tau[usable] = np.take_along_axis(taus, window[:, None], axis=-1)[:, 0]
    return tau


def _moving(rows: Floats) -> Bools:
    """True where a series (last axis) is finite and not constant."""
    return np.isfinite(rows).all(axis=-1) & (rows != rows[..., :1]).any(axis=-1)
