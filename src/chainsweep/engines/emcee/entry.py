"""The entry of emcee in the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainsweep.engines.chains import DrawKind
from chainsweep.engines.emcee.settings import EmceeSettings
from chainsweep.engines.entry import Engine

if TYPE_CHECKING:
    from chainsweep.model.problem import Problem


def lacks(problem: Problem) -> str | None:
    """Return what the model lacks: a log density, or a space that walkers can move in."""
    if not problem.has_likelihood:
        return (
            "needs a log density: the model file defines no function "
            "'log_likelihood(params, **fields)'. Add it, or remove 'emcee' from [policy] engines"
        )
    if problem.black_box and problem.ndim != problem.ndim_unconstrained:
        return (
            "moves walkers in the space that a black box is called in, and a parameter of this "
            "model lives on a surface in it (a simplex or a correlation matrix). Give its free parameters in "
            "'prior', and make the simplex or matrix of them in 'log_likelihood'"
        )
    return None


EMCEE = Engine(
    name="emcee",
    title="emcee",
    kind=DrawKind.ENSEMBLE,
    settings=EmceeSettings,
    budget="max_steps",
    needs=("jax", "numpyro", "emcee"),
    colour="#0072B2",
    text_colour="#005c91",
    lacks=lacks,
    shares_ranks=True,
)
