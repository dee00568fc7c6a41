"""The campaign folder: its paths, its frozen files, and access to what it holds.

A campaign is made once, by ``init``, and never changes afterwards: every later step compares hashes and
refuses when configuration, model or data are no longer what was frozen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chainsweep.campaign.config import CampaignConfig, parse_config
from chainsweep.campaign.folder import require_writable
from chainsweep.campaign.paths import Paths
from chainsweep.data.collection import Batch, Collection, constant_of
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import CampaignError
from chainsweep.model.reads import changed_reads, file_hash_once
from chainsweep.numerics.arrays import Ints

if TYPE_CHECKING:
    import pandas as pd

    from chainsweep.model.problem import Problem

SCHEMA = "chainsweep-campaign/2"

Known = tuple[dict[str, NDArray], dict[str, Any]]
"""The unpadded fields and the constants of one data set."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: the positions of its data sets in the collection and the width they are padded to."""

    index: int
    width: int
    positions: Ints


class Campaign:
    """A frozen campaign and what its tasks have published so far.

    Raises
    ------
    CampaignError
        ``root`` is no campaign folder, or one of another schema.
    """

    def __init__(self, root: Path) -> None:
        self.paths = Paths(Path(root).resolve())
        try:
            self.resolved: dict[str, Any] = json.loads(self.paths.resolved.read_text(encoding="utf-8"))
        except OSError as error:
            raise CampaignError(
                f"{root}: no campaign here (expected {self.paths.resolved.name}; {error.strerror}); "
                "make one with: chainsweep init CAMPAIGN.toml --out DIR"
            ) from error
        except ValueError as error:
            raise CampaignError(f"{self.paths.resolved}: is not valid JSON ({error})") from error
        if self.resolved.get("schema") != SCHEMA:
            raise CampaignError(
                f"{self.paths.resolved}: expected schema {SCHEMA}, got {self.resolved.get('schema')!r}; "
                "use the chainsweep that made this campaign"
            )
        self.config: CampaignConfig = parse_config(self.resolved["config"], origin=str(self.paths.resolved))
        self.hash: str = self.resolved["campaign_hash"]

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self.config.campaign.name

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines of the policy, in its order."""
        return tuple(self.config.policy.engines)

    @property
    def trainer(self) -> str | None:
        """The engine that trains a network for the campaign, or None."""
        return next((name for name in self.engines if ENGINES[name].trains), None)

    def settings(self, engine: str) -> Any:
        """Return the settings of an engine, of the type that the engine names."""
        return self.config.of_engine(engine)

    @property
    def quarantined(self) -> int:
        """The number of data sets that ``init`` left out."""
        return int(self.resolved["quarantined"])

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The flat parameter names: ``l`` for a scalar, ``theta[0]`` for an element of a vector."""
        return tuple(self.resolved["parameters"])

    @cached_property
    def collection(self) -> Collection:
        """The frozen data sets."""
        return Collection(self.paths.data)

    @cached_property
    def shards(self) -> tuple[ShardPlan, ...]:
        """The blocks of data sets, the same for every engine; sizes within a bucket differ by at most one."""
        plans: list[ShardPlan] = []
        lengths = self.collection.lengths
        widths = np.asarray([bucket["width"] for bucket in self.resolved["buckets"]])
        bucket_of = np.searchsorted(widths, lengths)
        for number, bucket in enumerate(self.resolved["buckets"]):
            members = np.flatnonzero(bucket_of == number)
            for positions in np.array_split(members, bucket["shards"]):
                width = bucket.get("padded", bucket["width"])  # of its own in a campaign of before
                plans.append(ShardPlan(len(plans), int(width), positions.astype(np.int64)))
        return tuple(plans)

    def batch(self, shard: int) -> Batch:
        """The data sets of one shard, padded to its width."""
        plan = self.shards[shard]
        return self.collection.batch(plan.positions, plan.width)

    def locate(self, position: int) -> tuple[ShardPlan, int]:
        """The shard that holds a position of the collection, and its row there."""
        for plan in self.shards:
            rows = np.flatnonzero(plan.positions == position)
            if rows.size:
                return plan, int(rows[0])
        raise CampaignError(f"{self.paths.resolved}: no shard holds data set {position} of {self.paths.data.name}")

    @cached_property
    def problem(self) -> Problem:
        """The model, made from the bytes whose hash is the recorded one; needs JAX and NumPyro.

        Raises ``CampaignError`` where the file is no longer what was frozen.
        """
        path = self.paths.model
        source = path.read_bytes() if path.is_file() else None
        self._refuse({path.name: "missing" if source is None else sha256(source).hexdigest()})
        fields, constants = self.dataset(self.collection.ids[0])
        module = load_module(path, source)
        return load_model(path, self.config, fields, constants, self.resolved.get("structure"), module)

    def verify(self) -> None:
        """Compare every frozen file with its recorded hash.

        Raises
        ------
        CampaignError
            Something changed; the message says what.
        """
        self._refuse({name: file_hash_once(self.paths.root / name) for name in self.resolved["files"]})

    def _refuse(self, now: dict[str, str]) -> None:
        """Raise if the hash ``now`` of a file, or the hash of ``resolved.json``, is not the recorded one."""
        recorded = self.resolved["files"]
        changed = [
            f"{name} (recorded {recorded[name][:12]}, now {found[:12]})"
            for name, found in now.items()
            if found != recorded[name]
        ]
        changed += changed_reads(self.resolved.get("reads", {}))
        if self.hash != campaign_hash(self.resolved):
            changed.append(self.paths.resolved.name)
        if changed:
            raise CampaignError(
                f"{self.paths.root}: changed since init: {', '.join(changed)}. A campaign is frozen: restore "
                "the file, or make a new campaign with chainsweep init"
            )

    def require_writable(self) -> None:
        """Raise as ``folder.require_writable`` does; to be called before any work is done."""
        require_writable(self.paths.root)

    def catalogue(self) -> pd.DataFrame:
        """The catalogue, one row per data set and engine."""
        from chainsweep.store.catalogue import read_catalogue

        if not self.paths.catalogue.exists():
            raise CampaignError(f"{self.paths.catalogue}: not made yet; run: chainsweep merge {self.paths.root}")
        return read_catalogue(self.paths.catalogue)

    def quarantine(self) -> pd.DataFrame:
        """Return the data sets that ``init`` left out: columns ``dataset_id, file, row, reason, detail``."""
        import pandas as pd

        return pd.read_csv(self.paths.quarantine, dtype={"dataset_id": "string", "row": "Int64"})

    def dataset(self, dataset_id: str) -> Known:
        """Unpadded fields and constants of one data set."""
        position = self.collection.position(dataset_id)
        batch = self.collection.batch(np.array([position]), int(self.collection.lengths[position]))
        fields = {name: values[0] for name, values in batch.fields.items()}
        return fields, {name: constant_of(values[0]) for name, values in batch.constants.items()}

    def truth(self, dataset_id: str) -> dict[str, float]:
        """True parameters that came with a data set, by flat name; empty when unknown."""
        truth: dict[str, float] = {}
        for name, value in self.collection.truth(self.collection.position(dataset_id)).items():
            for index in np.ndindex(np.shape(value)):
                label = f"{name}[{','.join(map(str, index))}]" if index else name
                truth[label] = float(np.asarray(value)[index])
        return truth


