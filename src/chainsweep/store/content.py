"""The content of a shard file as one canonical stream of blocks, and its SHA-256.

The checksum covers names, types, shapes and values in C order, not HDF5's layout: it is the same for the
arrays in memory before they are written, for the file read back, and for the file while a merge copies it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 8 * 2**20


class Readable(Protocol):
    """An array in memory or in a file: slicing gives rows of its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""

    @property
    def dtype(self) -> np.dtype:
        """The type of the values; ``object`` means text."""

    def __getitem__(self, rows: slice, /) -> NDArray: ...


@dataclass(frozen=True)
class Block:
    """The rows ``start:start + len(values)`` of the array called ``name`` (such as ``posterior/l``)."""

    name: str
    start: int
    values: NDArray


@dataclass
class ContentHash:
    """A running SHA-256; feed it by exhausting ``blocks``, then ask ``hexdigest``."""

    header: Mapping[str, Any]
    _sha: Any = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self._sha.update(json.dumps(self.header, sort_keys=True).encode())

    def hexdigest(self) -> str:
        """Return the checksum of all data fed until now, as 64 hexadecimal digits."""
        return self._sha.hexdigest()

    def blocks(self, arrays: Mapping[str, Readable], block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
        """Feed every array, in the order of their names, and yield the data block by block."""
        for name in sorted(arrays):
            array = arrays[name]
            is_text = array.dtype.kind == "O"
            dtype = "text" if is_text else array.dtype.newbyteorder("<").str
            self._sha.update(json.dumps([name, dtype, list(array.shape)]).encode())
            for start, stop in row_blocks(array.shape, array.dtype.itemsize, block_bytes):
                values = read_text(array, start, stop) if is_text else array[start:stop]
                self._sha.update(encode_text(values) if is_text else np.ascontiguousarray(values))
                yield Block(name, start, values)

    def feed(self, arrays: Mapping[str, Readable]) -> ContentHash:
        """Feed every array and drop the blocks."""
        for _ in self.blocks(arrays):
            pass
        return self


def row_blocks(shape: Sequence[int], itemsize: int, block_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that hold at most ``block_bytes`` each (at least one row)."""
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * itemsize)
    step = max(1, block_bytes // row_bytes)
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def read_text(array: Readable, start: int = 0, stop: int | None = None) -> NDArray:
    """Return rows of a text array, shape ``(row,)``, as ``str`` objects."""
    source = array.asstr() if isinstance(array, h5py.Dataset) else array
    return source[start:stop]


def encode_text(values: NDArray) -> bytes:
    """Return text as bytes with the length before each item, so that no two lists give the same bytes."""
    encoded = [str(value).encode() for value in values]
    return b"".join(len(item).to_bytes(8, "little") + item for item in encoded)
