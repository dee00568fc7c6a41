"""The figures of the chains of one data set and one engine: traces, autocorrelation, importance weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from chainsweep.diagnostics.autocorrelation import autocorrelation
from chainsweep.diagnostics.weights import normalised_weights
from chainsweep.report.formatting import short_name
from chainsweep.report.style import (
    INK,
    THRESHOLD,
    engine_colour,
    engine_text_colour,
    new_figure,
    say,
    styled,
)
from chainsweep.report.views import Floats, TraceView

MAX_ROWS = 8
MAX_CHAINS = 24
MAX_STEPS = 500


@styled
def trace_plot(engine: str, names: Sequence[str], draws: Floats, trace: TraceView | None) -> Figure:
    """Draw one row per parameter (8 at most): the trace, with burn-in shaded where known, and the draws' histogram.

    ``draws`` is ``(chain, draw, ndim)``.
    """
    rows = min(len(names), MAX_ROWS)
    figure = new_figure(5.8, 0.55 + 0.95 * rows)
    axes = figure.subplots(rows, 2, squeeze=False, sharex="col", sharey="row", gridspec_kw={"width_ratios": (6, 1)})
    values = draws if trace is None else trace.values
    thin = 1 if trace is None else trace.thin
    burn_in = 0 if trace is None else trace.n_burn_in
    shades = _shades(engine, min(values.shape[0], MAX_CHAINS))
    stride = max(1, -(-values.shape[1] // MAX_STEPS))
    steps = np.arange(values.shape[1])[::stride] * thin
    for row in range(rows):
        ax, side = axes[row]
        for chain, shade in enumerate(shades):
            ax.plot(steps, values[chain, ::stride, row], color=shade, lw=0.5, alpha=0.75, rasterized=True)
        _marginals(side, draws[:, :, row], _shades(engine, min(len(draws), MAX_CHAINS)))
        if burn_in:
            ax.axvspan(0, burn_in * thin, color="#c3cbd3", alpha=0.45, lw=0, zorder=3)
        ax.set_ylabel(short_name(names[row]))
        _kept_limits(ax, values[:, burn_in:, row])
        ax.yaxis.set_major_locator(MaxNLocator(3))
        if len(steps) > 1:
            ax.set_xlim(steps[0], steps[-1])
    if burn_in:
        axes[0, 0].text(
            0.008,
            0.06,
            "burn-in",
            transform=axes[0, 0].transAxes,
            fontsize=7,
            zorder=6,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.2},
        )
    axes[-1, 0].set_xlabel("kept draw" if trace is None else "step")
    left_out = len(names) - rows
    suffix = f"  ·  {left_out} more parameters not drawn" if left_out else ""
    axes[0, 0].set_title(
        f"{engine}  ·  {_chains(values.shape[0], traced=trace is not None)}{suffix}",
        color=engine_text_colour(engine),
    )
    return figure


def _kept_limits(ax: Axes, kept: Floats) -> None:
    """Set the limits of ``ax`` to the kept steps, because far excursions of the burn-in would flatten them."""
    finite = kept[np.isfinite(kept)]
    if finite.size and finite.min() < finite.max():
        pad = 0.25 * float(np.ptp(finite))
        ax.set_ylim(float(finite.min()) - pad, float(finite.max()) + pad)


def _chains(n: int, *, traced: bool) -> str:
    shown = "" if n <= MAX_CHAINS else f" ({MAX_CHAINS} drawn)"
    return f"{n} {'traced ' if traced else ''}chain{'s' if n != 1 else ''}{shown}"


def _marginals(ax: Axes, draws: Floats, shades: list[tuple[float, float, float]]) -> None:
    finite = draws[np.isfinite(draws)]
    ax.set_axis_off()
    if finite.size < 2 or finite.min() == finite.max():
        return
    edges = np.linspace(finite.min(), finite.max(), 31)
    for chain, shade in enumerate(shades):
        kept = draws[chain][np.isfinite(draws[chain])]
        if kept.size:
            counts = np.histogram(kept, edges)[0] / kept.size
            ax.stairs(counts, edges, orientation="horizontal", color=shade, lw=0.9)


def _shades(engine: str, n: int) -> list[tuple[float, float, float]]:
    """Return ``n`` shades of the engine's colour, from dark to light, so that chains can be told apart."""
    base = np.array(to_rgb(engine_colour(engine)))
    mix = np.linspace(-0.45, 0.45, n) if n > 1 else np.zeros(1)
    shades = [base * (1 + m) if m < 0 else base + (1 - base) * m for m in mix]
    return [(float(r), float(g), float(b)) for r, g, b in shades]


