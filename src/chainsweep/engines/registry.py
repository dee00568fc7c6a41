"""The engines by name. A new engine needs a folder of its own and one line in ``ENGINES``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from chainsweep.engines.base import DrawKind


@dataclass(frozen=True)
class Engine:
    """The module of an engine, the packages that it imports, and the kind of its draws."""

    module: str
    needs: tuple[str, ...]
    kind: DrawKind

    def load(self) -> ModuleType:
        """Import the engine; it has ``Settings`` and ``run``."""
        return import_module(self.module)


ENGINES = {
    name: Engine(f"chainsweep.engines.{name}.engine", needs, kind)
    for name, needs, kind in (
        ("emcee", ("jax", "numpyro", "emcee"), DrawKind.ENSEMBLE),
        ("nuts", ("jax", "numpyro"), DrawKind.MARKOV),
        ("snpe", ("jax", "numpyro", "torch", "sbi", "safetensors"), DrawKind.WEIGHTED),
    )
}
