"""The choice of the files of a source, and of the reader for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chainsweep.config.sections import DataSection
from chainsweep.data.raw import RawData
from chainsweep.data.readers.arrays import read_hdf5, read_npz
from chainsweep.data.readers.csv_files import read_csv_files, read_manifest_folder
from chainsweep.data.readers.fits import read_fits
from chainsweep.data.readers.parquet import read_parquet
from chainsweep.errors import DataError

SUFFIXES = {
    ".csv": "csv",
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
}
DEFAULT_MANIFEST = "manifest.csv"

Reader = Callable[[DataSection, Path], RawData]
SINGLE_FILE_READERS: dict[str, Reader] = {
    "npz": read_npz,
    "hdf5": read_hdf5,
    "parquet": read_parquet,
    "fits": read_fits,
}


@dataclass(frozen=True)
class _Selection:
    """The files of a source with their names in messages; ``folder`` is set if the source is a folder."""

    folder: Path | None
    base: Path
    files: tuple[Path, ...]


def read_source(config: DataSection, source: Path) -> RawData:
    """Read all data sets of a file, folder or glob.

    Raises
    ------
    DataError
        The source does not exist, is empty, is of unknown or mixed format, or cannot be read at all.
    """
    selection = _select(source)
    kind = config.format if config.format != "auto" else _guess(selection, source)
    if kind == "csv":
        return _read_csv(config, selection, source)
    # with an explicit format, a single file may have any suffix
    files = selection.files if selection.folder is None else _of_kind(selection.files, kind)
    if config.manifest is not None:
        raise DataError(f"{source}: [data] manifest goes with CSV folders; a {kind} source holds constants itself")
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:5]) or "none"
        raise DataError(f"{source}: expected one {kind} file, got {len(files)} ({found}); name one file")
    return SINGLE_FILE_READERS[kind](config, files[0])


def _read_csv(config: DataSection, selection: _Selection, source: Path) -> RawData:
    folder = selection.folder
    name = config.manifest
    if folder is None and name is not None:
        raise DataError(f"{source}: [data] manifest = '{name}' needs a folder as source; give the folder instead")
    if folder is not None and name is None and (folder / DEFAULT_MANIFEST).is_file():
        name = DEFAULT_MANIFEST
    if folder is not None and name is not None:
        return read_manifest_folder(config, folder, name)
    files = selection.files if folder is None else _of_kind(selection.files, "csv")
    if not files:
        raise DataError(f"{source}: the folder has no .csv file")
    return read_csv_files(config, files, selection.base, source)


def _select(source: Path) -> _Selection:
    if source.is_dir():
        files = tuple(sorted(path for path in source.iterdir() if path.is_file() and path.name[0] != "."))
        if not files:
            raise DataError(f"{source}: the folder is empty")
        return _Selection(source, source, files)
    if source.exists():
        return _Selection(None, source.parent, (source,))
    if not any(character in str(source) for character in "*?["):
        raise DataError(f"{source}: does not exist; [data] source or --data must name a file, folder or glob")
    return _expand(source)


def _expand(source: Path) -> _Selection:
    """Return the files of a glob, sorted; brackets in the names of existing folders are not taken for a pattern."""
    base = next(parent for parent in source.parents if parent.is_dir())
    files = tuple(sorted(path for path in base.glob(str(source.relative_to(base))) if path.is_file()))
    if not files:
        raise DataError(f"{source}: the glob matches no file")
    return _Selection(None, base, files)


def _kind_of(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _of_kind(files: tuple[Path, ...], kind: str) -> tuple[Path, ...]:
    return tuple(path for path in files if _kind_of(path) == kind)


def _guess(selection: _Selection, source: Path) -> str:
    kinds = {_kind_of(path) for path in selection.files} - ({None} if selection.folder is not None else set())
    if len(kinds) == 1 and (kind := kinds.pop()) is not None:
        return kind
    if selection.folder is not None and "csv" in kinds and (selection.folder / DEFAULT_MANIFEST).is_file():
        return "csv"
    found = ", ".join(sorted({path.suffix or path.name for path in selection.files})[:8])
    raise DataError(
        f"{source}: the format cannot be told from the file names (found {found}); expected one kind of "
        f"{', '.join(SUFFIXES)}, or set [data] format"
    )
