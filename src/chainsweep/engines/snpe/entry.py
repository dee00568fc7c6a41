"""The entry of SNPE in the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainsweep.engines.chains import DrawKind
from chainsweep.engines.entry import Engine, Library
from chainsweep.engines.snpe.settings import SnpeSettings

if TYPE_CHECKING:
    from chainsweep.model.problem import Problem


def lacks(problem: Problem) -> str | None:
    """Return what the model lacks: simulations."""
    if problem.structure.no_simulator:
        return f"needs simulations: {problem.structure.no_simulator}. Or remove 'snpe' from [policy] engines"
    if not problem.has_simulator:
        return (
            "needs simulations: the model file defines no function "
            "'simulate(params, rng, **design)'. Add it, or remove 'snpe' from [policy] engines"
        )
    return None


SNPE = Engine(
    name="snpe",
    title="SNPE",
    kind=DrawKind.WEIGHTED,
    settings=SnpeSettings,
    budget="draws",
    needs=("jax", "numpyro", "torch", "sbi", "safetensors"),
    colour="#009E73",
    text_colour="#00704f",
    lacks=lacks,
    library=Library.TORCH,
    uses_gpu=True,
    trains=True,
)
