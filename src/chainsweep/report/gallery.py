"""Where figures become files and data URIs; the one place that knows the layout of ``report/figures``."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chainsweep.report.style import FigureFormat

_MIME = {"svg": "image/svg+xml", "png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """One figure as the page embeds it."""

    file: str
    """Relative to the report folder, with forward slashes."""
    uri: str
    alt: str
    width: int
    """CSS pixels at which text has its intended size."""
    height: int


@dataclass
class Gallery:
    """Writes the figures of one report and, when it is complete, removes those of an earlier one."""

    out_dir: Path
    written: set[Path] = field(default_factory=set)

    def add(self, figure: Figure, stem: str, alt: str, fmt: FigureFormat = "svg", dpi: int = 200) -> Picture:
        """Save ``figures/<stem>.<fmt>`` and return it ready to embed; the figure is emptied."""
        from chainsweep.report.style import figure_bytes

        path = self.out_dir / "figures" / f"{stem}.{fmt}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = figure_bytes(figure, fmt, dpi)
        width, height = (round(100 * side) for side in figure.get_size_inches())
        figure.clear()
        path.write_bytes(data)
        self.written.add(path)
        uri = f"data:{_MIME[fmt]};base64,{base64.b64encode(data).decode('ascii')}"
        return Picture(path.relative_to(self.out_dir).as_posix(), uri, alt, width, height)

    def remove_stale(self) -> None:
        """Delete figures that this report did not write, and folders that are left empty."""
        root = self.out_dir / "figures"
        for path in sorted(root.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in self.written and path.suffix[1:] in _MIME:
                path.unlink()


def dataset_folder(dataset_id: str) -> str:
    """A folder name for any id: the id itself where that is a plain name, otherwise cleaned and hashed."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", dataset_id):
        return dataset_id
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", dataset_id)[:60]
    return f"{clean}-{hashlib.sha256(dataset_id.encode()).hexdigest()[:8]}"


def figure_files(report_dir: Path, dataset_id: str) -> list[Path]:
    """The figure files of one data set, sorted by name; empty when the report drew none for it."""
    folder = report_dir / "figures" / dataset_folder(dataset_id)
    return sorted(path for path in folder.glob("*") if path.suffix[1:] in _MIME)
