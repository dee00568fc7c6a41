"""The cache of compiled programs on disk: one for all campaigns of a user, with a folder for each processor and jaxlib.

Its files are JAX's, and they are machine code: a folder serves only where this user, or root, owns it. It is kept below
a size by whichever process starts, for JAX's own limit may stop all writes (jax-ml/jax#39880).
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
"""The size is looked at so seldom: of thousands of files on a network's disk, that takes seconds."""
TOUCH_SECONDS = 24 * 3600.0
PROBE_BYTES = 2**20
"""What must find room for a folder to be written to; programs have 10 to 500 kB."""
CPU_DESCRIPTION = Path("/proc/cpuinfo")
CPU_KIND = ("vendor_id", "cpu family", "model\t", "flags", "cpu implementer", "cpu part", "features")
"""Lines that decide what XLA compiles for a processor: its model chooses between instructions that several know."""

Say = Callable[[str], None]


def say_on_stderr(text: str) -> None:
    """Print a line for whoever started this process."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """A name for the kind of this processor; programs compiled on another may crash here."""
    described = CPU_DESCRIPTION.read_text(encoding="utf-8") if CPU_DESCRIPTION.exists() else ""
    first = described.split("\n\n")[0].splitlines()
    kind = "\n".join(line for line in first if line.lower().startswith(CPU_KIND))
    return f"{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"


def cache_root(environment: Mapping[str, str]) -> Path:
    """The cache of whoever ``environment`` belongs to; nothing is made there.

    Raises
    ------
    UnavailableError
        No variable names it, and this user has no home.
    """
    if named := environment.get(CACHE_VARIABLE):
        return Path(named).absolute()
    shared = Path(environment.get("XDG_CACHE_HOME", ""))
    # The XDG specification wants a path that is not absolute to be ignored.
    if shared.is_absolute():
        return shared / "chainsweep"
    try:
        return Path.home() / ".cache" / "chainsweep"
    except RuntimeError as error:
        raise UnavailableError("no folder for compiled programs: this user has no home") from error


def cache_limit(environment: Mapping[str, str]) -> float:
    """Bytes that the cache may take.

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
    """A folder for this processor's programs that can be written, the cache pruned before.

    Where the user's own cannot be written (no home, a read-only or full disk, another's folder), it is a temporary one
    that only this process and its children use, removed as this process ends; its own entries are readable there too.
    ``say`` is told so, once. None where there is no room for that one either.
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
    """Bytes that the entries below ``root`` take."""
    return sum(entry.stat().st_size for folder in root.glob("programs/*") for entry in _entries(folder))


def _is_ours(folder: Path) -> bool:
    try:
        return folder.is_dir() and folder.stat().st_uid in (os.geteuid(), 0)
    except PermissionError:
        return False


def _mark(root: Path) -> None:
    """Tell backups, and people, that nothing here is needed."""
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
    """A temporary folder, with links to the entries of ``readable``."""
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
    """Remove the entries that have not been used for longest, until those below ``root`` take ``limit`` bytes at most.

    Nothing is done when that was done within the last hour. Other processes may read and write meanwhile.
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
        for left in folder.glob(".*.new"):  # of a process that was killed while it wrote
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
    """JAX's cache (its interface: ``get`` and ``put``) whose entries are whole or not there.

    JAX writes in place, and never again where a file is: what a killed process left half-written would be refused by
    every process after it, with a warning each time.
    """

    def __init__(self, path: Path, say: Say = say_on_stderr) -> None:
        self._path = path
        self._say = say
        self._writable = True
        path.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        """The program of ``key``, or None; a hit counts as use, which is what keeps an entry."""
        path = self._path / f"{key}-cache"
        try:
            with path.open("rb") as handle:
                used = os.fstat(handle.fileno()).st_mtime
                program = handle.read()
        except FileNotFoundError:
            return None
        if time.time() - used > TOUCH_SECONDS:
            with suppress(OSError):  # a read-only folder: nobody prunes it either
                os.utime(path)
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keep a program, also in place of one that could not be read; once that fails, say so and keep no more."""
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
