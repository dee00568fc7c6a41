"""The tables of ``campaign.toml`` as typed, frozen values, with their defaults.

Those of engines are in the engines' folders; ``chainsweep.campaign.config`` has the whole file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from chainsweep.config.toml import Section

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
    mode_shift: Annotated[float, Field(gt=0)] = 0.2
    """Mode check: the largest shift of a mean, in posterior sd, that mass outside the chains may cause."""
    mass_outside: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Mode check: the largest share of the posterior mass that may lie where the chains have no draws."""
    mode_spread: Annotated[float, Field(gt=0)] = 0.18
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


class ModelConfig(Section):
    """The part of ``campaign.toml`` that says what is fitted to which data."""

    campaign: CampaignSection = CampaignSection()
    model: ModelSection
    data: DataSection
