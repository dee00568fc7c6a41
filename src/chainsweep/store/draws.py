"""The draws of one data set by one engine, read from ``posterior.h5`` without the padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import CampaignError, InputError
from chainsweep.numerics.arrays import Floats
from chainsweep.numerics.resampling import systematic

RESAMPLING_SEED = 0


@dataclass(frozen=True)
class DatasetDraws:
    """The draws of one data set by one engine, without padding.

    ``posterior[name]`` is ``(chain, draw, *shape)``, ``sample_stats[name]`` ``(chain, draw)``. ``log_weight``
    among the sample stats makes them weighted draws.
    """

    dataset_id: str
    engine: str
    kind: str
    posterior: dict[str, NDArray]
    sample_stats: dict[str, NDArray]


def read_draws(posterior_path: Path, dataset_id: str, engine: str) -> DatasetDraws:
    """Read one data set's draws, cut to its ``n_draws`` and to the chains it has.

    Raises
    ------
    InputError
        The file has no such engine or data set, or the data set has no draws.
    CampaignError
        The file is missing or damaged.
    """
    try:
        # HDF5 opens a file that this process holds open already (in xarray, say) only with the same locking, which it
        # does not report; through a Python file it does not know that it is the same one, and locks nothing.
        with posterior_path.open("rb") as raw, h5py.File(raw, "r") as file:
            row = _find_row(file, dataset_id, engine, posterior_path)
            group = file[engine]
            count = int(group["sample_stats/n_draws"][row])
            posterior, stats = (_read_rows(group[name], row, count) for name in ("posterior", "sample_stats"))
            kind = str(group.attrs["kind"])
    except (OSError, KeyError) as error:
        raise CampaignError(
            f"{posterior_path}: expected a merged posterior, cannot read it ({error}); run 'chainsweep merge'"
        ) from error
    if count == 0:
        raise InputError(f"data set {dataset_id!r} has no draws of {engine}; 'chainsweep show' says why")
    first = next(iter(posterior.values()))
    kept = ~np.isnan(first.reshape(len(first), -1)).all(axis=1)
    posterior, stats = ({name: a[kept] for name, a in part.items()} for part in (posterior, stats))
    return DatasetDraws(dataset_id, engine, kind, posterior, stats)


def equal_weights(draws: DatasetDraws) -> DatasetDraws:
    """Resample weighted draws to the same number of equally weighted ones, in one chain; others stay unchanged.

    Systematic resampling in a random order, seed ``RESAMPLING_SEED``: draw i is taken floor or ceil of
    ``N w_i`` times. Reference: Douc, Cappe & Moulines (2005), doi:10.1109/ISPA.2005.195385.
    """
    if "log_weight" not in draws.sample_stats:
        return draws
    log_weights = _log_weights(draws).ravel()
    count = log_weights.size
    generator = np.random.default_rng(RESAMPLING_SEED)
    picks = generator.permutation(systematic(log_weights, count, generator.random()))

    def pick(array: NDArray) -> NDArray:
        return array.reshape(count, *array.shape[2:])[picks][np.newaxis]

    stats = {name: pick(array) for name, array in draws.sample_stats.items() if name != "log_weight"}
    posterior = {name: pick(array) for name, array in draws.posterior.items()}
    return DatasetDraws(draws.dataset_id, draws.engine, draws.kind, posterior, stats)


def flat_columns(posterior: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return scalar columns ``(chain, draw)`` by name: ``theta`` of shape (2,) gives ``theta[0]``, ``theta[1]``."""
    columns = {}
    for name, array in posterior.items():
        for index in np.ndindex(array.shape[2:]):
            flat = f"{name}[{','.join(map(str, index))}]" if index else name
            columns[flat] = array[(slice(None), slice(None), *index)]
    return columns


def relative_weights(draws: DatasetDraws) -> Floats:
    """Return weights ``(chain, draw)``, the largest of which is 1; all are 1 if draws are not weighted.

    Raises ``InputError`` where no draw has a finite weight.
    """
    if "log_weight" not in draws.sample_stats:
        return np.ones(next(iter(draws.posterior.values())).shape[:2])
    log_weights = _log_weights(draws)
    return np.exp(log_weights - log_weights.max())


def _log_weights(draws: DatasetDraws) -> Floats:
    """Return log weights ``(chain, draw)``, -inf where they are not finite, or raise InputError if none is finite."""
    log_weights = draws.sample_stats["log_weight"].astype(np.float64)
    finite = np.where(np.isfinite(log_weights), log_weights, -np.inf)
    if not np.isfinite(finite).any():
        raise InputError(f"data set {draws.dataset_id!r}: no {draws.engine} draw has a finite weight")
    return finite


def _find_row(file: h5py.File, dataset_id: str, engine: str, path: Path) -> int:
    if engine not in file:
        raise InputError(f"{path}: has no engine {engine!r}; it has {', '.join(file) or 'none'}")
    rows = np.flatnonzero(file[engine]["posterior/dataset"].asstr()[...] == dataset_id)
    if len(rows) == 0:
        raise InputError(
            f"{path}: has no data set {dataset_id!r} of {engine}; see 'chainsweep status', then 'chainsweep merge'"
        )
    return int(rows[0])


def _read_rows(group: h5py.Group, row: int, count: int) -> dict[str, NDArray]:
    """Return the variables ``(dataset, chain, draw, ...)`` of a group at one row, without padded draws."""
    arrays = {}
    for name, array in group.items():
        if array.ndim >= 3:
            values = array[row, :, :count]
            arrays[name] = values.astype(bool) if array.attrs.get("dtype") == "bool" else values
    return arrays
