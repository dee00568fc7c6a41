"""``campaign.toml`` as typed, frozen values; the one home of every default.

Everything but ``[model]`` and ``[data]`` may be left out. An unknown key is an error that names the file,
the key and the keys that are valid there.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from chainsweep.errors import ConfigError

EngineName = Literal["emcee", "nuts", "snpe"]
ENGINE_NAMES: tuple[str, ...] = get_args(EngineName)

RHAT, ESS, DIVERGENCES, KHAT, MODE_SHIFT = 1.01, 400.0, 0, 0.7, 0.2
"""Thresholds: R-hat below, effective sample size above, divergent draws at most, Pareto k-hat below,
shift of a mean in posterior sd that mass outside the chains may cause."""
MASS_OUTSIDE, MODE_SPREAD = 0.01, 0.25
"""Thresholds of the mode check: share of the mass where no chain went, log ratio of sds."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """A table of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


class CampaignSection(Section):
    """``[campaign]``: what the sweep is called and the seed every other seed is derived from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "campaign"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1


class ModelSection(Section):
    """``[model]``: the file and function of the model, and what the plots draw of it."""

    file: str
    function: Identifier = "model"
    observed: Annotated[list[Identifier], Field(min_length=1)] = ["y"]
    curve: Identifier | None = None
    x: Identifier | None = None
    call_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Longest that one call of a black box's function may take; its data set has failed then. By default there is no
    limit: no number suits every function, and each call would take the way to another process, which can be ended."""


class DataSection(Section):
    """``[data]``: where data sets come from and how their columns map to model arguments."""

    source: str | None = None
    format: Literal["auto", "csv", "npz", "hdf5", "parquet", "fits"] = "auto"
    manifest: str | None = None
    fields: dict[Identifier, str] = {}
    """Model argument to column or array; ``init`` adds the arguments that are left out, each under its own name."""
    constants: list[Identifier] = []
    positive: list[Identifier] | None = None
    """Fields that must be > 0 at every point; by default those whose name ends in ``_err``."""
    min_points: Annotated[int, Field(ge=1)] = 3

    @property
    def positive_fields(self) -> tuple[str, ...]:
        """Fields that must be positive at every point."""
        if self.positive is not None:
            return tuple(self.positive)
        return tuple(name for name in self.fields if name.endswith("_err"))


class PolicySection(Section):
    """``[policy]``: which engines see which data sets. ``compare`` runs each engine on each data set."""

    mode: Literal["compare"] = "compare"
    engines: Annotated[list[EngineName], Field(min_length=1)] = ["emcee", "nuts", "snpe"]

    @field_validator("engines")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"each engine may be named once, got {value}")
        return value


class EmceeSettings(Section):
    """``[engines.emcee]``: independent ensembles of walkers per data set, run until N > 50 tau."""

    ensembles: Annotated[int, Field(ge=2)] = 2
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
    """A chain is long enough when its kept steps exceed this many autocorrelation times."""
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
    jumps: Annotated[int, Field(ge=0, le=64)] = 16
    """Independence Metropolis steps after each transition, towards what importance sampling found; 0: none."""
    lanes: Annotated[int, Field(ge=1)] | None = None
    """Data sets that are advanced together; by default 32, on a GPU as many as half its memory holds."""
    precision: Literal["auto", "float32", "float64"] = "auto"
    """Of the chains; ``auto``: float32 on GPUs. What float32 is too coarse for is sampled in float64 all the same."""
    chains: Annotated[int, Field(ge=2)] = 4
    warmup: Annotated[int, Field(ge=50)] = 500
    draws: Annotated[int, Field(ge=50)] = 1000
    target_accept: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.9
    max_tree_depth: Annotated[int, Field(ge=2, le=12)] = 8
    dense_mass: bool = True
    attempts: Annotated[int, Field(ge=1, le=6)] = 4
    """A data set that fails its diagnostics is run again, longer, with what its chains learnt, this often at most."""
    block: Annotated[int, Field(ge=10)] = 50
    """Iterations of one compiled call: between two, data sets leave and enter lanes and state is saved."""
    starts_from: str | None = None
    """Folder of a merged campaign whose SNPE draws of the same data sets chains start from; frozen by ``init``."""
    prior_draws: Annotated[int, Field(ge=64)] = 4096
    descents: Annotated[int, Field(ge=1)] = 12
    """Optimiser descents per data set, started from likely prior draws."""
    target_rhat: Annotated[float, Field(gt=1.0)] = RHAT
    """What a data set must pass or be run again; by default the thresholds of ``[verdict]``, likewise below."""
    target_ess: Annotated[float, Field(gt=0)] = ESS
    target_divergences: Annotated[int, Field(ge=0)] = DIVERGENCES


Estimator = Literal["nsf", "maf", "nice", "bpf"]


