"""A trained network, as arrays and bound to a model, and the maps and features that are fitted before its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.diagnostics.calibration import CalibrationFigure, worst
from chainsweep.diagnostics.dropping import BY_DESIGN, Dropping
from chainsweep.engines.snpe.calibration import findings_of, levels_of, ood_test, reference_summaries
from chainsweep.engines.snpe.dropped import dropped_in, dropping_of, unseen_designs
from chainsweep.engines.snpe.encoder import Encoder, Features, encoder_from_arrays, fit_standardisation
from chainsweep.engines.snpe.estimator import ATTENTION_LAYERS, ESTIMATORS, Architecture, Ensemble, Sampler, sampler_of
from chainsweep.engines.snpe.features import fit_scales, layout_of
from chainsweep.engines.snpe.job import HISTORY
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.engines.snpe.simulator import (
    ROWS_PER_BLOCK,
    VALIDATION_BLOCK,
    Provider,
    Rows,
    stacked_rows,
    usable_pairs,
)
from chainsweep.engines.snpe.standardisation import Space, space_of
from chainsweep.engines.snpe.trainer import Trainer
from chainsweep.engines.snpe.training_range import coverage_of
from chainsweep.errors import InputError
from chainsweep.model.problem import Problem, observation
from chainsweep.numerics.arrays import Arrays, Bools, Floats, Ints, strip_prefix, with_prefix

Positions = Ints

GRID = "grid"


@dataclass(frozen=True)
class Trained:
    """All that inference needs, as flat arrays; see `arrays` for the file form."""

    weights: Arrays
    encoder: Arrays
    architecture: Arrays
    space: Arrays
    """The flag ``sequential``; where it is true also the ``centre`` and ``halfwidth`` ``(1, dim)``."""
    coverage: Arrays
    """The range of designs and priors that it was trained for, see `training_range.coverage_of`, and the ``grid`` of
    its features."""
    calibration: Arrays
    """The levels of the truths of held-out simulations, see `calibration.levels_of`."""
    usual: Arrays
    """The distribution of the summaries of held-out simulations, see `calibration.reference_summaries`."""
    dropping: Arrays
    """The record of simulations that it could not learn from, see `dropped.record_of_bank`."""
    history: Arrays
    """An array for each column of `job.HISTORY`, with one entry for each validation."""

    def arrays(self) -> Arrays:
        """All arrays in one flat dictionary, as safetensors takes them."""
        return {
            **with_prefix("weights", self.weights),
            **with_prefix("encoder", self.encoder),
            **with_prefix("architecture", self.architecture),
            **with_prefix("space", self.space),
            **with_prefix("coverage", self.coverage),
            **with_prefix("calibration", self.calibration),
            **with_prefix("usual", self.usual),
            **with_prefix("dropping", self.dropping),
            **with_prefix("history", self.history),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Trained:
        """The inverse of `arrays`.

        Raises
        ------
        InputError
            An array group is missing: the file is not a trained network.
        """
        groups = {name: strip_prefix(name, arrays) for name in cls.__dataclass_fields__}
        missing = [name for name, group in groups.items() if not group]
        if missing:
            raise InputError(
                f"a trained snpe network must hold arrays under {', '.join(groups)}; "
                f"none under {', '.join(missing)}. Train it again"
            )
        return cls(**groups)

    @property
    def width(self) -> int:
        """The largest number of points of a data set."""
        return Architecture.from_arrays(self.architecture).width

    def sampler(self, device: str) -> Sampler | Ensemble:
        """The sampler that draws from the network and computes its density."""
        return sampler_of(Architecture.from_arrays(self.architecture), self.weights, device)

    def features(self, problem: Problem, batch: Batch) -> Encoder:
        """The encoder from data sets with the fields of ``batch`` to the network's input."""
        return encoder_from_arrays(layout_of(problem, batch, int(self.coverage[GRID])), self.encoder)

    def findings(self, problem: Problem) -> list[CalibrationFigure]:
        """The findings on its calibration from held-out simulations, by parameter."""
        return findings_of(problem, self.calibration)

    def dropped(self, problem: Problem) -> Dropping:
        """The numbers and causes of dropped simulations, with the names of the parameters."""
        return dropping_of(problem, self.dropping)

    @property
    def sequential(self) -> bool:
        """True where the network serves one data set only."""
        return bool(self.space["sequential"])