def campaign_hash(resolved: dict[str, Any]) -> str:
    """Hash of all that decides the draws: configuration, model, files that the model reads, data and shards."""
    parts = {k: v for k, v in resolved.items() if k not in ("campaign_hash", "versions", "density")}
    if "reads" in parts:
        parts["reads"] = sorted(parts["reads"].values())
    text = json.dumps(parts, sort_keys=True)
    return sha256(text.encode()).hexdigest()


def load_module(path: Path, source: bytes | None) -> ModuleType:
    """Load the model file with the text ``source``, or with None the text that the file has now.

    Raises
    ------
    UnavailableError
        JAX or NumPyro is not installed.
    """
    from chainsweep.packages import require

    require("jax", "numpyro", extra="model")
    from chainsweep.model.load import load_module as loaded

    return loaded(path, source)


def with_own_names(config: CampaignConfig, path: Path, source: bytes) -> tuple[CampaignConfig, ModuleType]:
    """Return the configuration, completed with fields named as the model's arguments, and the loaded model file.

    Raises like ``load_module``.
    """
    module = load_module(path, source)
    from chainsweep.model.signature import with_own_names as completed

    return completed(config, module, path), module


def load_model(
    path: Path,
    config: CampaignConfig,
    fields: dict[str, NDArray],
    constants: dict[str, Any],
    structure: dict[str, Any] | None = None,
    module: ModuleType | None = None,
    others: Sequence[Known] = (),
    shared: Sequence[str] = (),
    say: Callable[[str], None] = lambda note: None,
) -> Problem:
    """Make a Problem of the model file, traced on one unpadded data set or with the ``structure`` that ``init`` found.

    ``module`` is the file if it is loaded already; ``others`` are fields and constants of more data sets, ``shared``
    names constants that have one value in all data sets, and ``say`` is called with each warning.

    Raises
    ------
    UnavailableError
        JAX or NumPyro is not installed.
    """
    from chainsweep.packages import require

    require("jax", "numpyro", extra="model")
    from chainsweep.model.load import example_observation, load_problem
    from chainsweep.model.structure import Structure

    known = None if structure is None else Structure.from_plain(structure)
    examples = [example_observation(*each) for each in others]
    return load_problem(path, config, example_observation(fields, constants), known, module, examples, shared, say)
