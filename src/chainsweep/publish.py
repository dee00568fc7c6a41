"""The atomic publication of a campaign's files: a file appears whole and valid, or not at all.

Write to a unique temporary name in the same folder, close, reopen and validate, fsync, ``os.replace``, fsync
the folder. A reader therefore sees the old file or the new one, never a part; a killed attempt leaves only an
``.attempt-*`` file next to it.

``write_below``, ``append_below`` and ``remove_below`` reach a file from a campaign's folder down, through no link: a
link there may lead to files that are not the campaign's. The campaign's own folder may well be reached through links.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chainsweep.errors import CampaignError, ChainsweepError

ATTEMPT_PREFIX = ".attempt-"
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class LostOwnership(ChainsweepError):
    """Another attempt owns the task now, so this one may not publish; no file was changed."""


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
    temporary = path.parent / _temporary(path.name)
    try:
        write(temporary)
        validate(temporary)
        _fsync(temporary)
        if not still_owner():
            raise LostOwnership(
                f"{path}: not published, expected this attempt (process {os.getpid()}) to own the task, but "
                "another one took it over; its file is there, nothing needs to be done"
            )
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def publish_text(path: Path, text: str) -> None:
    """Put a file with ``text`` in UTF-8 at ``path``, as ``publish`` does."""

    def write(temporary: Path) -> None:
        with os.fdopen(os.open(temporary, NEW, 0o666), "wb") as handle:
            handle.write(text.encode())

    publish(path, write, lambda temporary: None)


def write_below(root: Path, path: Path, content: bytes, mode: int = 0o666, durable: bool = True) -> None:
    """Put a file with ``content`` at ``path`` below the folder ``root``, all at once, making folders on the way.

    A file that can be made again need not be ``durable``: then nothing is forced to the disk.

    Raises
    ------
    CampaignError
        A part of ``path`` below ``root`` is a link, or not of the kind that it must be; nothing was written.
    """
    with folder_below(root, path.parent) as folder:
        _check_file(path, folder)
        temporary = _temporary(path.name)
        try:
            with os.fdopen(os.open(temporary, NEW, mode, dir_fd=folder), "wb") as handle:
                handle.write(content)
                handle.flush()
                if durable:
                    os.fsync(handle.fileno())
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            _unlink(temporary, folder)
            raise
        if durable:
            os.fsync(folder)


def append_below(root: Path, path: Path, line: str) -> None:
    """Append ``line`` to a text file below ``root``, durably, on a line of its own. Raises like ``write_below``."""
    with os.fdopen(open_below(root, path, os.O_RDWR | os.O_APPEND), "rb+", buffering=0) as handle:
        size = os.fstat(handle.fileno()).st_size
        half = size > 0 and os.pread(handle.fileno(), 1, size - 1) != b"\n"
        handle.write((("\n" if half else "") + line + "\n").encode())
        os.fsync(handle.fileno())


def remove_below(root: Path, path: Path) -> None:
    """Delete a file below ``root``, and its folder if that is left empty; it is no error if the file is gone.

    Raises like ``write_below``, also where the file itself became a link.
    """
    if not path.parent.exists():
        return
    with folder_below(root, path.parent) as folder:
        _check_file(path, folder)
        _unlink(path.name, folder)
        with os.scandir(folder) as entries:
            empty = next(entries, None) is None
    if empty and path.parent != root:
        with folder_below(root, path.parent.parent) as folder:
            os.rmdir(path.parent.name, dir_fd=folder)


def open_below(root: Path, path: Path, flags: int) -> int:
    """Return a descriptor of the file ``path`` below ``root``, opened with ``flags``, and made if it is not there.

    Raises like ``write_below``.
    """
    with folder_below(root, path.parent) as folder:
        _check_file(path, folder)
        return os.open(path.name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=folder)


def check_folders(root: Path, *names: str, depth: int = 0) -> None:
    """Raise ``CampaignError`` if a folder of these names in ``root``, or a folder up to ``depth`` below it, is a link.

    A link to a file is none to a folder: publishing puts a file in its place, and what it leads to stays.
    """
    for name in names:
        place = root / name
        if place.is_symlink() and not place.is_file():
            raise _link(place)
        if depth and place.is_dir():
            with os.scandir(place) as entries:
                inner = sorted(entry.name for entry in entries if entry.is_symlink() or depth > 1)
            check_folders(place, *inner, depth=depth - 1)


def check_below(root: Path, path: Path) -> None:
    """Raise ``CampaignError`` if ``path`` below ``root``, or a part on the way, is a link; it need not exist."""
    place = root.resolve()
    for name in _parts(root, path):
        place /= name
        if place.is_symlink():
            raise _link(place)


@contextmanager
def folder_below(root: Path, path: Path) -> Iterator[int]:
    """Yield a descriptor of the folder ``path``, opened part by part from ``root`` down; missing folders are made."""
    place = root.resolve()
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in _parts(root, path):
            place /= name
            inner = _folder_in(descriptor, name, place)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _folder_in(outer: int, name: str, place: Path) -> int:
    """Open the folder ``name`` in the open folder ``outer``, or make it; ``place`` is its path for messages."""
    try:
        return os.open(name, FOLDER, dir_fd=outer)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was faster
            os.mkdir(name, dir_fd=outer)
        return os.open(name, FOLDER, dir_fd=outer)
    except NotADirectoryError as error:
        if place.is_symlink():
            raise _link(place) from error
        raise CampaignError(f"{place}: expected a folder, found a file; move it out of the campaign") from error


def _parts(root: Path, path: Path) -> tuple[str, ...]:
    """Return the names that lead from ``root`` to ``path``."""
    parts = path.relative_to(root).parts
    if ".." in parts:
        raise CampaignError(f"{path}: expected a path inside {root}; nothing was written or deleted")
    return parts


def _check_file(path: Path, folder: int) -> None:
    """Raise unless ``path``, whose folder is open as ``folder``, is a file or not there."""
    try:
        found = os.lstat(path.name, dir_fd=folder)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISREG(found.st_mode):
        raise CampaignError(f"{path}: expected a file, found a folder or a device; move it out of the campaign")


def _link(path: Path) -> CampaignError:
    return CampaignError(
        f"{path}: expected a file or folder of this campaign, found a link that leads to "
        f"{path.parent / path.readlink()}; nothing there was changed. Links inside a campaign are not followed: remove "
        f"it (rm {shlex.quote(str(path))}) and put back in its place what belongs there, or move the whole campaign to "
        "where it should lie, which may be behind a link; then run this again"
    )


def _temporary(name: str) -> str:
    """Return an unpredictable temporary name for a file next to ``name``."""
    return f"{ATTEMPT_PREFIX}{os.getpid()}-{secrets.token_hex(6)}-{name}"


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