class SnpeSettings(Section):
    """``[engines.snpe]``: one conditional flow for all data sets, then exact importance weights."""

    mode: Literal["amortised", "sequential"] = "amortised"
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
    """Stops training after this wall time. Reproducible draws need ``train_steps`` to end it instead."""
    train_steps: Annotated[int, Field(ge=10)] = 1_500
    batch: Annotated[int, Field(ge=16)] = 512
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    """Peak of the learning rate, which rises at first and decays to nothing."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Beside few designs of a campaign, copies that differ by about so much (errors, coordinates, constants), within
    the range that it spans; 0: none."""
    stop_after: Annotated[int, Field(ge=1)] | None = None
    """Ends training early, when the held-out loss has not fallen for so many of its 20 looks."""
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
    hidden: Annotated[int, Field(ge=8)] = 128
    embedding: Annotated[int, Field(ge=4)] = 48
    grid: Annotated[int, Field(ge=4, le=512)] = 32
    """Nodes per coordinate onto which the points of a data set are pooled."""
    bank_simulations: Annotated[int, Field(ge=500)] = 20_000
    """Simulations of a black-box model, made once; a NumPyro model gives fresh ones for every step."""
    simulations_per_task: Annotated[int, Field(ge=500, multiple_of=500)] = 2_000
    """Of these, what one task of the ``simulate`` stage makes; changes none of them."""
    draws: Annotated[int, Field(ge=100)] = 4_000
    """Draws of the proposal per data set and round of importance sampling."""
    adaptive_rounds: Annotated[int, Field(ge=0)] = 12
    """Most rounds of adaptive importance sampling where the network's own weights do not suffice."""
    checkpoint_steps: Annotated[int, Field(ge=10)] = 50
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of training; fixed by the campaign because the number changes the last bits of a sum."""
    target_ess: Annotated[float, Field(gt=0)] = ESS
    """What the weighted draws of a data set must pass, or be adapted; by default the thresholds of ``[verdict]``."""
    target_khat: Annotated[float, Field(gt=0)] = KHAT

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
    ess: Annotated[float, Field(gt=0)] = ESS
    khat: Annotated[float, Field(gt=0)] = KHAT
    divergences: Annotated[int, Field(ge=0)] = DIVERGENCES
    mode_shift: Annotated[float, Field(gt=0)] = MODE_SHIFT
    """Mode check: the largest shift of a mean, in posterior sd, that mass outside the chains may cause."""
    mass_outside: Annotated[float, Field(gt=0, lt=1)] = MASS_OUTSIDE
    """Mode check: the largest share of the posterior mass that may lie where no chain went."""
    mode_spread: Annotated[float, Field(gt=0)] = MODE_SPREAD
    """Mode check: the largest log ratio of a chain's sd and that of exactly weighted draws."""
    inconclusive: Literal["not_converged", "flag"] = "not_converged"
    """The verdict of a data set whose mode check proves nothing, or a flag alone."""
    min_ppc_pvalue: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Below this posterior predictive p-value a data set is flagged as misfit (its verdict stays)."""
    miscalibration: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Largest distance from uniform, beyond chance, of a network's calibration figures, where there is no likelihood
    to give its draws exact weights."""
    overconfidence: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """A network whose intervals hold fewer truths than they claim by more than this, beyond chance, is not used."""
    min_ood_pvalue: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Below this share of simulations at least as strange, a data set is flagged as unlike any of them; without a
    likelihood it is not ``converged``."""


class StoreSection(Section):
    """``[store]``: how many draws of a data set are kept, and how."""

    max_draws: Annotated[int, Field(ge=10)] = 1000
    dtype: Literal["float32", "float64"] = "float32"
    keep_raw: bool = False
    """Keep every draw that the engine hands on, whatever ``max_draws`` says."""


class ShardsSection(Section):
    """``[shards]``: data sets of one task, and the number of padded lengths."""

    size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    max_buckets: Annotated[int, Field(ge=1)] = 4


class ReportSection(Section):
    """``[report]``: which data sets get their own figures."""

    datasets: list[str] = []
    """Ids to draw; beside them come the first data set and the worst ones."""
    worst: Annotated[int, Field(ge=0)] = 4
    curves: Annotated[int, Field(ge=1)] = 50
    """Posterior predictive curves drawn over the points."""


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


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The tables of a TOML file; ``expected`` says in an error what should have been there.

    Raises
    ------
    ConfigError
        The file cannot be read, is not UTF-8, or is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def validated(kind: type[SectionT], raw: dict[str, Any], origin: str) -> SectionT:
    """``raw`` as a ``kind``; errors name ``origin``, the key and what is valid there. Raises ``ConfigError``."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(problem, kind, origin) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _explain(problem: Any, kind: type[Section], origin: str) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(kind, location[:-1])
        where = f"table [{'.'.join(location[:-1])}]" if location[:-1] else "the top level"
        return f"{origin}: unknown key '{location[-1]}' in {where}; valid keys: {', '.join(valid)}"
    if problem["type"] == "missing":
        return f"{origin}: missing key '{key}'; it has no default and must be given"
    return f"{origin}: key '{key}': {problem['msg']}, got {problem['input']!r}"


def _valid_keys(kind: type[Section], location: list[str]) -> list[str]:
    section: Any = kind
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
