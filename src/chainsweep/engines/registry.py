"""Engines by name. Adding one is its own file and one line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from chainsweep.engines.base import DrawKind


@dataclass(frozen=True)
class Engine:
    """Where an engine lives and which packages it imports."""

    module: str
    needs: tuple[str, ...]
    kind: DrawKind

    def load(self) -> ModuleType:
        """Import the engine; it has ``Settings``, ``State``, ``Info`` and ``run``."""
        return import_module(self.module)


ENGINES = {
    name: Engine(f"chainsweep.engines.{name}.engine", needs, kind)
    for name, needs, kind in (
        ("emcee", ("jax", "numpyro", "emcee"), DrawKind.ENSEMBLE),
        ("nuts", ("jax", "numpyro"), DrawKind.MARKOV),
        ("snpe", ("jax", "numpyro", "torch", "sbi", "safetensors"), DrawKind.WEIGHTED),
    )
}
