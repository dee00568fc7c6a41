"""The entry of NUTS in the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainsweep.engines.chains import DrawKind
from chainsweep.engines.entry import Engine
from chainsweep.engines.nuts.settings import NutsSettings

if TYPE_CHECKING:
    from chainsweep.model.problem import Problem


def lacks(problem: Problem) -> str | None:
    """Return what the model lacks: gradients."""
    if problem.has_jax_likelihood:
        return None
    return (
        "needs gradients: the model file must define a NumPyro model function; "
        "it gives only black-box functions (prior, log_likelihood and / or simulate). "
        "Remove 'nuts' from [policy] engines or write the model in NumPyro"
    )


NUTS = Engine(
    name="nuts",
    title="NUTS",
    kind=DrawKind.MARKOV,
    settings=NutsSettings,
    budget="draws",
    needs=("jax", "numpyro"),
    colour="#D55E00",
    text_colour="#ab4a00",
    lacks=lacks,
    uses_gradients=True,
    uses_gpu=True,
    compared=("algorithm", ("hmc", "nuts")),
)
