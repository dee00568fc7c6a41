"""The ingest: reads a source of data sets into columns that can be frozen, and lists the data sets left out.

A bad data set does not affect the others: it is quarantined with file, row and reason. Only a source that cannot be
read at all, or that holds no usable data set, is an error.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chainsweep.config.sections import DataSection
from chainsweep.data.checks import Quarantined, find_problems
from chainsweep.data.frozen import content_hash, freeze
from chainsweep.data.raw import Ragged, RawData, offsets_of
from chainsweep.data.readers import read_source
from chainsweep.data.truth import named_truth
from chainsweep.errors import ConfigError, DataError
from chainsweep.numerics.arrays import Bools, Floats, Ints

__all__ = ["Ingested", "Quarantined", "content_hash", "freeze", "ingest", "write_quarantine"]

QUARANTINE_COLUMNS = ("dataset_id", "file", "row", "reason", "detail")
_SHOWN = 5
EXACT = 2.0**53
"""The number below which float64 represents every integer exactly."""


@dataclass(frozen=True)
class Ingested:
    """The usable data sets of a source, in its order, and the quarantined ones.

    ``offsets`` has shape ``(dataset + 1,)``; ``fields[name]`` is flat, ``(sum of lengths, ...)``, float64 or, where
    the source holds integers, int64, all finite; ``constants[name]`` has shape ``(dataset,)`` or ``(dataset, k)``,
    finite; ``truth[parameter]`` has shape ``(dataset, ...)``, NaN where unknown.
    """

    ids: tuple[str, ...]
    offsets: Ints
    fields: dict[str, NDArray]
    constants: dict[str, Floats]
    truth: dict[str, Floats]
    quarantine: tuple[Quarantined, ...]

    @property
    def lengths(self) -> Ints:
        """The number of points of each data set, shape ``(dataset,)``."""
        return np.diff(self.offsets)


def with_named_truth(ingested: Ingested, parameter_names: tuple[str, ...], source: Path) -> Ingested:
    """Return the data sets, with columns of an unnamed ``truth`` matrix named by the model's flat parameter names."""
    return replace(ingested, truth=named_truth(ingested.truth, parameter_names, source))


def ingest(config: DataSection, source: Path) -> Ingested:
    """Read a source, check every data set and keep the usable ones.

    The columns of a bare ``truth`` matrix have no names before ``with_named_truth``.

    Raises
    ------
    ConfigError
        ``[data]`` contradicts itself.
    DataError
        The source is missing, of unknown format, lacks an array or column altogether, or has no usable
        data set.
    UnavailableError
        The format needs a package that is not installed.
    """
    _check_config(config)
    raw = read_source(config, source)
    if len(raw.ids) == 0:
        raise DataError(f"{source}: holds no data set")
    problems = find_problems(raw, config)
    quarantine = tuple(problems.values())
    if len(problems) == len(raw.ids):
        raise DataError(_nothing_usable(source, quarantine))
    return _keep(raw, np.array(list(problems), dtype=np.int64), quarantine)


def write_quarantine(quarantine: Sequence[Quarantined], path: Path) -> None:
    """Write ``quarantine.csv``: one row per data set that was left out, or only the header when there is none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(QUARANTINE_COLUMNS)
        writer.writerows((q.dataset_id, q.file, q.row, q.reason, q.detail) for q in quarantine)


def _check_config(config: DataSection) -> None:
    both = sorted(set(config.fields) & set(config.constants))
    if both:
        raise ConfigError(f"[data] {', '.join(both)} is named in both 'fields' and 'constants'; keep one")
    unknown = [name for name in config.positive_fields if name not in config.fields]
    if unknown:
        raise ConfigError(f"[data] positive = {unknown}: no such field; the fields are: {', '.join(config.fields)}")


def _nothing_usable(source: Path, quarantine: Sequence[Quarantined]) -> str:
    counts = Counter(entry.reason for entry in quarantine)
    summary = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    shown = [f"  {entry.file}, row {entry.row}: {entry.reason}: {entry.detail}" for entry in quarantine[:_SHOWN]]
    if len(quarantine) > _SHOWN:
        shown.append(f"  ... and {len(quarantine) - _SHOWN} more")
    return "\n".join((f"{source}: none of {len(quarantine)} data sets is usable ({summary})", *shown))


def _keep(raw: RawData, dropped: Ints, quarantine: tuple[Quarantined, ...]) -> Ingested:
    keep = np.ones(len(raw.ids), dtype=bool)
    keep[dropped] = False
    lengths = next(iter(raw.fields.values())).lengths[keep]
    return Ingested(
        ids=tuple(str(raw.ids[position]) for position in np.flatnonzero(keep).tolist()),
        offsets=offsets_of(lengths),
        fields={name: _kept_points(ragged, keep, name in raw.integers) for name, ragged in raw.fields.items()},
        constants={name: values[keep] for name, values in raw.constants.items()},
        truth={name: values[keep] for name, values in raw.truth.items()},
        quarantine=quarantine,
    )


def _kept_points(ragged: Ragged, keep: Bools, integer: bool) -> NDArray:
    """Return the points of the data sets to keep, as int64 if the source holds integers that float64 holds exactly."""
    values = ragged.values if keep.all() else ragged.values[np.repeat(keep, ragged.lengths)]
    return values.astype(np.int64) if integer and (np.abs(values) < EXACT).all() else values
