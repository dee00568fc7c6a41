"""The entry of an engine in the registry: all that the other rooms need to know of it, without its libraries."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from chainsweep.config.toml import Section
from chainsweep.engines.chains import DrawKind
from chainsweep.errors import ModelError

if TYPE_CHECKING:
    from chainsweep.model.problem import Problem


class Library(enum.StrEnum):
    """The library that an engine computes with, which decides how it finds a GPU."""

    JAX = "JAX"
    TORCH = "torch"


def serves_all(problem: Problem) -> None:
    """Return None: an engine with this requirement serves every model."""


@dataclass(frozen=True)
class Engine:
    """All that is particular to an engine outside its folder ``chainsweep.engines.NAME``.

    The module ``engine`` in that folder has the function ``run`` of ``chainsweep.engines.base``.
    """

    name: str
    title: str
    """The engine in a sentence, such as the title of its jobs."""
    kind: DrawKind
    settings: type[Section]
    """``[engines.NAME]`` of ``campaign.toml``."""
    needs: tuple[str, ...]
    """The packages that it imports; pip installs them with the extra of the engine's name."""
    colour: str
    """The colour of its curves in figures, ``#rrggbb``."""
    text_colour: str
    """A darker colour of the same hue, which is readable as text on white."""
    budget: str = ""
    """The key of the settings that allows more draws, told where they do not suffice."""
    lacks: Callable[[Problem], str | None] = serves_all
    """The function that returns what a model lacks for this engine, as the end of a sentence, or None."""
    library: Library = Library.JAX
    uses_gradients: bool = False
    """True if it moves by gradients, so that a gradient that is not a number is told at ``init``."""
    uses_gpu: bool = False
    """True if it computes on a GPU where there is one; other engines leave it alone."""
    shares_ranks: bool = False
    """True if the MPI ranks of one job share its work; other engines have one process per job."""
    trains: bool = False
    """True if it trains a network for the campaign first, in the stages ``simulate`` and ``train``. At most one engine
    of a campaign may. Its ``engine`` has ``train``, ``join`` and ``calibrate`` as well, its ``bank`` ``simulate``."""
    compared: tuple[str, tuple[str, ...]] | None = None
    """A key of the settings, and its values that a pilot compares where the key is ``auto``."""

    def part(self, module: str) -> ModuleType:
        """Import a module of the engine's folder."""
        return import_module(f"chainsweep.engines.{self.name}.{module}")

    def load(self) -> ModuleType:
        """Import the module that has ``run``."""
        return self.part("engine")

    def require(self, problem: Problem) -> None:
        """Raise ModelError, naming what is missing, if the engine cannot serve this model."""
        lack = self.lacks(problem)
        if lack is not None:
            raise ModelError(f"engine '{self.name}' {lack}")
