"""The shard files, which hold the draws and figures of a block of data sets by one engine.

``/posterior/<parameter>`` has shape ``(dataset, chain, draw, *shape)``, ``/sample_stats/<name>`` ``(dataset,
chain, draw)``; ``/n_draws``, ``/id`` and ``/summary/<column>`` are ``(dataset,)``. Arrays lie contiguous and
uncompressed: shuffle and gzip save 30 % on draws and make reading ten times slower (64 data sets x 4 x 1000 x
5 parameters: 5 to 50 ms).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from chainsweep.publish import publish
from chainsweep.store.content import Block, ContentHash, Readable, read_text
from chainsweep.store.layout import (
    FIXED_ATTRIBUTES,
    SCHEMA,
    Shard,
    ShardError,
    ShardHeader,
    attributes,
    shard_arrays,
)

_TEXT = h5py.string_dtype("utf-8")
# The exception that h5py raises on a damaged file depends on the structure that is damaged.
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True)
class ShardLayout:
    """The header, the ids, and type and shape of draws and sample stats by their path (such as ``posterior/l``)."""

    header: ShardHeader
    ids: tuple[str, ...]
    arrays: dict[str, tuple[np.dtype, tuple[int, ...]]]


def publish_shard(
    path: Path, shard: Shard, dtype: str = "float32", still_owner: Callable[[], bool] = lambda: True
) -> None:
    """Write, reopen, verify and publish a shard.

    Draws and floating sample stats are stored as ``dtype``, but ``lp`` and ``log_weight``, and whatever
    ``dtype`` cannot hold finely enough (``storage_dtype``), as float64.

    Raises
    ------
    ShardError
        The arrays do not fit together, or the file read back differs from what was written.
    LostOwnership
        ``still_owner()`` is False: another attempt owns the task.
    """
    arrays = shard_arrays(shard, np.dtype(dtype))
    header = shard.header
    digest = ContentHash(asdict(header)).feed(arrays).hexdigest()

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w-", libver="v110", locking=False) as file:
            for name, value in attributes(header).items():
                file.attrs[name] = value
            for group in ("posterior", "sample_stats", "summary"):
                file.create_group(group, track_order=True)  # keeps the model's order of parameters
            for name, array in arrays.items():
                file.create_dataset(name, data=array, dtype=_TEXT if array.dtype.kind == "O" else None)
            file.attrs["sha256"] = digest
            file.flush()
            file.attrs["complete"] = True

    def validate(temporary: Path) -> None:
        validate_shard(
            temporary,
            campaign_hash=header.campaign_hash,
            engine=header.engine,
            shard=header.shard,
            ids=shard.ids,
        )

    publish(path, write, validate, still_owner)


def validate_shard(
    path: Path, *, campaign_hash: str, engine: str, shard: int, ids: Sequence[str], deep: bool = True
) -> ShardHeader:
    """Return the header if ``path`` is the finished shard it should be.

    ``deep=False`` checks everything but the checksum, about 1 ms a file: enough to count; use ``deep=True``
    before relying on the draws.

    Raises
    ------
    ShardError
        Missing, empty, truncated, unreadable or incomplete file, of another campaign, engine or shard, with
        other ids or another order, or (deep) whose checksum does not match.
    """
    with _opened(path) as file:
        header = _header(file, path)
        found = {"engine": header.engine, "shard": header.shard, "campaign_hash": header.campaign_hash}
        expected = {"engine": engine, "shard": shard, "campaign_hash": campaign_hash}
        for key, value in expected.items():
            if found[key] != value:
                raise ShardError(
                    f"{path}: wrong {key}: expected {value!r}, got {found[key]!r}; "
                    "the file belongs elsewhere: remove it and run the task again"
                )
        _check_ids(_ids(file), tuple(ids), path)
        if deep:
            for _ in _verified_blocks(file, header, path):
                pass
    return header


def read_header(path: Path) -> ShardHeader:
    """Read the header of a complete shard (checksum not verified). Raises ``ShardError``."""
    with _opened(path) as file:
        return _header(file, path)


def read_summary(path: Path, columns: Sequence[str] | None = None) -> dict[str, NDArray]:
    """Read the summary columns (all, or those of ``columns`` that exist), each ``(dataset,)``.

    ``dataset_id``, ``engine`` and ``attempt`` always come first. The checksum is not verified.

    Raises
    ------
    ShardError
        The file is missing, damaged or incomplete.
    """
    with _opened(path) as file:
        header, ids = _header(file, path), _ids(file)
        engine = np.full(len(ids), header.engine, dtype=object)
        result: dict[str, NDArray] = {"dataset_id": np.array(ids, dtype=object), "engine": engine}
        result["attempt"] = np.full(len(ids), header.attempt, dtype=np.int64)
        names = file["summary"] if columns is None else [name for name in columns if name in file["summary"]]
        return result | {name: _read(file["summary"][name]) for name in names}


def read_shard(path: Path) -> Shard:
    """Read a whole shard and verify its checksum. Raises ``ShardError``."""
    with _opened(path) as file:
        header = _header(file, path)
        for _ in _verified_blocks(file, header, path):
            pass
        groups = {
            group: {name: _read(array) for name, array in file[group].items()}
            for group in ("posterior", "sample_stats", "summary")
        }
        return Shard(header=header, ids=_ids(file), n_draws=file["n_draws"][...], **groups)


def stream_shard(path: Path) -> Iterator[Block]:
    """Yield the whole content in blocks of rows; it is verified at the end and must not be used before.

    An error of the consumer never passes through here, so it is never taken for damage of this file.

    Raises
    ------
    ShardError
        The file is missing, damaged or incomplete, or (after the last block) its checksum does not match.
    """
    with _opened(path) as file:
        yield from _verified_blocks(file, _header(file, path), path)


def read_layout(path: Path) -> ShardLayout:
    """Read the layout of a complete shard, which a merge needs before it copies. Raises ``ShardError``."""
    with _opened(path) as file:
        arrays = {
            f"{group}/{name}": (array.dtype, array.shape)
            for group in ("posterior", "sample_stats")
            for name, array in file[group].items()
        }
        return ShardLayout(_header(file, path), _ids(file), arrays)


def _file_arrays(file: h5py.File) -> dict[str, Readable]:
    """Return every array of an open shard file by its path, such as ``posterior/l``."""
    arrays: dict[str, Readable] = {}
    for name, item in file.items():
        inner = item.items() if isinstance(item, h5py.Group) else [("", item)]
        arrays |= {f"{name}/{key}".rstrip("/"): value for key, value in inner}
    return arrays


def _header(file: h5py.File, path: Path) -> ShardHeader:
    found = file.attrs
    schema = found.get("schema")
    if schema != SCHEMA:
        raise ShardError(f"{path}: expected a shard file of schema {SCHEMA!r}, got {schema!r}; run the task again")
    if not found.get("complete", False):
        raise ShardError(f"{path}: incomplete: its writer was stopped before the end; run the task again")
    fixed = {name: kind(found[name]) for name, kind in FIXED_ATTRIBUTES.items()}
    return ShardHeader(**fixed, provenance=json.loads(found["provenance"]))


def _ids(file: h5py.File) -> tuple[str, ...]:
    return tuple(read_text(file["id"]))


def _read(array: h5py.Dataset) -> NDArray:
    return read_text(array) if array.dtype.kind == "O" else array[...]


def _check_ids(found: tuple[str, ...], expected: tuple[str, ...], path: Path) -> None:
    if found == expected:
        return
    if sorted(found) == sorted(expected):
        what = "the same ids in another order"
    else:
        lacking, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        what = f"{len(lacking)} of them missing {lacking[:3]}, {len(extra)} others {extra[:3]}"
    raise ShardError(
        f"{path}: wrong ids: expected the shard's {len(expected)} data sets, got {what}; "
        "remove it and run the task again"
    )


def _verified_blocks(file: h5py.File, header: ShardHeader, path: Path) -> Iterator[Block]:
    digest = ContentHash(asdict(header))
    yield from digest.blocks(_file_arrays(file))
    stored = file.attrs.get("sha256")
    if digest.hexdigest() != stored:
        raise ShardError(
            f"{path}: checksum mismatch: expected {stored}, content has {digest.hexdigest()}; "
            "the file was damaged or edited: remove it and run the task again"
        )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open for reading, and raise ``ShardError`` for any exception of h5py on a damaged file."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ShardError(f"{path}: missing ({error.strerror}); run the task") from error
    if size == 0:
        raise ShardError(f"{path}: has zero bytes; remove it and run the task again")
    try:
        # Published files never change, and locks fail on network file systems.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _DAMAGE as error:
        what = "truncated" if "truncated" in str(error) else "unreadable"
        raise ShardError(f"{path}: {what} ({error}); remove it and run the task again") from error
