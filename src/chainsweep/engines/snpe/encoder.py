"""The map from data sets to the network's input: features, standardised by those of pilot simulations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.engines.snpe.features import Layout, Scales, raw_features
from chainsweep.model.problem import Observation
from chainsweep.numerics.arrays import Floats

CLIP = 10.0
"""The largest absolute value of standardised features: a data set unlike any simulation cannot make the network
overflow."""


def fit_standardisation(values: Floats) -> tuple[Floats, Floats]:
    """Mean and inverse standard deviation over the rows of ``(row, feature)``, the latter 0 for constant features."""
    finite = np.isfinite(values)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, values, 0.0).sum(axis=0) / count
    variance = np.where(finite, (values - mean) ** 2, 0.0).sum(axis=0) / count
    sd = np.sqrt(variance)
    varies = sd > 1e-6 * (1e-3 + np.abs(mean))
    return mean, np.where(varies, 1 / np.where(varies, sd, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Features:
    """The function `raw_features` of one layout over stacked data sets."""

    layout: Layout
    scales: Scales

    def of(self, obs: Observation, centre: Any, halfwidth: Any) -> tuple[Any, Any]:
        """The features of stacked data sets, summary ``(row, S)`` and points ``(row, point, F)``. Pure JAX."""
        return jax.vmap(partial(raw_features, self.layout, self.scales))(obs, centre, halfwidth)

    @cached_property
    def compiled(self) -> Any:
        """The function `of`, compiled once for each shape."""
        return jax.jit(self.of)


@dataclass(frozen=True, eq=False)
class Encoder:
    """The map from data sets to the network's input: features, standardised by those of the pilot simulations."""

    features: Features
    summary_mean: Floats
    summary_inverse_sd: Floats
    point_mean: Floats
    point_inverse_sd: Floats
    width: int
    """The number of points of the widest data set that the network can take."""

    def encode(self, obs: Observation, centre: Any, halfwidth: Any) -> NDArray[np.float32]:
        """Flat features ``(row, packed)`` of stacked data sets: summary, points and mask padded to ``width``.

        ``centre`` and ``halfwidth`` have shape ``(row, dim)``. NaN where a data set holds NaN.
        """
        return np.asarray(self._compiled(obs, centre, halfwidth))

    def transform(self, obs: Observation, centre: Any, halfwidth: Any) -> Any:
        """The same as `encode`, as a pure JAX function."""
        summary, points = self.features.of(obs, centre, halfwidth)
        rows, points_here, _ = points.shape
        gap = (0, 0), (0, self.width - points_here)
        standard = _standardise(points, self.point_mean, self.point_inverse_sd)
        standard = jnp.pad(jnp.where(obs.mask[:, :, None], standard, 0.0), (*gap, (0, 0)))
        parts = (
            _standardise(summary, self.summary_mean, self.summary_inverse_sd),
            standard.reshape(rows, -1),
            jnp.pad(obs.mask, gap),
        )
        return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=1)

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.transform)

    def arrays(self) -> dict[str, NDArray]:
        """Everything `encoder_from_arrays` needs besides the layout."""
        scales = self.features.scales
        magnitude = {f"magnitude/{name}": np.array(value) for name, value in scales.magnitude.items()}
        return magnitude | {
            "counts": np.array(scales.counts),
            "summary_mean": self.summary_mean,
            "summary_inverse_sd": self.summary_inverse_sd,
            "point_mean": self.point_mean,
            "point_inverse_sd": self.point_inverse_sd,
            "width": np.array(self.width),
        }


def _standardise(values: Any, mean: Floats, inverse_sd: Floats) -> Any:
    # Overflowed simulations and NaN data stay NaN here: the caller looks for them.
    return jnp.clip((values - mean) * inverse_sd, -CLIP, CLIP)


def encoder_from_arrays(layout: Layout, arrays: Mapping[str, NDArray]) -> Encoder:
    """The inverse of `Encoder.arrays`."""
    names = (*layout.observed, *layout.design)
    scales = Scales(
        {name: float(arrays[f"magnitude/{name}"]) for name in names},
        tuple(bool(flag) for flag in arrays["counts"]),
    )
    return Encoder(
        Features(layout, scales),
        summary_mean=np.asarray(arrays["summary_mean"], float),
        summary_inverse_sd=np.asarray(arrays["summary_inverse_sd"], float),
        point_mean=np.asarray(arrays["point_mean"], float),
        point_inverse_sd=np.asarray(arrays["point_inverse_sd"], float),
        width=int(arrays["width"]),
    )
