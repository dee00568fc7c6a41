"""The cache of compiled programs on disk: one for all campaigns of a user, with a folder for each processor and jaxlib.

Its files are JAX's and hold machine code, so a folder is used only if this user, or root, owns it. Each process prunes
the cache to its size limit at the start, because JAX's own limit may stop all writes (jax-ml/jax#39880).
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from chainsweep.errors import UnavailableError, UsageError
from chainsweep.packages import versions

CACHE_VARIABLE = "CHAINSWEEP_CACHE"
LIMIT_VARIABLE = "CHAINSWEEP_CACHE_GIB"
LIMIT_GIB = 4.0
PRUNE_SECONDS = 3600.0
"""The least time between two checks of the size, which take seconds for thousands of files on a network disk."""
TOUCH_SECONDS = 24 * 3600.0
PROBE_BYTES = 2**20
"""The size of the file that is written to a folder to test that there is space; programs have 10 to 500 kB."""
CPU_DESCRIPTION = Path("/proc/cpuinfo")
CPU_KIND = ("vendor_id", "cpu family", "model\t", "flags", "cpu implementer", "cpu part", "features")
"""The lines of ``/proc/cpuinfo`` that decide what XLA compiles: the model chooses among the available instructions."""

Say = Callable[[str], None]


def say_on_stderr(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """Return a name for the kind of this processor; programs compiled on another kind may crash here."""
    described = CPU_DESCRIPTION.read_text(encoding="utf-8") if CPU_DESCRIPTION.exists() else ""
    first = described.split("\n\n")[0].splitlines()
    kind = "\n".join(line for line in first if line.lower().startswith(CPU_KIND))
    return f"{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"


def cache_root(environment: Mapping[str, str]) -> Path:
    """Return the cache folder that ``environment`` selects; the folder is not made.

    Raises
    ------
    UnavailableError
        No variable names it, and this user has no home folder.
    """
    if named := environment.get(CACHE_VARIABLE):
        return Path(named).absolute()
    shared = Path(environment.get("XDG_CACHE_HOME", ""))
    # The XDG specification demands that a path that is not absolute is ignored.
    if shared.is_absolute():
        return shared / "chainsweep"
    try:
        return Path.home() / ".cache" / "chainsweep"
    except RuntimeError as error:
        raise UnavailableError("no folder for compiled programs: this user has no home") from error


def cache_limit(environment: Mapping[str, str]) -> float:
    """Return the number of bytes that the cache may take.

    Raises
    ------
    UsageError
        The variable holds something other than a positive number.
    """
    text = environment.get(LIMIT_VARIABLE) or str(LIMIT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not gib > 0:
        raise UsageError(
            f"{LIMIT_VARIABLE}: expected a positive number of GiB, got {text!r}; leave it out for {LIMIT_GIB:g}"
        )
    return gib * 2**30


def program_folder(environment: Mapping[str, str], say: Say = say_on_stderr) -> Path | None:
    """Prune the cache, and return a writable folder for this processor's programs.

    If the user's own folder cannot be written (no home, a read-only or full disk, another user's folder), it is a
    temporary folder that only this process and its children use and that is removed when this process ends; it links to
    the entries of the user's own folder. ``say`` is called once then. The result is None if there is no space for a
    temporary folder either.
    """
    limit = cache_limit(environment)
    try:
        root = cache_root(environment)
    except UnavailableError as error:
        return _private_folder(None, str(error), say)
    folder = root / "programs" / f"{machine()}-jaxlib-{versions('jaxlib').get('jaxlib', 'none')}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            return _private_folder(None, f"{folder}: belongs to another user, whose programs are not run", say)
        _mark(root)
        prune(root, limit)
        _probe(folder)
    except OSError as error:
        return _private_folder(folder, f"{folder}: cannot be written ({error.strerror})", say)
    return folder


def cache_size(root: Path) -> int:
    """Return the number of bytes of the entries below ``root``."""
    return sum(entry.stat().st_size for folder in root.glob("programs/*") for entry in _entries(folder))


def _is_ours(folder: Path) -> bool:
    try:
        return folder.is_dir() and folder.stat().st_uid in (os.geteuid(), 0)
    except PermissionError:
        return False


def _mark(root: Path) -> None:
    """Write a ``CACHEDIR.TAG``, which tells backup programs and readers that the files can be made again."""
    tag = root / "CACHEDIR.TAG"
    if not tag.exists():
        tag.write_text(
            "Signature: 8a477f597d28d172789f06886806bc55\n"
            "# Programs that chainsweep has compiled; they may be removed at any time.\n"
        )


def _probe(folder: Path) -> None:
    probe = folder / f".{os.getpid()}-{secrets.token_hex(4)}.new"
    try:
        with probe.open("wb") as handle:
            handle.write(bytes(PROBE_BYTES))
            os.fsync(handle.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _private_folder(readable: Path | None, why: str, say: Say) -> Path | None:
    """Make a temporary folder with links to the entries of ``readable``."""
    advice = f"name one that can in {CACHE_VARIABLE}, or in the site file (cache)"
    try:
        private = Path(tempfile.mkdtemp(prefix="chainsweep-programs-"))
    except OSError as error:
        say(f"{why}, nor a temporary one ({error.strerror}): compiled programs are not kept; {advice}")
        return None
    atexit.register(_remove, private, os.getpid())
    for entry in _entries(readable) if readable is not None and _is_ours(readable) else ():
        (private / entry.name).symlink_to(entry.path)
    say(f"{why}: compiled programs are kept in {private} until this process ends; {advice}")
    return private


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def prune(root: Path, limit: float) -> None:
    """Remove the least recently used entries until those below ``root`` take at most ``limit`` bytes.

    Nothing is done if the cache was pruned within the last hour. Other processes may read and write meanwhile.
    """
    marker, now = root / ".pruned", time.time()
    if marker.exists() and 0 <= now - marker.stat().st_mtime < PRUNE_SECONDS:
        return
    marker.touch()
    total, found = 0, []
    for folder in filter(_is_ours, (root / "programs").iterdir()):
        for entry in _entries(folder):
            with suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        for left in folder.glob(".*.new"):  # left by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if now - left.stat().st_mtime > PRUNE_SECONDS:
                    left.unlink()
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > limit:
            Path(path).unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as listed:
        yield from (entry for entry in listed if entry.name.endswith("-cache"))


class ProgramFolder:
    """A cache with JAX's interface (``get`` and ``put``) whose entries are whole or absent.

    JAX's own cache writes files in place and never rewrites one, so that a file that a killed process left half-written
    would be refused by every later process, with a warning each time.
    """

    def __init__(self, path: Path, say: Say = say_on_stderr) -> None:
        self._path = path
        self._say = say
        self._writable = True
        path.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        """Return the program of ``key``, or None; a hit counts as use and delays the removal of the entry."""
        path = self._path / f"{key}-cache"
        try:
            with path.open("rb") as handle:
                used = os.fstat(handle.fileno()).st_mtime
                program = handle.read()
        except FileNotFoundError:
            return None
        if time.time() - used > TOUCH_SECONDS:
            with suppress(OSError):  # a read-only folder is not pruned either
                os.utime(path)
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keep a program, also in place of an unreadable one; after a failure, say so and keep no more programs."""
        if not self._writable:
            return
        temporary = self._path / f".{os.getpid()}-{secrets.token_hex(4)}.new"
        try:
            try:
                temporary.write_bytes(value)
                temporary.replace(self._path / f"{key}-cache")
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self._writable = False
            self._say(f"{self._path}: cannot be written ({error.strerror}): no more compiled programs are kept there")
