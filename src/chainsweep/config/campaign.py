"""``campaign.toml`` as typed, frozen values; the one home of every default.

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

RHAT, ESS, DIVERGENCES, KHAT, MODE_SHIFT = 1.01, 400.0, 0, 0.7, 0.2
"""Thresholds: R-hat below, effective sample size above, divergent draws at most, Pareto k-hat below,
shift of a mean in posterior sd that mass outside the chains may cause."""
MASS_OUTSIDE, MODE_SPREAD = 0.01, 0.25
"""Thresholds of the mode check: share of the mass where no chain went, log ratio of sds."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CampaignSection(Section):
    """``[campaign]``: what the sweep is called and the seed every other seed is derived from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "campaign"
    """The name of the sweep, in job names and on the report: letters, digits, ``_``, ``.`` and ``-``, at most 64."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """The seed that every other seed is derived from."""


class ModelSection(Section):
    """``[model]``: the file and function of the model, and what the plots draw of it."""

    file: str
    """The model file, relative to ``campaign.toml``."""
    function: Identifier = "model"
    """The function in that file which is the model."""
    observed: Annotated[list[Identifier], Field(min_length=1)] = ["y"]
    """The arguments of the model that are observed; all others are known."""
    curve: Identifier | None = None
    """The ``numpyro.deterministic`` site, one value a point, that the plots draw over the data."""
    x: Identifier | None = None
    """The field that the plots have on their horizontal axis."""
    call_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """The longest that one call of a black box's function may take, in seconds; its data set has failed then. By
    default there is no limit: no number suits every function, and each call would have to be made in another
    process, which can be ended."""


class DataSection(Section):
    """``[data]``: where data sets come from and how their columns map to model arguments."""

    source: str | None = None
    """The folder or file of the data, relative to ``campaign.toml``."""
    format: Literal["auto", "csv", "npz", "hdf5", "parquet", "fits"] = "auto"
    """The format of the source; ``auto`` tells it by the name."""
    manifest: str | None = None
    """A CSV table with a row a data set: ``id``, ``file``, and constants; relative to the source."""
    fields: dict[Identifier, str] = {}
    """Model argument to column or array; ``init`` adds the arguments that are left out, each under its own name."""
    constants: list[Identifier] = []
    """The model arguments that are one number or vector a data set."""
    positive: list[Identifier] | None = None
    """Fields that must be > 0 at every point; by default those whose name ends in ``_err``."""
    min_points: Annotated[int, Field(ge=1)] = 3
    """The fewest points of a data set that is not set aside."""

    @property
    def positive_fields(self) -> tuple[str, ...]:
        """Fields that must be positive at every point."""
        if self.positive is not None:
            return tuple(self.positive)
        return tuple(name for name in self.fields if name.endswith("_err"))


class PolicySection(Section):
    """``[policy]``: which engines see which data sets. ``compare`` runs each engine on each data set."""

    mode: Literal["compare"] = "compare"
    """``compare`` runs each engine on each data set; there is no other mode yet."""
    engines: Annotated[list[EngineName], Field(min_length=1)] = ["emcee", "nuts", "snpe"]
    """The engines that run, each once."""

    @field_validator("engines")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"each engine may be named once, got {value}")
        return value


class EmceeSettings(Section):
    """``[engines.emcee]``: independent ensembles of walkers per data set, run until N > 50 tau."""

    ensembles: Annotated[int, Field(ge=2)] = 2
    """The independent ensembles of a data set, which R-hat compares."""
    walkers: Annotated[int, Field(ge=8)] | None = None
    """Walkers of one ensemble; by default ``max(32, 4 * parameters)``, always even."""
    moves: dict[Literal["stretch", "de", "snooker", "jump"], Annotated[float, Field(gt=0)]] | None = None
    """Shares of the moves. By default half the steps of a NumPyro model are jumps towards what importance sampling
    found, the others are those of a black box: differential evolution 0.6, stretch 0.3, snooker 0.1."""
    max_steps: Annotated[int, Field(ge=100)] = 20_000
    """Budget of steps of one data set, burn-in included."""
    check_every: Annotated[int, Field(ge=10)] = 100
    """Steps of one block: data sets enter and leave, and state is saved, after each."""
    tau_factor: Annotated[float, Field(ge=10)] = 50.0
    """A chain is long enough when its kept steps exceed this number of autocorrelation times."""
    target_rhat: Annotated[float, Field(gt=1.0)] = RHAT
    """Steps go on until R-hat between the ensembles is below this; by default ``[verdict] rhat``."""
    target_ess: Annotated[float, Field(gt=0)] = ESS
    """Steps go on until every parameter's effective sample size exceeds this; by default ``[verdict] ess``."""
    stack: Annotated[int, Field(ge=1)] = 256
    """Data sets whose ensembles are advanced together; where one is done, a waiting one enters. Changes no draw."""
    max_draws_per_chain: Annotated[int, Field(ge=100)] = 2000
    """Draws handed on of one ensemble (kept steps times walkers); more are thinned away."""
    prior_draws: Annotated[int, Field(ge=64)] = 4096
    """Prior draws of one data set, shared out over its ensembles, that walkers start from."""
    spread: Literal["auto", "datasets", "walkers"] = "auto"
    """What MPI ranks share out: data sets (cheap likelihoods), or the walkers of each data set (costly ones)."""


