"""Planted faults: single changes of the maths and of the judging, each of which some test must see.

``mutants.toml`` lists them, ``make mutants`` tries them. A change of the source may take the text of a mutant away;
``tests/unit/test_mutants.py`` says so, and the mutant is then written again or removed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src"
LIST = Path(__file__).with_name("mutants.toml")


@dataclass(frozen=True)
class Mutant:
    """A fault: in ``file`` below ``src/chainsweep``, ``old`` becomes ``new``, and one of ``tests`` must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """The place and the change, in one line."""
        return f"{self.file}: {self.old.strip()} -> {self.new.strip()}"

    def path(self, source: Path = SOURCE) -> Path:
        """The mutated file below the folder ``source``."""
        return source / "chainsweep" / self.file

    def plant(self, source: Path) -> None:
        """Write the fault into the copy ``source`` of the folder ``src``."""
        path = self.path(source)
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")


def load(path: Path = LIST) -> list[Mutant]:
    """Return the mutants of the list."""
    with path.open("rb") as file:
        rooms = tomllib.load(file)["file"]
    return [
        Mutant(room["name"], item["old"], item["new"], tuple(item.get("tests", room.get("tests", ()))))
        for room in rooms
        for item in room["mutant"]
    ]


def stale(mutants: Sequence[Mutant], source: Path = SOURCE) -> list[str]:
    """Return the names of the mutants whose text is not exactly once in its file, with the count."""
    wrong = []
    for mutant in mutants:
        path = mutant.path(source)
        count = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
        if count != 1 or mutant.new == mutant.old:
            wrong.append(f"{mutant.name} (its text is {count} times in the file)")
    return wrong
