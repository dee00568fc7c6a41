"""The one way a file of a campaign comes into being: whole and valid, or not at all.

Write to a unique temporary name in the same folder, close, reopen and validate, fsync, ``os.replace``, fsync
the folder. A reader therefore sees the old file or the new one, never a part; a killed attempt leaves only an
``.attempt-*`` file beside it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from chainsweep.errors import ChainsweepError

ATTEMPT_PREFIX = ".attempt-"


class LostOwnership(ChainsweepError):
    """Another attempt owns the task now, so this one may not publish; nothing was changed."""


def publish(
    path: Path,
    write: Callable[[Path], None],
    validate: Callable[[Path], None],
    still_owner: Callable[[], bool] = lambda: True,
) -> None:
    """Put a file at ``path``, durably and all at once, replacing an older one.

    ``write`` is given the temporary path and must leave a closed file there; ``validate`` reopens it and
    raises if it is not what it must be. On any exception the temporary file is removed and ``path`` is as
    it was.

    Raises
    ------
    LostOwnership
        ``still_owner()`` said False just before the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{ATTEMPT_PREFIX}{os.getpid()}-{secrets.token_hex(6)}-{path.name}"
    try:
        write(temporary)
        validate(temporary)
        _fsync(temporary)
        if not still_owner():
            raise LostOwnership(
                f"{path}: not published, expected this attempt (process {os.getpid()}) to own the task, but "
                "another one took it over; its file stands, nothing needs to be done"
            )
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def publish_text(path: Path, text: str) -> None:
    """Put a file with ``text`` in UTF-8 at ``path``, as ``publish`` does."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    publish(path, write, lambda temporary: None)


def _fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