class Network:
    """A trained network bound to a model: data sets in, working-space draws and densities out.

    ``sampler`` and ``encoder`` are the network's own, built once for all batches; ``refused`` says by position why a
    data set is not to be served.
    """

    def __init__(
        self,
        problem: Problem,
        trained: Trained,
        batch: Batch,
        sampler: Sampler | Ensemble,
        refused: Mapping[int, str] = MappingProxyType({}),
        encoder: Encoder | None = None,
    ) -> None:
        self.refused = dict(refused)
        sizes = Architecture.from_arrays(trained.architecture)
        if batch.width > sizes.width or problem.ndim_unconstrained != sizes.parameters:
            raise InputError(
                f"the network was trained for data sets of at most {sizes.width} points and "
                f"{sizes.parameters} unconstrained parameters; these have {batch.width} and "
                f"{problem.ndim_unconstrained}. Train again on this campaign's data sets"
            )
        self.sampler = sampler
        self.encoder = encoder if encoder is not None else trained.features(problem, batch)
        self.space = trained_space(problem, batch, trained)
        stacked = observation(batch.fields, batch.constants, batch.mask)
        self.packed = self.encoder.encode(stacked, self.space.centre, self.space.halfwidth)
        self.usual = trained.usual
        self.miscalibration = worst(trained.findings(problem)).sure
        dropping = trained.dropped(problem)
        self.dropped_share = dropping.share
        self.dropped_by = np.full(len(batch), np.nan if dropping.by is None else float(dropping.by))
        self.dropped_by[unseen_designs(batch.ids, trained.dropping)] = BY_DESIGN

    @property
    def usable(self) -> Bools:
        """True where a data set is not refused and its features are all finite, shape ``(dataset,)``."""
        wanted = np.ones(len(self.packed), bool)
        wanted[list(self.refused)] = False
        return wanted & np.isfinite(self.packed).all(axis=1)

    def draw(self, base: Floats, rows: Positions | None = None) -> tuple[Floats, Floats]:
        """Map normal ``base`` ``(row, draw, dim)`` of data sets ``rows`` to unconstrained draws and their log density.

        The draws of a data set that is not `usable` are made from placeholder features, and mean nothing.
        """
        chosen = np.arange(len(self.packed)) if rows is None else rows
        w, log_q = self.sampler.draw(self._filled()[chosen], base)
        z, log_scale = self.space.take(chosen).from_working(w)
        return z, log_q + log_scale

    def log_density(self, z: Floats, rows: Positions) -> Floats:
        """The log density ``(row, draw)`` at unconstrained ``z`` ``(row, draw, dim)`` of the data sets ``rows``."""
        w, log_scale = self.space.take(rows).to_working(z)
        return self.sampler.log_prob(self._filled()[rows], w) + log_scale

    def ood_test(self) -> tuple[Floats, Floats]:
        """The distance of the learned summary from those of simulations, and the share farther out, ``(dataset,)``."""
        return ood_test(self.sampler, self._filled(), self.usual)

    def _filled(self) -> NDArray[np.float32]:
        return np.where(self.usable[:, None], self.packed, 1.0).astype(np.float32)


def trained_space(problem: Problem, batch: Batch, trained: Trained) -> Space:
    """The maps of ``batch`` that the network was trained with."""
    if not trained.sequential:
        return space_of(problem, batch)
    shape = (len(batch), problem.ndim_unconstrained)
    centre, halfwidth = (np.broadcast_to(trained.space[name], shape) for name in ("centre", "halfwidth"))
    return Space(centre, halfwidth)


