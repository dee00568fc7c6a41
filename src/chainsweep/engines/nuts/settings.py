"""The settings of NUTS, ``[engines.nuts]`` of ``campaign.toml``; every default is defined here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chainsweep.config.toml import Section


class NutsTuning(Section):
    """``[engines.nuts.tuning]``: nothing in here is needed to get right answers; the defaults were measured, or are
    chosen by the program."""

    hmc_steps: Annotated[int, Field(ge=1, le=64)] = 3
    """The number of leapfrog steps of one HMC transition."""
    jumps: Annotated[int, Field(ge=0, le=64)] = 16
    """The number of independence Metropolis steps after each transition, proposed by importance sampling."""
    lanes: Annotated[int, Field(ge=1)] | None = None
    """The number of data sets that are advanced together; by default 32, on a GPU as many as half its memory holds."""
    target_accept: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.9
    """The acceptance rate that the step size is adapted to."""
    max_tree_depth: Annotated[int, Field(ge=2, le=12)] = 8
    """The largest depth of a NUTS tree: at most ``2**max_tree_depth`` leapfrog steps."""
    dense_mass: bool = True
    """``true`` for a dense mass matrix, ``false`` for a diagonal one."""
    attempts: Annotated[int, Field(ge=1, le=6)] = 4
    """The largest number of attempts at a data set. If its diagnostics fail, it is run again, for longer, and uses what
    its earlier chains learnt."""
    block: Annotated[int, Field(ge=10)] = 50
    """The number of iterations of one compiled call. Between two calls state is saved, and finished data sets make room
    for waiting ones."""
    prior_draws: Annotated[int, Field(ge=64)] = 4096
    """The number of prior draws of a data set among which the starting points of its chains are chosen."""
    descents: Annotated[int, Field(ge=1)] = 12
    """The number of optimiser runs per data set that look for modes, started from likely prior draws."""


class NutsSettings(Section):
    """``[engines.nuts]``: several chains per data set, many data sets in one program."""

    algorithm: Literal["auto", "nuts", "hmc"] = "auto"
    """The sampler: NUTS, or HMC with a few jittered leapfrog steps. ``auto`` is HMC for data sets that
    importance sampling guides, and NUTS for the others."""
    precision: Literal["auto", "float32", "float64"] = "auto"
    """The precision of the chains; ``auto`` is float32 on GPUs and float64 elsewhere. Data sets for which float32
    is too coarse are always sampled in float64."""
    chains: Annotated[int, Field(ge=2)] = 4
    """The number of chains of a data set."""
    warmup: Annotated[int, Field(ge=50)] = 500
    """The number of warm-up iterations of a chain; a chain that importance sampling guides takes 50."""
    draws: Annotated[int, Field(ge=50)] = 1000
    """The largest number of draws of a chain in one attempt; a data set stops earlier when its draws suffice."""
    starts_from: str | None = None
    """The folder of a merged campaign with SNPE draws of the same data sets, from which the chains start; ``init``
    copies the draws."""
    tuning: NutsTuning = NutsTuning()
    """The settings that change how fast an answer comes."""
