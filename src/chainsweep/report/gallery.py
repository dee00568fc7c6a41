"""The figures as files and data URIs; this module alone knows the layout of ``report/figures``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from chainsweep.errors import CampaignError
from chainsweep.publish import check_below, remove_below, write_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chainsweep.report.style import FigureFormat

_MIME = {"svg": "image/svg+xml", "png": "image/png"}
LIST = "figures.json"
"""The file that lists the figures of the last report, relative to its folder; the next report may delete these."""


@dataclass(frozen=True)
class Picture:
    """One figure as the page embeds it."""

    file: str
    """The path relative to the report folder, with forward slashes."""
    data: bytes
    alt: str
    width: int
    """The width in CSS pixels at which text has its intended size."""
    height: int

    @property
    def uri(self) -> str:
        """The figure as a data URI, which the page embeds."""
        kind = _MIME[PurePosixPath(self.file).suffix[1:]]
        return f"data:{kind};base64,{base64.b64encode(self.data).decode('ascii')}"


def drawn(figure: Figure, stem: str, alt: str, fmt: FigureFormat = "svg", dpi: int = 200) -> Picture:
    """Return the picture of a figure for ``figures/<stem>.<fmt>``; nothing is written."""
    from chainsweep.report.style import figure_bytes

    data = figure_bytes(figure, fmt, dpi)
    width, height = (round(100 * side) for side in figure.get_size_inches())
    return Picture(f"figures/{stem}.{fmt}", data, alt, width, height)


@dataclass
class Gallery:
    """The writer of the figures of one report, which at the end removes figures of an earlier one.

    The folder that holds the report's is trusted; below it no link is followed.
    """

    out_dir: Path
    written: set[str] = field(default_factory=set)

    @property
    def root(self) -> Path:
        """The campaign folder, which holds the report's folder."""
        return self.out_dir.parent

    def check(self) -> None:
        """Raise ``CampaignError`` if the report would be written through a link; to be called before drawing."""
        for name in ("figures", LIST, "index.html"):
            check_below(self.root, self.out_dir / name)
        for name in self.listed():
            check_below(self.root, self.out_dir / name)

    def add(self, picture: Picture) -> Picture:
        """Write the file of a picture, and return the picture."""
        write_below(self.root, self.out_dir / picture.file, picture.data, durable=False)
        self.written.add(picture.file)
        return picture

    def listed(self) -> set[str]:
        """Return the figures that an earlier report wrote; an empty set if there is no list.

        Raises
        ------
        CampaignError
            The list is damaged, or names a file that no report writes.
        """
        path = self.out_dir / LIST
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return set()
        except ValueError as error:
            raise CampaignError(f"{path}: is not valid JSON ({error}); remove it, and run this again") from error
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_figure(name) for name in names):
            raise CampaignError(
                f"{path}: expected a list of files such as 'figures/sweep_rhat.svg', got {str(names)[:100]}; remove "
                "it, and run this again. Nothing was deleted"
            )
        return set(names)

    def remove_stale(self) -> None:
        """Delete figures that an earlier report listed and this one did not write, and folders that become empty."""
        for name in sorted(self.listed() - self.written):
            remove_below(self.root, self.out_dir / name)
        write_below(self.root, self.out_dir / LIST, (json.dumps(sorted(self.written), indent=1) + "\n").encode())


def _is_figure(name: str) -> bool:
    """Return True if a report could have written a file of this name."""
    parts = PurePosixPath(name).parts
    plain = ".." not in parts and str(PurePosixPath(name)) == name
    return plain and len(parts) in (2, 3) and parts[0] == "figures" and PurePosixPath(name).suffix[1:] in _MIME


def dataset_folder(dataset_id: str) -> str:
    """Return a folder name for any id: the id itself if that is a plain name, otherwise cleaned and hashed."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", dataset_id):
        return dataset_id
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", dataset_id)[:60]
    return f"{clean}-{hashlib.sha256(dataset_id.encode()).hexdigest()[:8]}"


def figure_files(report_dir: Path, dataset_id: str) -> list[Path]:
    """Return the figure files of one data set, sorted by name; empty if the report has none for it."""
    folder = report_dir / "figures" / dataset_folder(dataset_id)
    return sorted(path for path in folder.glob("*") if path.suffix[1:] in _MIME)
