"""``init``: validate everything, ingest the data, and freeze it all into a new campaign folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from chainsweep.campaign.campaign import (
    SCHEMA,
    Campaign,
    Known,
    campaign_hash,
    load_model,
    with_own_names,
)
from chainsweep.campaign.config import CampaignConfig, load_config
from chainsweep.campaign.folder import give_token
from chainsweep.campaign.paths import Paths
from chainsweep.data.collection import Collection, constant_of, padded_widths, plan_buckets
from chainsweep.data.ingest import Ingested, freeze, ingest, with_named_truth, write_quarantine
from chainsweep.engines.registry import ENGINES, PACKAGES
from chainsweep.errors import ConfigError, DataError, InputError, ModelError, UsageError
from chainsweep.model.reads import file_hash, watched_reads
from chainsweep.packages import versions
from chainsweep.store.network import freeze_network, model_key
from chainsweep.store.starts import freeze_starts

if TYPE_CHECKING:
    from chainsweep.model.problem import Problem

BLACK_BOX_S = 60.0
"""The time limit, in seconds, of the few calls of a black box whose answers ``init`` records."""


def init_campaign(config_path: Path, out: Path, data: Path | None = None) -> Campaign:
    """Make the campaign folder ``out``; after an error nothing of it is left.

    ``data`` overrides ``[data] source``. Relative paths of the file are relative to it.

    Raises
    ------
    UsageError
        ``out`` exists.
    InputError
        Configuration, model or data cannot be used.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already; a campaign is never overwritten: choose another --out")
    config = load_config(config_path)
    folder = config_path.parent
    model = folder / config.model.file
    if not model.is_file():
        raise ModelError(f"{model}: no such file; {config_path} names it as [model] file")
    if data is None and config.data.source is None:
        raise ConfigError(f"{config_path}: no data: give [data] source, or --data PATH")
    source = data if data is not None else folder / str(config.data.source)
    named = config.data.fields
    text = _read(model)
    with watched_reads() as reads:
        config, module = with_own_names(config, model, text)
    own = [name for name in config.data.fields if name not in named]
    try:
        ingested = ingest(config.data, source)
    except DataError as error:
        left = f"\n{model}: [data] fields leaves out {', '.join(own)}, so each is looked for under its own name"
        raise DataError(f"{error}{left if own else ''}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        partial.chmod(0o755)
        paths = Paths(partial)
        paths.model.write_bytes(text)
        _fill(paths, config_path, model, config, ingested, module, reads)
        give_token(partial, out.resolve())
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return Campaign(out)


def _read(model: Path) -> bytes:
    """Return the bytes of the model file, read once so that the model that is tried is the one that is frozen."""
    try:
        return model.read_bytes()
    except OSError as error:
        raise ModelError(f"{model}: expected a model file that can be read, got: {error.strerror}") from error


def _fill(
    paths: Paths,
    config_path: Path,
    model: Path,
    config: CampaignConfig,
    ingested: Ingested,
    module: ModuleType,
    reads: set[Path],
) -> None:
    shutil.copyfile(config_path, paths.config)
    # The model is traced from its own path, so that errors name the user's file.
    example, *others = (_dataset(ingested, position) for position in _examples(ingested))
    shared = [name for name, values in ingested.constants.items() if values.ndim == 1 and np.all(values == values[0])]
    notes: list[str] = []
    with watched_reads() as more:
        problem = load_model(model, config, *example, module=module, others=others, shared=shared, say=notes.append)
    data_hash = freeze(with_named_truth(ingested, problem.names, model), paths.data)
    write_quarantine(ingested.quarantine, paths.quarantine)
    collection = Collection(paths.data)
    for engine in config.policy.engines:
        ENGINES[engine].require(problem)
        starts = getattr(config.of_engine(engine), "starts_from", None)
        if starts is not None:
            source = Paths(config_path.parent / starts).posterior
            parameters = [(parameter.name, parameter.shape) for parameter in problem.parameters]
            training = next(name for name, each in ENGINES.items() if each.trains)
            freeze_starts(source, training, parameters, collection.ids, paths.starts)
        if ENGINES[engine].trains:
            _freeze_network(paths, config_path, engine, config, problem, ingested, len(collection.ids))
    resolved = _resolve(paths, config, collection, problem, data_hash, len(ingested.quarantine))
    if notes and any(ENGINES[name].uses_gradients for name in config.policy.engines):
        resolved["notes"] = notes[:1]
    read = sorted((reads | more) - {model.absolute()})
    if read:
        resolved["reads"] = {str(path): file_hash(path) for path in read}
    resolved["campaign_hash"] = campaign_hash(resolved)
    _write(paths, resolved)
    density = _density_of_black_box(paths) if problem.black_box else density_of(problem, collection)
    if density:
        _write(paths, resolved | {"density": density})


def _freeze_network(
    paths: Paths,
    config_path: Path,
    engine: str,
    config: CampaignConfig,
    problem: Problem,
    ingested: Ingested,
    datasets: int,
) -> None:
    """Copy the network that ``model`` of the engine's settings names, and refuse settings that exclude each other."""
    own = config.of_engine(engine)
    if own.mode == "sequential" and datasets > 1:
        raise InputError(
            f"[engines.{engine}] mode = 'sequential' serves one data set, and this campaign has "
            f"{datasets}; use mode = 'amortised', or a source with one data set"
        )
    if own.model is None:
        return
    if own.mode == "sequential":
        raise ConfigError(
            f"{config_path}: [engines.{engine}] model is a network for many data sets, and mode = 'sequential' trains "
            "one for a single data set; leave one of them out"
        )
    needed = ENGINES[engine].part("training_range").figure_names(problem, ingested.fields, ingested.constants)
    simulated = None if problem.has_likelihood else model_key(file_hash(paths.model), config.model.function)
    freeze_network(config_path.parent / own.model, needed, simulated, paths.network, engine)


def _write(paths: Paths, resolved: dict[str, Any]) -> None:
    paths.resolved.write_text(json.dumps(resolved, indent=1) + "\n", encoding="utf-8")


def density_of(problem: Problem, collection: Collection) -> list[dict[str, Any]]:
    """Return the log density at fixed points of the shortest and the longest data set; of a black box, the shortest."""
    from chainsweep.model.fingerprint import fingerprint

    lengths = collection.lengths
    chosen = dict.fromkeys([int(np.argmin(lengths)), *([] if problem.black_box else [int(np.argmax(lengths))])])
    found = [fingerprint(problem, collection.batch(np.array([one]), int(lengths[one]))) for one in chosen]
    return [entry for entry in found if entry is not None]


def _density_of_black_box(paths: Paths) -> list[dict[str, Any]]:
    """Call ``density_of`` in a separate process, which the user's function may crash or block; then return nothing."""
    answer = paths.root / "density.json"
    line = [sys.executable, "-m", __name__, str(paths.root), str(answer)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=BLACK_BOX_S, check=False)
    try:
        return list(json.loads(answer.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return []
    finally:
        answer.unlink(missing_ok=True)


def _examples(ingested: Ingested) -> list[int]:
    """Return the positions of the data sets that a model is tried on: the first, shortest, longest and last."""
    lengths = ingested.lengths
    return list(dict.fromkeys([0, int(np.argmin(lengths)), int(np.argmax(lengths)), len(lengths) - 1]))


def _dataset(ingested: Ingested, position: int) -> Known:
    first, last = ingested.offsets[position : position + 2]
    fields = {name: values[first:last] for name, values in ingested.fields.items()}
    return fields, {name: constant_of(values[position]) for name, values in ingested.constants.items()}


def _resolve(
    paths: Paths,
    config: CampaignConfig,
    collection: Collection,
    problem: Problem,
    data_hash: str,
    quarantined: int,
) -> dict[str, Any]:
    buckets = plan_buckets(collection.lengths, config.shards.max_buckets, problem.structure.paddable)
    padded = padded_widths(buckets) if problem.structure.paddable else [bucket.width for bucket in buckets]
    size = shard_size(config, len(collection.ids))
    resolved: dict[str, Any] = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "data_hash": data_hash,
        "files": {path.name: file_hash(path) for path in paths.frozen if path != paths.resolved},
        "datasets": len(collection.ids),
        "quarantined": quarantined,
        "parameters": list(problem.names),
        "structure": problem.structure.plain(),
        "black_box": problem.black_box,
        "buckets": [
            {
                "width": bucket.width,
                "padded": width,
                "datasets": int(bucket.positions.size),
                "shards": int(np.ceil(bucket.positions.size / size)),
            }
            for bucket, width in zip(buckets, padded, strict=True)
        ],
        "versions": versions(*PACKAGES),
    }
    return resolved


def shard_size(config: CampaignConfig, datasets: int) -> int:
    """Return the number of data sets of one shard: as set, or a sixteenth of the campaign, at least 16, at most 256."""
    if config.shards.size != "auto":
        return config.shards.size
    return int(np.clip(np.ceil(datasets / 16), 16, 256))


if __name__ == "__main__":
    _campaign = Campaign(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(density_of(_campaign.problem, _campaign.collection)), encoding="utf-8")
