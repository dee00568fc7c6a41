"""``campaign.toml`` as one typed, frozen value.

Everything but ``[model]`` and ``[data]`` may be left out. An unknown key is an error that names the file,
the key and the keys that are valid there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, field_validator

from chainsweep.config.sections import ModelConfig, ReportSection, ShardsSection, StoreSection, VerdictSection
from chainsweep.config.toml import Section, read_toml, validated
from chainsweep.engines.registry import DEFAULT_ENGINES, ENGINES

if TYPE_CHECKING:
    EngineName = str
    EnginesSection = Section
else:
    EngineName = Literal[tuple(ENGINES)]
    EnginesSection = create_model(
        "EnginesSection",
        __base__=Section,
        __doc__="``[engines.*]``: the settings of each engine.",
        **{name: (engine.settings, engine.settings()) for name, engine in ENGINES.items()},
    )


class PolicySection(Section):
    """``[policy]``: the engines that run on each data set. ``compare`` runs each engine on each data set."""

    mode: Literal["compare"] = "compare"
    """``compare`` runs each engine on each data set; there is no other mode yet."""
    engines: Annotated[list[EngineName], Field(min_length=1)] = list(DEFAULT_ENGINES)
    """The engines that run; each may be named once."""

    @field_validator("engines")
    @classmethod
    def _unique(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"each engine may be named once, got {value}")
        training = [name for name in value if ENGINES[name].trains]
        if len(training) > 1:
            raise ValueError(f"one engine of a campaign may train a network, got {training}")
        return value


class CampaignConfig(ModelConfig):
    """A whole ``campaign.toml``."""

    policy: PolicySection = PolicySection()
    engines: EnginesSection = EnginesSection()
    verdict: VerdictSection = VerdictSection()
    store: StoreSection = StoreSection()
    shards: ShardsSection = ShardsSection()
    report: ReportSection = ReportSection()

    def of_engine(self, name: str) -> Any:
        """Return the settings of an engine, ``[engines.name]``."""
        return getattr(self.engines, name)


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
