"""``starts.h5``: draws of another campaign's data sets, frozen into this one for chains to start from.

``draws`` is ``(dataset, draw, ndim)`` float64, constrained, of equal weight, in the order of this campaign's data sets;
NaN where the other campaign has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from chainsweep.errors import ConfigError
from chainsweep.numerics.arrays import Floats, Ints
from chainsweep.numerics.resampling import systematic

DRAWS = 64
"""The number of draws kept of a data set, enough to locate its posterior."""
BLOCK = 256
"""The number of data sets that are read at once."""


def freeze_starts(
    source: Path, engine: str, parameters: Sequence[tuple[str, tuple[int, ...]]], ids: Sequence[str], path: Path
) -> None:
    """Copy draws of ``engine`` from the merged posterior ``source`` to ``path``.

    ``parameters`` are names and shapes, in the order of the columns.

    Raises
    ------
    ConfigError
        The file is not a merged posterior, or lacks this engine, these parameters, or all of these data sets.
    """
    position = {name: row for row, name in enumerate(ids)}
    columns = int(sum(np.prod(shape, dtype=int) for _, shape in parameters))
    try:
        with h5py.File(source, "r", locking=False) as theirs, h5py.File(path, "w") as ours:
            if engine not in theirs:
                raise ConfigError(f"{source}: has no draws of {engine}, which chains could start from")
            posterior, stats = theirs[engine]["posterior"], theirs[engine]["sample_stats"]
            for name, shape in parameters:
                if name not in posterior or posterior[name].shape[3:] != shape:
                    raise ConfigError(f"{source}: {engine} has no parameter {name!r} of shape {shape}: another model")
            names = posterior["dataset"].asstr()[...]
            draws = ours.create_dataset("draws", (len(ids), DRAWS, columns), dtype=float, fillvalue=np.nan)
            found = 0
            for first in range(0, len(names), BLOCK):
                rows = [row for row in range(first, min(first + BLOCK, len(names))) if names[row] in position]
                if not rows:
                    continue
                lengths = stats["n_draws"][rows]
                blocks = [
                    posterior[name][rows].reshape(len(rows), *posterior[name].shape[1:3], -1) for name, _ in parameters
                ]
                theta = np.concatenate(blocks, axis=-1).astype(float)
                log_weight = stats["log_weight"][rows] if "log_weight" in stats else np.zeros(theta.shape[:3])
                for k, row in enumerate(rows):
                    own = _equal(theta[k, :, : lengths[k]], log_weight[k, :, : lengths[k]])
                    draws[position[names[row]], : len(own)] = own
                    found += len(own) > 0
    except (OSError, KeyError) as error:
        raise ConfigError(f"{source}: expected a merged posterior ({error}); run 'chainsweep merge' there") from error
    if not found:
        raise ConfigError(f"{source}: {engine} has draws of none of this campaign's {len(ids)} data sets")


def read_starts(path: Path, positions: Ints) -> Floats:
    """Return the draws ``(dataset, draw, ndim)`` of the data sets at the ascending ``positions``."""
    with h5py.File(path, "r", locking=False) as file:
        draws: Floats = file["draws"][positions]
    return draws


def _equal(theta: Floats, log_weight: Floats) -> Floats:
    """Return ``DRAWS`` equally weighted draws ``(draw, ndim)`` out of ``(chain, draw, ndim)``, if there are any."""
    flat, weights = theta.reshape(-1, theta.shape[-1]), log_weight.ravel()
    usable = np.isfinite(flat).all(axis=-1) & np.isfinite(weights)
    flat, weights = flat[usable], weights[usable]
    if not len(flat):
        return flat
    return flat[systematic(weights, DRAWS, 0.5)]