class NutsSettings(Section):
    """``[engines.nuts]``: several chains per data set, many data sets in one program."""

    algorithm: Literal["auto", "nuts", "hmc"] = "auto"
    """HMC takes ``hmc_steps`` jittered leapfrog steps. ``auto``: HMC where importance sampling guides it, else NUTS."""
    hmc_steps: Annotated[int, Field(ge=1, le=64)] = 3
    """The leapfrog steps of one HMC transition."""
    jumps: Annotated[int, Field(ge=0, le=64)] = 16
    """The independence Metropolis steps after each transition, towards what importance sampling found."""
    lanes: Annotated[int, Field(ge=1)] | None = None
    """Data sets that are advanced together; by default 32, on a GPU as many as half its memory holds."""
    precision: Literal["auto", "float32", "float64"] = "auto"
    """The precision of the chains; ``auto`` is float32 on GPUs and float64 elsewhere. Data sets for which float32
    is too coarse are always sampled in float64."""
    chains: Annotated[int, Field(ge=2)] = 4
    """The chains of a data set."""
    warmup: Annotated[int, Field(ge=50)] = 500
    """The iterations of warm-up of a chain that nothing guides; a guided one takes 50."""
    draws: Annotated[int, Field(ge=50)] = 1000
    """The largest number of draws of a chain in one attempt; a data set leaves earlier when its draws suffice."""
    target_accept: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.9
    """The acceptance rate that the step size is adapted to."""
    max_tree_depth: Annotated[int, Field(ge=2, le=12)] = 8
    """The largest depth of a NUTS tree: at most ``2**max_tree_depth`` leapfrog steps."""
    dense_mass: bool = True
    """A dense metric; otherwise a diagonal one."""
    attempts: Annotated[int, Field(ge=1, le=6)] = 4
    """The most attempts at a data set: where its diagnostics fail it is run again, longer, with what its chains
    learnt."""
    block: Annotated[int, Field(ge=10)] = 50
    """Iterations of one compiled call: between two, data sets leave and enter lanes and state is saved."""
    starts_from: str | None = None
    """Folder of a merged campaign whose SNPE draws of the same data sets chains start from; frozen by ``init``."""
    prior_draws: Annotated[int, Field(ge=64)] = 4096
    """The prior draws of a data set among which its starts are chosen."""
    descents: Annotated[int, Field(ge=1)] = 12
    """Optimiser descents per data set, started from likely prior draws."""
    target_rhat: Annotated[float, Field(gt=1.0)] = RHAT
    """A data set is run again until R-hat is below this; by default ``[verdict] rhat``."""
    target_ess: Annotated[float, Field(gt=0)] = ESS
    """A data set is run again until its effective sample sizes exceed this; by default ``[verdict] ess``."""
    target_divergences: Annotated[int, Field(ge=0)] = DIVERGENCES
    """A data set is run again until it has at most this number of divergences; by default ``[verdict]
    divergences``."""