@styled
def weights_plot(engine: str, log_weights: Floats, khat: float, khat_limit: float) -> Figure:
    """Draw the share of the posterior mass that the heaviest draws carry; the diagonal is a perfect proposal.

    ``log_weights`` has any shape; ``-inf`` is weight zero.
    """
    figure = new_figure(5.4, 3.5)
    ax = figure.add_subplot()
    ax.set_title(f"{engine}  ·  importance weights", color=engine_text_colour(engine))
    weights = usable_weights(log_weights)
    if not weights.size:
        say(ax, "no usable weight")
        return figure
    cumulative = np.concatenate([[0.0], np.cumsum(np.sort(weights)[::-1])])
    share = np.linspace(0, 100, len(cumulative))
    ess = 1.0 / float(np.sum(weights**2))
    ax.plot([0, 100], [0, 100], color="#9aa5b1", lw=0.8, ls=(0, (4, 3)))
    few = np.unique(np.linspace(0, weights.size, 201).astype(int))
    share, cumulative = share[few], cumulative[few]
    ax.fill_between(share, share, 100 * cumulative, color=engine_colour(engine), alpha=0.16, lw=0)
    ax.plot(share, 100 * cumulative, color=engine_colour(engine), lw=1.6)
    ax.set(xlim=(0, 100), ylim=(0, 102), xlabel="heaviest draws (%)", ylabel="posterior mass (%)")
    lines = f"weighted ESS {ess:,.0f} of {weights.size:,} draws"
    ax.text(0.96, 0.2, lines, transform=ax.transAxes, ha="right", fontsize=8)
    if np.isfinite(khat):
        good = khat < khat_limit
        ax.text(
            0.96,
            0.1,
            f"k̂ = {khat:.2f} ({'below' if good else 'above'} {khat_limit:g})",
            transform=ax.transAxes,
            ha="right",
            fontsize=8,
            color=INK if good else THRESHOLD,
        )
    return figure


def usable_weights(log_weights: Floats) -> Floats:
    """Return flat weights that sum to one; empty if no weight is usable."""
    flat = np.asarray(log_weights, dtype=np.float64).ravel()
    weights = normalised_weights(flat) if flat.size else flat
    return weights if np.isfinite(weights).all() else np.empty(0)


@styled
def autocorrelation_plot(engine: str, names: Sequence[str], chains: Floats, thin: int, tau: float = np.nan) -> Figure:
    """Draw the autocorrelation of every parameter, averaged over chains, with the slowest one bold and named.

    ``chains`` is ``(chain, step, ndim)`` without burn-in, ``thin`` the sampler steps between two rows,
    ``tau`` the catalogue's autocorrelation time in sampler steps (NaN: not drawn).
    """
    figure = new_figure(5.4, 3.5)
    ax = figure.add_subplot()
    ax.set_title(f"{engine}  ·  autocorrelation", color=engine_text_colour(engine))
    rho = mean_autocorrelation(chains)
    if rho is None or not np.isfinite(rho).any():
        say(ax, "too few draws that move")
        return figure
    times = _integrated(rho)
    slowest = int(np.nanargmax(np.where(np.isfinite(times), times, -np.inf)))
    n_lags = int(min(len(rho), max(20, 6 * np.nan_to_num(times[slowest], nan=10.0))))
    lags = np.arange(n_lags) * thin
    colour = engine_colour(engine)
    for column in range(rho.shape[1]):
        strong = column == slowest
        ax.plot(lags, rho[:n_lags, column], color=colour, lw=1.8 if strong else 0.8, alpha=1.0 if strong else 0.45)
    ax.axhline(0, color="#9aa5b1", lw=0.8)
    ax.text(
        0.97,
        0.93,
        f"slowest: {names[slowest]}",
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=engine_text_colour(engine),
    )
    if np.isfinite(tau) and 0 < tau < lags[-1]:
        ax.axvline(tau, color=THRESHOLD, lw=1.0, ls=(0, (4, 3)))
        ax.text(tau, 0.55, f" τ = {tau:.0f}", color=THRESHOLD, fontsize=8)
    ax.set(xlabel="lag (steps)" if thin > 1 else "lag (draws)", ylabel="autocorrelation")
    ax.set_xlim(0, max(lags[-1], 1))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_ylim(min(-0.1, float(np.nanmin(rho[:n_lags])) * 1.1), 1.03)
    return figure


def mean_autocorrelation(chains: Floats) -> Floats | None:
    """Return the autocorrelation ``(lag, ndim)`` of ``(chain, step, ndim)`` to half its length, averaged over chains.

    Chains in which a parameter is constant or not finite are left out of its mean; NaN where none is left,
    None with fewer than 8 steps.
    """
    steps = chains.shape[1]
    if not len(chains) or steps < 8:
        return None
    rho = autocorrelation(np.moveaxis(chains, 1, 2))[..., : steps // 2]
    known = np.isfinite(rho)
    total = np.where(known, rho, 0.0).sum(axis=0)
    n = known.sum(axis=0)
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0).T


def _integrated(rho: Floats) -> Floats:
    """Return the sum of the autocorrelation up to its first fall below 0.05, which is enough to rank parameters."""
    below = np.where(rho < 0.05, np.arange(len(rho))[:, None], len(rho)).min(axis=0)
    kept = np.arange(len(rho))[:, None] < below
    times = 2 * np.where(kept, rho, 0.0).sum(axis=0) - 1
    return np.where(np.isfinite(rho[0]), times, np.nan)
