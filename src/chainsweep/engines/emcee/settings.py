"""The settings of emcee, ``[engines.emcee]`` of ``campaign.toml``; every default is defined here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chainsweep.config.toml import Section


class EmceeTuning(Section):
    """``[engines.emcee.tuning]``: nothing in here is needed to get right answers; the defaults were measured, or are
    chosen by the program."""

    moves: dict[Literal["stretch", "de", "snooker", "jump"], Annotated[float, Field(gt=0)]] | None = None
    """The shares of the kinds of moves. By default a black-box model has differential evolution 0.6, stretch 0.3 and
    snooker 0.1. A NumPyro model has these in half of its steps, and in the other half independence Metropolis
    steps (`jump`), proposed by importance sampling."""
    check_every: Annotated[int, Field(ge=10)] = 100
    """The number of steps of one block. Between two blocks convergence is checked, state is saved, and finished data
    sets make room for waiting ones."""
    stack: Annotated[int, Field(ge=1)] = 256
    """The number of data sets whose ensembles are advanced together; when one is done, a waiting one takes its place.
    The number changes no draw."""


class EmceeSettings(Section):
    """``[engines.emcee]``: independent ensembles of walkers per data set, run until they meet ``[verdict]``."""

    ensembles: Annotated[int, Field(ge=2)] = 2
    """The number of independent ensembles of a data set, which R-hat compares."""
    walkers: Annotated[int, Field(ge=8)] | None = None
    """The number of walkers of one ensemble; by default ``max(32, 4 * parameters)``; always even."""
    max_steps: Annotated[int, Field(ge=100)] = 20_000
    """The largest number of steps of one data set, burn-in included."""
    prior_draws: Annotated[int, Field(ge=64)] = 4096
    """The number of prior draws of one data set that its walkers start from, divided among its ensembles."""
    spread: Literal["auto", "datasets", "walkers"] = "auto"
    """The work that MPI ranks share: ``datasets`` suits cheap likelihoods, ``walkers`` of each data set costly ones.
    ``auto`` chooses by the time that one call of the likelihood takes."""
    tuning: EmceeTuning = EmceeTuning()
    """The settings that change how fast an answer comes."""
