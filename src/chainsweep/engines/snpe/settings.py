"""The settings of SNPE, ``[engines.snpe]`` of ``campaign.toml``; every default is defined here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chainsweep.config.toml import Section

Estimator = Literal["nsf", "maf", "nice", "bpf"]


class SnpeTuning(Section):
    """``[engines.snpe.tuning]``: nothing in here is needed to get right answers; the defaults were measured, or are
    chosen by the program."""

    round_steps: Annotated[int, Field(ge=10)] = 600
    """The number of training steps of one round of ``mode = "sequential"``."""
    batch: Annotated[int, Field(ge=16)] = 512
    """The number of simulations of one training step."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    """The peak of the learning rate, which rises at first and then decays to zero."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The relative width by which copies of the campaign's designs (errors, coordinates, constants) differ from them,
    within the range that the campaign spans. Copies are made when the campaign has few designs; 0 makes none."""
    stop_after: Annotated[int, Field(ge=1)] | None = None
    """Training ends early when the held-out loss has not fallen for this number of checks; a whole training has 20
    checks. By default training does not end early."""
    autoregressive: bool = False
    """``true`` makes the flow condition each parameter on all before it, instead of coupling two halves. Draws then
    take one pass per parameter. Not available with ``nice``."""
    points: Literal["deep_set", "attention"] = "deep_set"
    """The pooling of the points of a data set: ``deep_set`` embeds each point separately; ``attention`` first applies
    two layers in which the points attend to each other, whose time grows with the square of the number of points."""
    mixed_precision: bool = False
    """``true`` makes the embedding compute in bfloat16 during training. This helps on GPUs; a CPU becomes slower."""
    transforms: Annotated[int, Field(ge=1)] = 6
    """The number of transforms of the flow."""
    hidden: Annotated[int, Field(ge=8)] = 128
    """The number of units of a hidden layer of the flow."""
    embedding: Annotated[int, Field(ge=4)] = 48
    """The length of the summary vector that the network makes of a data set."""
    grid: Annotated[int, Field(ge=4, le=512)] = 32
    """The number of grid nodes per coordinate onto which the points of a data set are pooled."""
    simulations_per_task: Annotated[int, Field(ge=500, multiple_of=500)] = 2_000
    """The number of simulations that one task of the ``simulate`` stage makes; it changes no simulation."""
    adaptive_rounds: Annotated[int, Field(ge=0)] = 12
    """The largest number of rounds of adaptive importance sampling, for data sets for which the importance weights of
    the network's draws do not suffice."""


class SnpeSettings(Section):
    """``[engines.snpe]``: one conditional flow for all data sets, then exact importance weights."""

    mode: Literal["amortised", "sequential"] = "amortised"
    """``amortised`` trains one network for all data sets, ``sequential`` one network for each data set, in rounds of
    simulations."""
    model: str | None = None
    """The folder of a campaign whose trained network is used here, or the folder of one network in its ``models``;
    ``init`` copies the network. Nothing is trained. Data sets outside the range that the network was trained for are
    ``failed``, with the reason."""
    rounds: Annotated[int, Field(ge=2)] = 4
    """The number of rounds of ``mode = "sequential"``."""
    simulations_per_round: Annotated[int, Field(ge=200)] = 5_000
    """The number of simulations of one round of ``mode = "sequential"``."""
    train_minutes: Annotated[float, Field(gt=0)] | None = None
    """The wall time after which training ends, in minutes. Draws are reproducible only if ``train_steps`` ends the
    training instead."""
    train_steps: Annotated[int, Field(ge=10)] = 1_500
    """The number of training steps."""
    estimator: Estimator = "nsf"
    """The density estimator of sbi: neural spline flow, masked autoregressive flow (affine), NICE, or Bernstein
    polynomial flow. Draws of the last take 20 times as long, because they need bisection."""
    ensemble: Annotated[int, Field(ge=1, le=64)] = 1
    """The number of networks, each trained by a separate task; the draws of every data set are divided among them."""
    bank_simulations: Annotated[int, Field(ge=500)] = 20_000
    """The number of simulations of a black-box model, which are made once. A NumPyro model makes new simulations for
    every training step."""
    draws: Annotated[int, Field(ge=100)] = 4_000
    """The number of draws from the proposal, per data set and round of importance sampling."""
    tuning: SnpeTuning = SnpeTuning()
    """The settings that change how fast an answer comes."""

    @model_validator(mode="after")
    def _consistent(self) -> SnpeSettings:
        if self.tuning.autoregressive and self.estimator == "nice":
            raise ValueError("estimator 'nice' has no autoregressive form; use 'nsf', 'maf' or 'bpf'")
        if self.ensemble > 1 and self.mode == "sequential":
            raise ValueError("an ensemble is of mode 'amortised'; sequential rounds train one network")
        return self
