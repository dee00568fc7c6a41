"""The designs that a network learns: those of the campaign's usable data sets, and jittered copies of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.standardisation import Space, space_of
from chainsweep.errors import InputError
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Floats

JITTERED = 2048
"""The number of designs, about, that jitter makes of fewer ones; more than half as many are not jittered."""
STREAM = 0x717
"""The second word of the key of the random numbers."""


def usable_designs(problem: Problem, batches: Sequence[Batch]) -> tuple[list[Batch], list[Space]]:
    """The buckets without data sets whose design or prior is not finite, and their working spaces.

    Raises
    ------
    InputError
        No data set is left.
    """
    kept, spaces = [], []
    for batch in batches:
        space = space_of(problem, batch)
        good = np.isfinite(space.halfwidth).all(axis=1)
        for values in _design(problem, batch).values():
            good &= np.isfinite(values.reshape(len(batch), -1)).all(axis=1)
        if good.any():
            kept.append(batch.take(np.flatnonzero(good)))
            spaces.append(space.take(np.flatnonzero(good)))
    if not kept:
        raise InputError(
            "snpe: no data set has a finite design and a proper prior, so there is nothing to simulate; "
            "check the design fields, the constants and the priors that depend on them"
        )
    return kept, spaces


def jittered(problem: Problem, batches: Sequence[Batch], size: float, seed: int) -> list[Batch]:
    """Return ``batches``, each followed by copies of its data sets with slightly different designs.

    A field or constant whose values are all positive is multiplied by ``exp(size * normal)``, others are shifted by
    ``size * normal`` standard deviations, with one normal number for each data set, so that grids stay regular. No
    value leaves the range that the campaign's data sets span, so values that all have in common stay as they are; where
    nothing would change there are no copies.
    """
    spans = _spans(problem, batches)
    copies = JITTERED // sum(map(len, batches)) - 1
    if size == 0.0 or not spans or copies < 1:
        return list(batches)
    return [_with_copies(batch, spans, copies, size, seed + number) for number, batch in enumerate(batches)]


def _design(problem: Problem, batch: Batch) -> dict[str, Floats]:
    """The fields that are not observed, and the constants, by name."""
    return {name: values for name, values in batch.fields.items() if name not in problem.observed} | batch.constants


def _spans(problem: Problem, batches: Sequence[Batch]) -> dict[str, tuple[float, float, float]]:
    """The least and largest value and the standard deviation of each field or constant that can be jittered, by name.

    These differ between data sets and have values that are not whole numbers.
    """
    parts = [_design(problem, batch) for batch in batches]
    spans = {}
    for name in parts[0]:
        values = [part[name].reshape(len(part[name]), -1) for part in parts]
        every = np.concatenate([v.ravel() for v in values])
        every = every[np.isfinite(every)]
        ends = np.concatenate([np.stack([v.min(axis=1), v.max(axis=1)], axis=1) for v in values])
        ends = ends[np.isfinite(ends).all(axis=1)]
        if len(ends) and np.any(every != np.round(every)) and np.ptp(ends, axis=0).any():
            spans[name] = float(every.min()), float(every.max()), float(every.std())
    return spans


def _with_copies(
    batch: Batch, spans: Mapping[str, tuple[float, float, float]], copies: int, size: float, seed: int
) -> Batch:
    count = len(batch)
    whole = batch.take(np.tile(np.arange(count), copies + 1))
    rng = np.random.Generator(np.random.Philox(key=[seed, STREAM]))
    for name, (low, high, sd) in sorted(spans.items()):
        values = (whole.fields if name in whole.fields else whole.constants)[name]
        flat = values.reshape(len(whole), -1)
        least, largest, noise = flat.min(axis=1), flat.max(axis=1), rng.standard_normal(len(whole))
        with np.errstate(invalid="ignore"):
            if low > 0:
                moved = flat * np.clip(np.exp(size * noise), low / least, high / largest)[:, None]
            else:
                moved = flat + np.clip(size * sd * noise, low - least, high - largest)[:, None]
        values[count:] = moved.reshape(values.shape)[count:]
    return whole