Estimator = Literal["nsf", "maf", "nice", "bpf"]


class SnpeSettings(Section):
    """``[engines.snpe]``: one conditional flow for all data sets, then exact importance weights."""

    mode: Literal["amortised", "sequential"] = "amortised"
    """One network for all data sets, or rounds of simulations for each data set by itself."""
    model: str | None = None
    """Folder of a campaign whose trained network serves this one, or of one network in its ``models``; frozen by
    ``init``. Nothing is trained; data sets that it was not trained for are ``failed`` and say why."""
    rounds: Annotated[int, Field(ge=2)] = 4
    """Rounds of ``mode = "sequential"``."""
    simulations_per_round: Annotated[int, Field(ge=200)] = 5_000
    """Simulations of one round of ``mode = "sequential"``."""
    round_steps: Annotated[int, Field(ge=10)] = 600
    """Training steps of one round of ``mode = "sequential"``."""
    train_minutes: Annotated[float, Field(gt=0)] | None = None
    """The wall time after which training ends. Reproducible draws need ``train_steps`` to end it instead."""
    train_steps: Annotated[int, Field(ge=10)] = 1_500
    """The steps of training."""
    batch: Annotated[int, Field(ge=16)] = 512
    """The simulations of one step of training."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    """Peak of the learning rate, which rises at first and decays to nothing."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The relative width by which copies of a campaign's few designs differ (errors, coordinates, constants),
    within the range that it spans; 0: no copies."""
    stop_after: Annotated[int, Field(ge=1)] | None = None
    """The number of looks, of 20, for which the held-out loss has not fallen when training ends early."""
    estimator: Estimator = "nsf"
    """sbi's density estimator: neural spline flow, masked autoregressive flow (affine), NICE, or Bernstein polynomial
    flow. Draws of the last take 20 times as long, by bisection."""
    autoregressive: bool = False
    """Each parameter given all before it, in place of couplings of two halves: draws take a pass a parameter; not with
    ``nice``."""
    points: Literal["deep_set", "attention"] = "deep_set"
    """How points of a data set are pooled: each by itself, or after two layers in which they attend to each other (time
    grows with the square of their number)."""
    mixed_precision: bool = False
    """While training, the embedding computes in bfloat16; for GPUs, a CPU is slower with it."""
    ensemble: Annotated[int, Field(ge=1, le=64)] = 1
    """Networks, each trained by a task of its own, that share out the draws of every data set."""
    transforms: Annotated[int, Field(ge=1)] = 6
    """The transforms of the flow."""
    hidden: Annotated[int, Field(ge=8)] = 128
    """The units of a hidden layer of the flow."""
    embedding: Annotated[int, Field(ge=4)] = 48
    """The length of the summary of a data set."""
    grid: Annotated[int, Field(ge=4, le=512)] = 32
    """Nodes per coordinate onto which the points of a data set are pooled."""
    bank_simulations: Annotated[int, Field(ge=500)] = 20_000
    """Simulations of a black-box model, made once; a NumPyro model gives fresh ones for every step."""
    simulations_per_task: Annotated[int, Field(ge=500, multiple_of=500)] = 2_000
    """The simulations that one task of the ``simulate`` stage makes; the number changes none of them."""
    draws: Annotated[int, Field(ge=100)] = 4_000
    """Draws of the proposal per data set and round of importance sampling."""
    adaptive_rounds: Annotated[int, Field(ge=0)] = 12
    """Most rounds of adaptive importance sampling where the network's own weights do not suffice."""
    checkpoint_steps: Annotated[int, Field(ge=10)] = 50
    """The steps of training after which its state is saved."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of training; fixed by the campaign because the number changes the last bits of a sum."""
    target_ess: Annotated[float, Field(gt=0)] = ESS
    """The weighted draws of a data set are adapted until their effective sample size exceeds this; by default
    ``[verdict] ess``."""
    target_khat: Annotated[float, Field(gt=0)] = KHAT
    """The weighted draws of a data set are adapted until their k-hat is below this; by default ``[verdict] khat``."""

    @model_validator(mode="after")
    def _consistent(self) -> SnpeSettings:
        if self.autoregressive and self.estimator == "nice":
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
    """``[verdict]``: the thresholds a data set must pass to be ``converged``."""

    rhat: Annotated[float, Field(gt=1.0)] = RHAT
    """R-hat is below this, of chains and between ensembles."""
    ess: Annotated[float, Field(gt=0)] = ESS
    """The effective sample sizes exceed this."""
    khat: Annotated[float, Field(gt=0)] = KHAT
    """Pareto k-hat of importance weights is below this."""
    divergences: Annotated[int, Field(ge=0)] = DIVERGENCES
    """The divergent draws are at most this number."""
    mode_shift: Annotated[float, Field(gt=0)] = MODE_SHIFT
    """Mode check: the largest shift of a mean, in posterior sd, that mass outside the chains may cause."""
    mass_outside: Annotated[float, Field(gt=0, lt=1)] = MASS_OUTSIDE
    """Mode check: the largest share of the posterior mass that may lie where no chain went."""
    mode_spread: Annotated[float, Field(gt=0)] = MODE_SPREAD
    """Mode check: the largest log ratio of a chain's sd and that of exactly weighted draws."""
    inconclusive: Literal["not_converged", "flag"] = "not_converged"
    """The verdict of a data set whose mode check proves nothing; ``flag`` only flags it."""
    min_ppc_pvalue: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """A data set with a posterior predictive p-value below this is flagged as misfit; its verdict stays."""
    miscalibration: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The largest distance from uniform, beyond chance, of a network's calibration figures, where there is no
    likelihood to give its draws exact weights."""
    overconfidence: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The largest share, beyond chance, by which a network's intervals may hold fewer truths than they claim; with
    more the network is not used."""
    min_ood_pvalue: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """A data set is flagged as unlike the simulations when fewer than this share of them lie as far out; without a
    likelihood it is not ``converged``."""


