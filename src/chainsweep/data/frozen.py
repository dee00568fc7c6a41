"""The file of frozen data sets, which is written once, never changes, and is identified by the hash of its content.

Layout of ``data.h5``: ``/id`` (dataset,) text, ``/offsets`` (dataset + 1,) int64, ``/fields/<name>``
(sum of lengths, ...) float64, or int64 of integers, ``/constants/<name>`` (dataset,) or (dataset, k),
``/truth/<parameter>`` (dataset, ...) with NaN for unknown; attributes ``schema`` and ``sha256``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.numerics.arrays import Floats, Ints
from chainsweep.publish import publish

SCHEMA = "chainsweep-data/1"
_GROUPS = ("fields", "constants", "truth")


class Columns(Protocol):
    """Data sets as columns, as ``Ingested`` holds them."""

    @property
    def ids(self) -> Sequence[str]:
        """Ids, in order."""

    @property
    def offsets(self) -> Ints:
        """Offsets ``(dataset + 1,)`` into the flat fields."""

    @property
    def fields(self) -> Mapping[str, NDArray]:
        """Flat fields ``(sum of lengths, ...)``."""

    @property
    def constants(self) -> Mapping[str, Floats]:
        """Constants ``(dataset,)``, or ``(dataset, k)``."""

    @property
    def truth(self) -> Mapping[str, Floats]:
        """True parameters ``(dataset, ...)``."""


class _HasPath(Protocol):
    path: Path


def freeze(columns: Columns, path: Path) -> str:
    """Write the data sets to ``path`` and return the sha256 of their content.

    The hash covers ids, offsets, names, shapes and values, not the bytes of the HDF5 file. The file appears
    under its name only when complete, read back and synced.

    Raises
    ------
    ChainsweepError
        The file read back differs from what was written.
    """
    digest = _digest(columns.ids, columns.offsets, {group: _group(columns, group) for group in _GROUPS})

    def check(temporary: Path) -> None:
        if content_hash(temporary) != digest:
            raise ChainsweepError(f"{temporary}: does not read back as written; check the disk and try again")

    publish(path, lambda temporary: _write(columns, digest, temporary), check)
    return digest


def content_hash(frozen: Path | _HasPath) -> str:
    """Return the sha256 of a frozen file (or the file of a ``Collection``), computed now from the values that it holds.

    Raises
    ------
    CampaignError
        The file cannot be read or lacks a part.
    """
    path = frozen if isinstance(frozen, Path) else frozen.path
    try:
        with h5py.File(path, "r", locking=False) as file:
            groups = {group: {name: file[group][name][()] for name in file[group]} for group in _GROUPS}
            return _digest(file["id"].asstr()[()].tolist(), file["offsets"][()], groups)
    except (OSError, KeyError) as error:
        raise CampaignError(f"{path}: is not a readable file of frozen data sets: {error}") from error


def _group(columns: Columns, group: str) -> Mapping[str, NDArray]:
    return {"fields": columns.fields, "constants": columns.constants, "truth": columns.truth}[group]


def _write(columns: Columns, digest: str, path: Path) -> None:
    with h5py.File(path, "w-", libver="v110") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["sha256"] = digest
        file.create_dataset("id", data=list(columns.ids), dtype=h5py.string_dtype())
        file.create_dataset("offsets", data=np.asarray(columns.offsets, dtype=np.int64))
        for group in _GROUPS:
            target = file.create_group(group)
            for name, values in sorted(_group(columns, group).items()):
                target.create_dataset(name, data=_stored(values), track_times=False)


def _stored(values: NDArray) -> NDArray:
    return np.asarray(values, dtype=np.int64 if np.asarray(values).dtype.kind == "i" else np.float64)


def _digest(ids: Sequence[str], offsets: Ints, groups: Mapping[str, Mapping[str, NDArray]]) -> str:
    hasher = hashlib.sha256(SCHEMA.encode())
    # ids hold neither NUL nor newline, so joining them is unambiguous
    hasher.update("\n".join(ids).encode())
    _feed(hasher, "offsets", np.ascontiguousarray(offsets, dtype="<i8"))
    for group in _GROUPS:
        for name, values in sorted(groups[group].items()):
            if values.dtype.kind == "i":
                _feed(hasher, f"{group}/{name} int64", np.ascontiguousarray(values, dtype="<i8"))
                continue
            plain = np.ascontiguousarray(values, dtype="<f8")
            # every NaN counts as the same value, whatever its bits
            _feed(hasher, f"{group}/{name}", np.where(np.isnan(plain), np.nan, plain))
    return hasher.hexdigest()


def _feed(hasher: hashlib._Hash, name: str, values: NDArray) -> None:
    hasher.update(f"\0{name}\0{values.shape}\0".encode())
    hasher.update(values.reshape(-1).data)