def finish(
    trainer: Trainer,
    encoder: Encoder,
    sizes: Architecture,
    space: Arrays,
    problem: Problem,
    batches: Sequence[Batch],
    dropping: Arrays,
) -> Trained:
    """The network that a finished `Trainer` learnt from simulations of ``batches``, some of which were dropped."""
    columns = np.array(trainer.progress.history, dtype=np.float64).reshape(-1, len(HISTORY))
    history: Arrays = {name: columns[:, i].copy() for i, name in enumerate(HISTORY)}
    weights = trainer.best_weights()
    sampler = sampler_of(sizes, weights, str(trainer.device))
    return Trained(
        weights=weights,
        encoder=encoder.arrays(),
        architecture=sizes.arrays(),
        space=space,
        coverage=coverage_of(problem, batches) | {GRID: np.array(encoder.features.layout.grid)},
        calibration=levels_of(sampler, trainer.held_out, trainer.seed),
        usual=reference_summaries(sampler, trainer.provider.typical()),
        dropping=dropping,
        history=history | {"skipped": np.array(trainer.progress.skipped), "dropped": np.array(dropped_in(dropping))},
    )


def joined(members: Sequence[Trained], provider: Provider, seed: int, device: str) -> Trained:
    """Join the networks of one ensemble to one, which is calibrated as one; the history is that of the first."""
    first = members[0]
    sizes = replace(Architecture.from_arrays(first.architecture), members=len(members))
    weights: Arrays = {}
    for number, member in enumerate(members):
        weights |= with_prefix(str(number), member.weights)
    sampler = sampler_of(sizes, weights, device)
    held_out = usable_pairs(*provider.block(VALIDATION_BLOCK, ROWS_PER_BLOCK))
    return replace(
        first,
        weights=weights,
        architecture=sizes.arrays(),
        calibration=levels_of(sampler, held_out, seed),
        usual=reference_summaries(sampler, provider.typical()),
    )


def fit_encoder(
    problem: Problem, batches: Sequence[Batch], spaces: Sequence[Space], rows: Sequence[Rows], grid: int
) -> Encoder:
    """An encoder standardised by pilot simulations ``rows`` (one entry for each bucket)."""
    pairs = [(stacked_rows(*pair), pair[1].index) for pair in zip(batches, rows, strict=True)]
    layout = layout_of(problem, batches[0], grid)
    flat = {
        name: np.concatenate([np.asarray(obs.fields[name])[np.asarray(obs.mask)] for obs, _ in pairs])
        for name in (*layout.observed, *layout.design)
    }
    features = Features(layout, fit_scales(layout, flat))
    summaries, points = [], []
    for space, (obs, index) in zip(spaces, pairs, strict=True):
        summary, point = features.compiled(obs, space.centre[index], space.halfwidth[index])
        summaries.append(np.asarray(summary))
        points.append(np.asarray(point)[np.asarray(obs.mask)])
    return Encoder(
        features,
        *fit_standardisation(np.concatenate(summaries)),
        *fit_standardisation(np.concatenate(points)),
        width=max(batch.width for batch in batches),
    )


def architecture_of(problem: Problem, encoder: Encoder, settings: SnpeSettings) -> Architecture:
    """The sizes of the network for this model and these features."""
    return Architecture(
        parameters=problem.ndim_unconstrained,
        summary=len(encoder.summary_mean),
        per_point=len(encoder.point_mean),
        width=encoder.width,
        transforms=settings.tuning.transforms,
        hidden=settings.tuning.hidden,
        embedding=settings.tuning.embedding,
        estimator=ESTIMATORS.index(settings.estimator),
        autoregressive=int(settings.tuning.autoregressive),
        attention=ATTENTION_LAYERS if settings.tuning.points == "attention" else 0,
    )
