"""Posteriors that are exact: by algebra, or by sums over a grid that is refined until nothing changes.

No code of the package is used: a family writes its density a second time, in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

NEGLIGIBLE = 32.0
"""The distance in log density from the highest, beyond which a cell of a grid is left out."""
CELLS = {1: 20_000, 2: 700, 3: 110}
"""The number of cells along each axis of a grid, by its number of axes."""
SURROUNDINGS = 0.01
"""The share of the cells, those of the highest density, that the box is not made smaller than."""
MOST_CHANGE = 0.01
"""The largest change of a mean, in sds, and of an sd, relative, between a grid and one with half as many cells more."""


@dataclass(frozen=True)
class Exact:
    """The means and sds of a posterior, by column of the catalogue (``a``, ``b[0]``).

    ``masses`` are the shares of its modes, which ``mode_of(draws)`` tells apart: a function of a dict of arrays
    ``(draw, ...)`` that returns the number of each draw's mode.
    """

    mean: Mapping[str, float]
    sd: Mapping[str, float]
    masses: Sequence[float] = ()
    mode_of: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = field(default=None, repr=False)


def named(names: Sequence[str], mean: np.ndarray, covariance: np.ndarray) -> Exact:
    """The posterior of these columns with a mean and a covariance."""
    sd = np.sqrt(np.diag(covariance))
    return Exact(dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))


def linear(design: np.ndarray, y: np.ndarray, sigma: np.ndarray | float, prior_sd: np.ndarray | float):
    """Mean and covariance of the coefficients of ``y ~ N(design @ b, sigma)`` with ``b ~ N(0, prior_sd)``."""
    count, parameters = design.shape
    sigma, prior_sd = np.broadcast_to(sigma, count), np.broadcast_to(prior_sd, parameters)
    whitened = design / sigma[:, None] * prior_sd
    covariance = np.linalg.inv(whitened.T @ whitened + np.eye(parameters))
    mean = covariance @ (whitened.T @ (y / sigma))
    return mean * prior_sd, covariance * np.outer(prior_sd, prior_sd)


@dataclass(frozen=True)
class Grid:
    """The cells of a grid that have mass: their centres ``(cell, axis)``, and their shares of the mass ``(cell,)``."""

    centres: np.ndarray
    share: np.ndarray

    def moments(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd of ``values`` ``(cell, column)``."""
        mean = self.share @ values
        return mean, np.sqrt(self.share @ (values - mean) ** 2)


def on_grid(
    log_density: Callable[[np.ndarray], np.ndarray], bounds: Sequence[tuple[float, float]], cells: int | None = None
) -> Grid:
    """The posterior on a grid, of ``log_density`` of points ``(cell, axis)`` within ``bounds``.

    ``cells`` along each axis are ``CELLS`` by default. The box shrinks to where the mass is. Raises ArithmeticError if
    a grid with half as many cells more has other means or sds, because there is structure that it does not resolve.
    """
    box = np.array(bounds, float)
    cells = cells or CELLS[len(box)]
    while True:
        centres, logs = _evaluated(log_density, box, cells)
        # A density that is narrower than the cells has a peak in one of them by chance: its surroundings stay too.
        kept = centres[logs >= min(logs.max() - NEGLIGIBLE, np.quantile(logs, 1 - SURROUNDINGS))]
        width = (box[:, 1] - box[:, 0]) / cells
        smaller = np.stack([kept.min(axis=0) - width, kept.max(axis=0) + width], axis=1)
        smaller = np.stack([np.maximum(smaller[:, 0], box[:, 0]), np.minimum(smaller[:, 1], box[:, 1])], axis=1)
        if np.all(np.diff(smaller) > 0.7 * np.diff(box)):
            break
        box = smaller
    coarse, fine = (_weighed(log_density, box, count) for count in (cells, cells + cells // 2))
    (mean, sd), (mean_fine, sd_fine) = (grid.moments(grid.centres) for grid in (coarse, fine))
    if np.any(np.abs(mean - mean_fine) > MOST_CHANGE * sd_fine) or np.any(np.abs(sd / sd_fine - 1) > MOST_CHANGE):
        raise ArithmeticError(f"a grid of {cells} cells an axis does not resolve this density: {sd} and {sd_fine}")
    return fine


def _evaluated(log_density: Callable, box: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    axes = [low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high in box]
    centres = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    blocks = np.array_split(centres, max(1, len(centres) // 50_000))
    with np.errstate(all="ignore"):
        logs = np.concatenate([np.asarray(log_density(block), float) for block in blocks])
    return centres, np.where(np.isfinite(logs), logs, -np.inf)


def _weighed(log_density: Callable, box: np.ndarray, cells: int) -> Grid:
    centres, logs = _evaluated(log_density, box, cells)
    kept = logs > logs.max() - NEGLIGIBLE
    share = np.exp(logs[kept] - logs.max())
    return Grid(centres[kept], share / share.sum())


def grid_posterior(
    names: Sequence[str], log_density: Callable[[np.ndarray], np.ndarray], bounds: Sequence[tuple[float, float]]
) -> Exact:
    """The posterior whose columns ``names`` are the axes of a grid."""
    grid = on_grid(log_density, bounds)
    mean, sd = grid.moments(grid.centres)
    return Exact(dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))


def averaged(names: Sequence[str], share: np.ndarray, mean: np.ndarray, variance: np.ndarray | float = 0.0) -> Exact:
    """The posterior of columns with ``mean`` and ``variance`` ``(cell, column)`` in cells of ``share`` ``(cell,)``."""
    centre = share @ mean
    sd = np.sqrt(share @ ((mean - centre) ** 2 + variance))
    return Exact(dict(zip(names, centre.tolist(), strict=True)), dict(zip(names, sd.tolist(), strict=True)))


def normals(
    design: np.ndarray, y: np.ndarray, sigma: np.ndarray | float, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The log evidence ``(cell,)``, means and variances ``(cell, column)`` of linear models, one for each cell.

    ``y ~ N(design @ b, sigma)`` with ``design`` ``(cell, point, column)`` and ``b ~ N(0, prior)``, of which ``prior``
    is the covariance ``(column, column)``, or one for each cell; ``sigma`` is a number, or one for each cell.
    """
    sigma = np.broadcast_to(sigma, len(design))
    covariance = np.linalg.inv(np.swapaxes(design, 1, 2) @ design / sigma[:, None, None] ** 2 + np.linalg.inv(prior))
    mean = np.einsum("cij,cpj,p->ci", covariance, design, y, optimize=True) / sigma[:, None] ** 2
    fit = np.einsum("ci,cpi,p->c", mean, design, y, optimize=True) / sigma**2 - (y @ y) / sigma**2
    log_evidence = 0.5 * (fit + np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(prior)[1])
    return log_evidence - len(y) * np.log(sigma), mean, np.diagonal(covariance, axis1=1, axis2=2)


def shares(log_density: np.ndarray) -> np.ndarray:
    """The shares of the mass of cells of equal size."""
    share = np.exp(log_density - log_density.max())
    return share / share.sum()
