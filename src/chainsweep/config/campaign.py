"""``campaign.toml`` as typed, frozen values; every default is defined here.

Everything but ``[model]`` and ``[data]`` may be left out. An unknown key is an error that names the file,
the key and the keys that are valid there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from chainsweep.config.toml import Section, read_toml, validated

EngineName = Literal["emcee", "nuts", "snpe"]
ENGINE_NAMES: tuple[str, ...] = get_args(EngineName)
Estimator = Literal["nsf", "maf", "nice", "bpf"]

MODE_SHIFT, MASS_OUTSIDE, MODE_SPREAD = 0.2, 0.01, 0.25
"""The thresholds of the mode check: the largest shift of a mean, in posterior sd, that mass outside the chains may
cause, the share of the mass where no chain has draws, and the log ratio of sds."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CampaignSection(Section):
    """``[campaign]``: the name of the sweep, and the seed that every other seed is derived from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "campaign"
    """The name of the sweep in job names and in the report: at most 64 letters, digits, ``_``, ``.`` and ``-``."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """The seed that every other seed is derived from."""


class ModelSection(Section):
    """``[model]``: the file and function of the model, and the quantities that the plots show."""

    file: str
    """The model file, relative to ``campaign.toml``."""
    function: Identifier = "model"
    """The name of the model function in that file."""
    observed: Annotated[list[Identifier], Field(min_length=1)] = ["y"]
    """The arguments of the model that are observed data; all other arguments are known quantities."""
    curve: Identifier | None = None
    """The ``numpyro.deterministic`` site that the plots draw over the data; it has one value per point."""
    x: Identifier | None = None
    """The field on the horizontal axis of the plots."""
    call_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """The time limit of one call of a black-box function, in seconds. A data set whose call takes longer fails. By
    default there is no limit, because a limit requires that each call is made in a separate process."""


class DataSection(Section):
    """``[data]``: the source of the data sets, and the arguments of the model that their columns are given to."""

    source: str | None = None
    """The folder or file of the data, relative to ``campaign.toml``."""
    format: Literal["auto", "csv", "npz", "hdf5", "parquet", "fits"] = "auto"
    """The format of the source; ``auto`` recognises it by the file name."""
    manifest: str | None = None
    """A CSV table with one row per data set: ``id``, ``file`` and the constants. Its path is relative to the source."""
    fields: dict[Identifier, str] = {}
    """The column or array that each argument of the model is read from. ``init`` adds the arguments that are left out,
    each read from the column of the same name."""
    constants: list[Identifier] = []
    """The arguments of the model that have one number or vector per data set instead of one value per point."""
    positive: list[Identifier] | None = None
    """The fields that must be > 0 at every point; by default those whose name ends in ``_err``."""
    min_points: Annotated[int, Field(ge=1)] = 3
    """The smallest number of points of a usable data set; ``init`` sets aside a data set with fewer."""

    @property
    def positive_fields(self) -> tuple[str, ...]:
        """The fields that must be positive at every point."""
        if self.positive is not None:
            return tuple(self.positive)
        return tuple(name for name in self.fields if name.endswith("_err"))


class PolicySection(Section):
    """``[policy]``: the engines that run on each data set. ``compare`` runs each engine on each data set."""

    mode: Literal["compare"] = "compare"
    """``compare`` runs each engine on each data set; there is no other mode yet."""
    engines: Annotated[list[EngineName], Field(min_length=1)] = ["emcee", "nuts", "snpe"]
    """The engines that run; each may be named once."""

    @field_validator("engines")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"each engine may be named once, got {value}")
        return value


class EmceeTuning(Section):
    """``[engines.emcee.tuning]``: nothing in here is needed to get right answers; the defaults were measured, or are
    chosen by the program."""

    moves: dict[Literal["stretch", "de", "snooker", "jump"], Annotated[float, Field(gt=0)]] | None = None
    """The shares of the kinds of moves. By default a black-box model has differential evolution 0.6, stretch 0.3 and
    snooker 0.1. A NumPyro model has these in half of its steps, and in the other half jumps proposed by importance
    sampling."""
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


class EnginesSection(Section):
    """``[engines.*]``: the settings of each engine."""

    emcee: EmceeSettings = EmceeSettings()
    nuts: NutsSettings = NutsSettings()
    snpe: SnpeSettings = SnpeSettings()


class VerdictSection(Section):
    """``[verdict]``: the thresholds a data set must pass to be ``converged``; engines sample until it does."""

    rhat: Annotated[float, Field(gt=1.0)] = 1.01
    """R-hat of every parameter must be below this, between chains and between ensembles."""
    ess: Annotated[float, Field(gt=0)] = 400.0
    """The effective sample sizes of every parameter must exceed this."""
    khat: Annotated[float, Field(gt=0)] = 0.7
    """Pareto k-hat of the importance weights must be below this."""
    divergences: Annotated[int, Field(ge=0)] = 0
    """The largest number of divergent draws."""
    tau: Annotated[float, Field(ge=10)] = 50.0
    """The number of autocorrelation times that the kept steps of an ensemble must exceed."""
    mode_shift: Annotated[float, Field(gt=0)] = MODE_SHIFT
    """Mode check: the largest shift of a mean, in posterior sd, that mass outside the chains may cause."""
    mass_outside: Annotated[float, Field(gt=0, lt=1)] = MASS_OUTSIDE
    """Mode check: the largest share of the posterior mass that may lie where the chains have no draws."""
    mode_spread: Annotated[float, Field(gt=0)] = MODE_SPREAD
    """Mode check: the largest absolute log ratio of the sd of the chains and the sd of exactly weighted draws."""
    inconclusive: Literal["not_converged", "flag"] = "not_converged"
    """The verdict of a data set whose mode check is inconclusive; ``flag`` only flags the data set."""
    min_ppc_pvalue: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """A data set with a posterior predictive p-value below this is flagged as misfit; its verdict stays."""
    miscalibration: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The largest distance, beyond chance, of a network's calibration figures from a uniform distribution. It applies
    to models without a likelihood, where the network's draws cannot be given exact weights."""
    overconfidence: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The largest amount, beyond chance, by which the share of truths inside a network's intervals may fall short of
    the nominal share. A network with a larger shortfall is not used."""
    min_ood_pvalue: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """A data set is flagged as unlike the simulations if the share of simulations that are at least as unusual is below
    this. In a model without a likelihood such a data set is not ``converged``."""


class StoreSection(Section):
    """``[store]``: the number of draws of a data set that are kept, and their type."""

    max_draws: Annotated[int, Field(ge=10)] = 1000
    """The largest number of draws of a data set and engine that are kept; more draws are thinned."""
    dtype: Literal["float32", "float64"] = "float32"
    """The floating-point type of the draws in the files."""
    keep_raw: bool = False
    """``true`` keeps every draw that the engine returns, whatever ``max_draws`` says."""


class ShardsSection(Section):
    """``[shards]``: the number of data sets of one task, and of padded lengths."""

    size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """The number of data sets of one task; ``auto`` is a sixteenth of all data sets, at least 16 and at most 256."""
    max_buckets: Annotated[int, Field(ge=1)] = 4
    """The largest number of different lengths that data sets are padded to."""


class ReportSection(Section):
    """``[report]``: the data sets that get figures of their own."""

    datasets: list[str] = []
    """The ids of data sets that get figures of their own, in addition to the first data set and the worst ones."""
    worst: Annotated[int, Field(ge=0)] = 4
    """The number of worst data sets that get figures of their own."""
    curves: Annotated[int, Field(ge=1)] = 50
    """The number of posterior predictive curves that are drawn over the points."""


class CampaignConfig(Section):
    """A whole ``campaign.toml``."""

    campaign: CampaignSection = CampaignSection()
    model: ModelSection
    data: DataSection
    policy: PolicySection = PolicySection()
    engines: EnginesSection = EnginesSection()
    verdict: VerdictSection = VerdictSection()
    store: StoreSection = StoreSection()
    shards: ShardsSection = ShardsSection()
    report: ReportSection = ReportSection()


def load_config(path: Path) -> CampaignConfig:
    """Read and validate a ``campaign.toml``.

    Raises
    ------
    ConfigError
        The file is missing, is no TOML, has an unknown key, or a value out of its range.
    """
    return parse_config(read_toml(path, "a campaign.toml"), origin=str(path))


def parse_config(raw: dict[str, Any], origin: str) -> CampaignConfig:
    """Validate an already parsed configuration; ``origin`` names it in errors."""
    return validated(CampaignConfig, raw, origin)
