"""Files that a model file reads while it is loaded and traced: tables, and helper modules from outside site-packages.

They decide the density as much as the model file does, so ``init`` writes down their hashes.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Any

_OPENED: list[set[str]] = []
"""The files that each watch has seen so far; the hook, which Python cannot take back, fills them."""
_HOOKED: list[bool] = []


@contextmanager
def watched_reads() -> Iterator[set[Path]]:
    """Yield a set that holds, when the block has ended, the files that Python code in it read, and imported modules.

    Files of Python, of installed packages and of caches are left out, and so are those that only compiled code opens,
    such as HDF5 files.
    """
    if not _HOOKED:
        sys.addaudithook(_note)
        _HOOKED.append(True)
    opened: set[str] = set()
    before = set(sys.modules)
    found: set[Path] = set()
    _OPENED.append(opened)
    try:
        yield found
    finally:
        _OPENED.remove(opened)
        modules = (getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before)
        installed = _installed()
        places = {Path(place).absolute() for place in (*opened, *(module for module in modules if module))}
        own = {place for place in places if not str(place).startswith(installed) and not _hidden(place)}
        found |= {place for place in own if place.is_file()}


def changed_reads(known: Mapping[str, str]) -> list[str]:
    """Return a sentence with both hashes for each of the ``known`` files (name to hash) whose content has changed.

    A file that is missing is not reported: the model will raise, unless it finds the file elsewhere on this machine.
    """
    found = {name: file_hash_once(Path(name)) for name in known}
    return [
        f"{name}, which the model reads (recorded {known[name][:12]}, now {found[name][:12]})"
        for name in known
        if found[name] not in (known[name], "missing")
    ]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or ``"missing"``."""
    if not path.is_file():
        return "missing"
    with path.open("rb") as handle:
        return file_digest(handle, "sha256").hexdigest()


def file_hash_once(path: Path) -> str:
    """SHA-256 of a file's bytes, or ``"missing"``; a process reads the file again only if its size or times change."""
    try:
        found = path.stat()
    except OSError:
        return file_hash(path)
    return _hash_of(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=64)
def _hash_of(path: Path, stamp: tuple[int, ...]) -> str:
    return file_hash(path)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _OPENED:
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes | os.PathLike) and not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
        place = str(Path(os.fsdecode(path)).absolute())
        for opened in _OPENED:
            opened.add(place)


def _installed() -> tuple[str, ...]:
    """Folders of Python, of its packages, of this package, and of the system, each with a separator behind it."""
    python = {str(place) for place in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix) if place}
    folders = python | {str(Path(__file__).parents[1]), "/proc", "/sys", "/dev", "/etc", "/usr/share/zoneinfo"}
    return tuple(folder.rstrip(os.sep) + os.sep for folder in folders)


def _hidden(place: Path) -> bool:
    """True where a file is bytecode, belongs to an installed package, or is in a cache."""
    folders = {"__pycache__", ".cache", "site-packages", "dist-packages"}
    return bool(folders.intersection(place.parts)) or place.name.endswith((".pyc", "-cache", "-atime"))
