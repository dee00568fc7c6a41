"""The features of a data set that the network sees; they do not depend on the order of points, padding or units.

For each observed column and each design coordinate, the points are pooled onto a regular grid that spans the
data set's own window: local mean, its signal-to-noise ratio and its share of the information. For a curve
over one coordinate this keeps nearly all information, sharp peaks included, at the cost of one sum
over points; a learned set embedding (`chainsweep.engines.snpe.estimator`) adds the information that the grid misses.

Every magnitude enters twice: against the scale of the whole campaign (through asinh, so that counts from 1 to
1e5 fit) and against the data set's own mean and spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from chainsweep.data.collection import Batch
from chainsweep.model.problem import Observation, Problem
from chainsweep.numerics.arrays import Floats

ERROR_SUFFIX = "_err"
TINY = 1e-30


@dataclass(frozen=True)
class Layout:
    """The role of each field, which follows from the model and the field names alone."""

    observed: tuple[str, ...]
    errors: tuple[str | None, ...]
    """The design field with the standard errors of each observed field, None where there is none."""
    coordinates: tuple[str, ...]
    constants: tuple[str, ...]
    grid: int

    @property
    def design(self) -> tuple[str, ...]:
        """The names of coordinates and error fields."""
        return (*self.coordinates, *(name for name in self.errors if name is not None))


def layout_of(problem: Problem, batch: Batch, grid: int) -> Layout:
    """Sort the fields of ``batch`` into observed, errors (``<observed>_err``) and coordinates."""
    observed = tuple(sorted(problem.observed))
    errors = tuple(
        name + ERROR_SUFFIX
        if name + ERROR_SUFFIX in batch.fields and batch.fields[name + ERROR_SUFFIX].shape == batch.fields[name].shape
        else None
        for name in observed
    )
    taken = {*observed, *errors}
    coordinates = tuple(name for name in sorted(batch.fields) if name not in taken)
    return Layout(observed, errors, coordinates, tuple(sorted(batch.constants)), grid)


@dataclass(frozen=True)
class Scales:
    """The magnitudes of fields over the whole campaign, from pilot simulations: one number for each field."""

    magnitude: Mapping[str, float]
    """The median absolute value of each field, > 0: there asinh turns from linear to logarithmic."""
    counts: tuple[bool, ...]
    """True for each observed field of which every simulated value is a non-negative integer."""


def fit_scales(layout: Layout, fields: Mapping[str, Floats]) -> Scales:
    """The scales of pilot ``fields`` ``(point, ...)``, without padding; observed fields are simulated ones."""
    magnitude, counts = {}, []
    for name in (*layout.observed, *layout.design):
        values = np.abs(fields[name][np.isfinite(fields[name])])
        positive = values[values > 0]
        middle = float(np.median(values)) if values.size else 0.0
        magnitude[name] = middle if middle > 0 else (float(np.median(positive)) if positive.size else 1.0)
    for name in layout.observed:
        values = fields[name][np.isfinite(fields[name])]
        counts.append(bool(values.size and np.all(values >= 0) and np.all(values == np.round(values))))
    return Scales(magnitude, tuple(counts))


def raw_features(layout: Layout, scales: Scales, obs: Observation, centre: Any, halfwidth: Any) -> Any:
    """Features of one data set before standardisation: ``summary (S,)`` and ``points (point, F)``. Pure JAX.

    ``centre`` and ``halfwidth`` ``(dim,)`` locate the prior of the unconstrained parameters for this design.
    """
    mask = obs.mask.astype(float)
    axes = [(column, scales.magnitude[name]) for name in layout.coordinates for column in _columns(obs.fields[name])]
    frames = [(_Window.of(column, mask), column, magnitude) for column, magnitude in axes]
    kernels = [_kernel(window.scaled(column), mask, layout.grid) for window, column, _ in frames]
    summary = [jnp.log(jnp.sum(mask))[None], centre, jnp.log(halfwidth)]
    points = []
    for window, column, magnitude in frames:
        summary += [window.position(magnitude), window.relative(centre, halfwidth)]
        summary += [jnp.arcsinh(window.scaled(jnp.atleast_1d(obs.constants[name]))) for name in layout.constants]
        points += [window.scaled(column), jnp.arcsinh(column / magnitude)]
    summary += [jnp.arcsinh(jnp.atleast_1d(obs.constants[name])) for name in layout.constants]
    for name, error, is_count in zip(layout.observed, layout.errors, scales.counts, strict=True):
        errors = _columns(obs.fields[error]) if error is not None else None
        for i, column in enumerate(_columns(obs.fields[name])):
            sigma = errors[i] if errors is not None else None
            pooled, per_point = _observed(column, sigma, mask, kernels, scales.magnitude[name], is_count)
            summary += pooled
            points += per_point
    return jnp.concatenate(summary), jnp.stack(points, axis=-1)


def _columns(values: Any) -> list[Any]:
    flat = values.reshape(values.shape[0], -1)
    return [flat[:, i] for i in range(flat.shape[1])]


@dataclass(frozen=True)
class _Window:
    """The range of one coordinate over the real points of a data set."""

    middle: Any
    half: Any

    @classmethod
    def of(cls, column: Any, mask: Any) -> _Window:
        low = jnp.min(jnp.where(mask > 0, column, jnp.inf))
        high = jnp.max(jnp.where(mask > 0, column, -jnp.inf))
        half = (high - low) / 2
        return cls((high + low) / 2, jnp.where(half > 0, half, 1.0))

    def scaled(self, values: Any) -> Any:
        return (values - self.middle) / self.half

    def position(self, magnitude: float) -> Any:
        return jnp.stack([jnp.arcsinh(self.middle / magnitude), jnp.log(self.half / magnitude)])

    def relative(self, centre: Any, halfwidth: Any) -> Any:
        return jnp.concatenate([jnp.arcsinh(self.scaled(centre)), jnp.log(halfwidth / self.half)])


def _kernel(scaled: Any, mask: Any, grid: int) -> Any:
    """Weight of each point at each grid node ``(point, grid)``: a hat one spacing wide, and a small broad base.

    Through the base, nodes without points nearby get values from the points around them.
    """
    nodes = jnp.linspace(-1.0, 1.0, grid)
    distance = jnp.abs(scaled[:, None] - nodes) * (grid - 1) / 2
    hat = jnp.maximum(1 - distance, 0) + 1e-2 * jnp.maximum(1 - distance / 4, 0) + 1e-4
    return hat * mask[:, None]


def _observed(
    column: Any, sigma: Any, mask: Any, kernels: list[Any], magnitude: float, is_count: bool
) -> tuple[list[Any], list[Any]]:
    """Pooled and per-point features of one observed column."""
    total = jnp.sum(mask)
    mean = jnp.sum(mask * column) / total
    spread = jnp.sqrt(jnp.sum(mask * (column - mean) ** 2) / total)
    spread = jnp.where(spread > 0, spread, 1.0)
    level = spread if not is_count else jnp.sqrt(jnp.maximum(mean, 1.0))
    weight = mask / (sigma**2 if sigma is not None else level**2)
    anchor = jnp.sum(weight * column) / jnp.sum(weight)
    stretch = partial(_counts_to_sigmas, anchor) if is_count and sigma is None else None
    ratio = stretch(column) if stretch else (column - anchor) * jnp.sqrt(weight)
    extremes = [jnp.min(jnp.where(mask > 0, column, jnp.inf)), jnp.max(jnp.where(mask > 0, column, -jnp.inf))]
    pooled = [
        jnp.arcsinh(jnp.stack([mean, *extremes]) / magnitude),
        jnp.log(jnp.stack([spread / magnitude, jnp.sum(weight) * magnitude**2 + TINY])),
        jnp.arcsinh(jnp.stack([(extreme - mean) / spread for extreme in extremes])),
        jnp.log(jnp.sum(mask * ratio**2) / total + 1e-3)[None],
    ]
    for kernel in kernels:
        information = weight @ kernel
        local = (weight * column) @ kernel / (information + TINY)
        # In counts, level**2 * information is the number of points that a node pools.
        signal = stretch(local) * jnp.sqrt(information) * level if stretch else (local - anchor) * jnp.sqrt(information)
        share = jnp.log(information / jnp.sum(weight) + 1e-4)
        pooled += [jnp.arcsinh(local / magnitude), jnp.arcsinh(signal), share]
    per_point = [jnp.arcsinh(column / magnitude), (column - mean) / spread, jnp.arcsinh(ratio)]
    if sigma is not None:
        per_point += [jnp.log(sigma / magnitude), jnp.log(sigma / spread)]
    return pooled, per_point


def _counts_to_sigmas(anchor: Any, counts: Any) -> Any:
    """Distance of counts from ``anchor`` in standard deviations, by Anscombe's square root."""
    return 2 * (jnp.sqrt(jnp.maximum(counts, 0) + 0.375) - jnp.sqrt(anchor + 0.375))
