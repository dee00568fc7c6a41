"""A trained network as arrays, and the steps before training that make it: spaces, features, bank of simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from chainsweep.config import SnpeSettings
from chainsweep.data.collection import Batch
from chainsweep.engines.base import Arrays
from chainsweep.engines.snpe_features import (
    Encoder,
    Layout,
    encoder_from_arrays,
    fit_scales,
    fit_standardisation,
    layout_of,
    raw_features,
)
from chainsweep.engines.snpe_flow import Architecture, Sampler, build_estimator, load_weights
from chainsweep.engines.snpe_simulate import ROWS_PER_BLOCK, Rows, encode_all
from chainsweep.engines.snpe_space import Space, choose_logistic, prior_quantiles, space_of
from chainsweep.engines.snpe_training import HISTORY, Trainer
from chainsweep.errors import InputError
from chainsweep.model.problem import Problem, observation

Floats = NDArray[np.float64]


def prefixed(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The same arrays under ``prefix/``."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def under(prefix: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """The arrays under ``prefix/``, without it."""
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}


@dataclass(frozen=True)
class Trained:
    """Everything inference needs, as flat arrays; see `arrays` for the file form."""

    weights: Arrays
    encoder: Arrays
    architecture: Arrays
    space: Arrays
    """``logistic`` ``(dim,)``; after sequential rounds also the ``centre`` and ``halfwidth`` ``(1, dim)``."""
    history: Arrays
    """One array a column of `snpe_training.HISTORY`, one entry a validation."""

    def arrays(self) -> Arrays:
        """One flat dictionary of numeric arrays, fit for safetensors."""
        return {
            **prefixed("weights", self.weights),
            **prefixed("encoder", self.encoder),
            **prefixed("architecture", self.architecture),
            **prefixed("space", self.space),
            **prefixed("history", self.history),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Trained:
        """The inverse of `arrays`.

        Raises
        ------
        InputError
            An array group is missing: the file is not a trained network.
        """
        groups = {name: under(name, arrays) for name in cls.__dataclass_fields__}
        missing = [name for name, group in groups.items() if not group]
        if missing:
            raise InputError(
                f"a trained snpe network must hold arrays under {', '.join(groups)}; "
                f"none under {', '.join(missing)}. Train it again"
            )
        return cls(**groups)

    @property
    def sequential(self) -> bool:
        """Whether the network serves one data set only."""
        return "centre" in self.space


class Network:
    """A trained network bound to a model: data sets in, working-space draws and densities out."""

    def __init__(self, problem: Problem, trained: Trained, batch: Batch, grid: int, device: str) -> None:
        sizes = Architecture.from_arrays(trained.architecture)
        if batch.width > sizes.width or problem.ndim_unconstrained != sizes.parameters:
            raise InputError(
                f"the network was trained for data sets of at most {sizes.width} points and "
                f"{sizes.parameters} unconstrained parameters; these have {batch.width} and "
                f"{problem.ndim_unconstrained}. Train again on this campaign's data sets"
            )
        estimator = build_estimator(sizes, seed=0)
        load_weights(estimator, trained.weights)
        self.sampler = Sampler(estimator, device)
        encoder = encoder_from_arrays(layout_of(problem, batch, grid), trained.encoder)
        self.space = trained_space(problem, batch, trained)
        stacked = observation(batch.fields, batch.constants, batch.mask)
        self.packed = encode_all(encoder, stacked, self.space.centre, self.space.halfwidth)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """``(dataset,)``: whether the features of a data set are all finite."""
        return np.isfinite(self.packed).all(axis=1)

    def draw(self, base: Floats) -> tuple[Floats, Floats]:
        """Normal ``base`` ``(dataset, draw, dim)`` to unconstrained draws and their log density there.

        A data set that is not `usable` gets the draws of an empty one, which mean nothing.
        """
        packed = np.where(self.usable[:, None], self.packed, 1.0).astype(np.float32)
        w, log_q = self.sampler.draw(packed, base)
        z, log_scale = self.space.from_working(w)
        return z, log_q + log_scale


def trained_space(problem: Problem, batch: Batch, trained: Trained) -> Space:
    """The maps of ``batch`` that the network was trained with."""
    if not trained.sequential:
        return space_of(problem, batch, np.asarray(trained.space["logistic"], bool))
    shape = (len(batch), problem.ndim_unconstrained)
    centre, halfwidth = (np.broadcast_to(trained.space[name], shape) for name in ("centre", "halfwidth"))
    return Space(centre, halfwidth, np.asarray(trained.space["logistic"], bool))


def finish(trainer: Trainer, encoder: Encoder, sizes: Architecture, space: Arrays) -> Trained:
    """What a finished `Trainer` learnt."""
    columns = np.array(trainer.progress.history, dtype=np.float64).reshape(-1, len(HISTORY))
    history: Arrays = {name: columns[:, i].copy() for i, name in enumerate(HISTORY)}
    return Trained(
        weights=trainer.best_weights(),
        encoder=encoder.arrays(),
        architecture=sizes.arrays(),
        space=space,
        history=history | {"skipped": np.array(trainer.progress.skipped)},
    )


def spaces_of(problem: Problem, batches: Sequence[Batch]) -> list[Space]:
    """The maps of all buckets, with one choice of the kind of map for all."""
    quantiles = [prior_quantiles(problem, batch) for batch in batches]
    pooled = np.concatenate([standardised for _, _, standardised in quantiles])
    logistic = choose_logistic(pooled[np.isfinite(pooled).all(axis=(1, 2))])
    return [Space(centre, halfwidth, logistic) for centre, halfwidth, _ in quantiles]


def usable_designs(problem: Problem, batches: Sequence[Batch]) -> list[Batch]:
    """The buckets without data sets whose design or prior is no number.

    Raises
    ------
    InputError
        None is left.
    """
    kept = []
    for batch in batches:
        _, halfwidth, _ = prior_quantiles(problem, batch)
        good = np.isfinite(halfwidth).all(axis=1)
        design = [name for name in batch.fields if name not in problem.observed]
        for values in (*(batch.fields[name] for name in design), *batch.constants.values()):
            good &= np.isfinite(values.reshape(len(batch), -1)).all(axis=1)
        if good.any():
            kept.append(batch.take(np.flatnonzero(good)))
    if not kept:
        raise InputError(
            "snpe: no data set has a finite design and a proper prior, so there is nothing to simulate; "
            "check the design fields, the constants and the priors that depend on them"
        )
    return kept


def fit_encoder(
    problem: Problem, batches: Sequence[Batch], spaces: Sequence[Space], rows: Sequence[Rows], grid: int
) -> Encoder:
    """An encoder standardised by pilot simulations ``rows`` (one entry a bucket)."""
    layout = layout_of(problem, batches[0], grid)
    pilots = [_pilot_fields(batch, row) for batch, row in zip(batches, rows, strict=True)]
    masks = [batch.mask[row.index] for batch, row in zip(batches, rows, strict=True)]
    names = (*layout.observed, *layout.design)
    flat = {
        name: np.concatenate([fields[name][mask] for fields, mask in zip(pilots, masks, strict=True)])
        for name in names
    }
    scales = fit_scales(layout, flat)
    summaries, points = [], []
    for batch, space, row, fields, mask in zip(batches, spaces, rows, pilots, masks, strict=True):
        constants = {name: values[row.index] for name, values in batch.constants.items()}
        stacked = observation(fields, constants, mask)
        arguments = (stacked, space.centre[row.index], space.halfwidth[row.index])
        summary, point = _vmapped_features(layout, scales)(*arguments)
        summaries.append(np.asarray(summary))
        points.append(np.asarray(point)[mask])
    summary_mean, summary_inverse_sd = fit_standardisation(np.concatenate(summaries))
    point_mean, point_inverse_sd = fit_standardisation(np.concatenate(points))
    width = max(batch.width for batch in batches)
    return Encoder(layout, scales, summary_mean, summary_inverse_sd, point_mean, point_inverse_sd, width)


def _pilot_fields(batch: Batch, rows: Rows) -> dict[str, Floats]:
    return {name: values[rows.index] for name, values in batch.fields.items()} | dict(rows.observed)


def _vmapped_features(layout: Layout, scales: Any) -> Any:
    return jax.jit(
        jax.vmap(lambda obs, centre, halfwidth: raw_features(layout, scales, obs, centre, halfwidth))
    )


def architecture_of(problem: Problem, encoder: Encoder, settings: SnpeSettings) -> Architecture:
    """The sizes of the network for this model and these features."""
    return Architecture(
        parameters=problem.ndim_unconstrained,
        summary=len(encoder.summary_mean),
        per_point=len(encoder.point_mean),
        width=encoder.width,
        transforms=settings.transforms,
        hidden=settings.hidden,
        embedding=settings.embedding,
    )


def pilot_rows(batches: Sequence[Batch]) -> int:
    """Pilot simulations of each bucket."""
    return max(256, ROWS_PER_BLOCK // len(batches))