class StoreSection(Section):
    """``[store]``: how many draws of a data set are kept, and how."""

    max_draws: Annotated[int, Field(ge=10)] = 1000
    """The most draws of a data set and engine that are kept; more are thinned away."""
    dtype: Literal["float32", "float64"] = "float32"
    """The type of the draws in the files."""
    keep_raw: bool = False
    """Keep every draw that the engine hands on, whatever ``max_draws`` says."""


class ShardsSection(Section):
    """``[shards]``: data sets of one task, and the number of padded lengths."""

    size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """The data sets of one task; ``auto`` chooses by the number of data sets."""
    max_buckets: Annotated[int, Field(ge=1)] = 4
    """The most lengths that data sets of different lengths are padded to."""


class ReportSection(Section):
    """``[report]``: which data sets get their own figures."""

    datasets: list[str] = []
    """The ids of data sets that get figures of their own, with the first data set and the worst ones."""
    worst: Annotated[int, Field(ge=0)] = 4
    """The number of worst data sets that get figures of their own."""
    curves: Annotated[int, Field(ge=1)] = 50
    """The posterior predictive curves drawn over the points."""


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

    @model_validator(mode="after")
    def _targets_default_to_verdict(self) -> CampaignConfig:
        """An engine samples until the verdict's thresholds hold, unless its own table says otherwise."""
        targets = {f"target_{name}": value for name, value in self.verdict.model_dump().items()}
        engines = {}
        for name in EnginesSection.model_fields:
            settings = getattr(self.engines, name)
            left_open = type(settings).model_fields.keys() - settings.model_fields_set
            engines[name] = settings.model_copy(update={k: targets[k] for k in targets.keys() & left_open})
        # The model is frozen for its users; this fills it in while it is being made.
        object.__setattr__(self, "engines", EnginesSection(**engines))
        return self


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
