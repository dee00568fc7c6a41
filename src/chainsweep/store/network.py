"""The copy of a trained network that ``init`` freezes into another campaign."""

from __future__ import annotations

import json
import shutil
from collections.abc import Set
from pathlib import Path

from chainsweep.errors import ConfigError
from chainsweep.packages import require

NETWORK = "network.safetensors"
CALIBRATION = "calibration.json"
"""The file next to a network with its calibration on held-out simulations."""
COVERAGE = "coverage/"
"""The prefix of the names of the figures whose range the network was trained on; ``grid`` is the network's own."""
MODEL = "model"
"""The entry of the file's metadata that identifies the model file and function of the simulations."""


def model_key(file_hash: str, function: str) -> str:
    """Return a key that is equal for two campaigns if they simulate with the same model."""
    return f"{file_hash}:{function}"


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of a complete safetensors file; None if there is no file, or it is truncated.

    The safetensors package is not used, since ``status`` and ``submit`` also run where it is not installed. A file has
    the length of its header (8 bytes, little-endian), the header (JSON), then the arrays.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = json.loads(file.read(length)) if 8 + length <= size else None
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(header, dict):
        return None
    metadata = header.pop("__metadata__", {})
    ends = [array["data_offsets"][1] for array in header.values()]
    return metadata if 8 + length + max(ends, default=0) == size else None


def freeze_network(source: Path, needed: Set[str], model: str | None, path: Path, engine: str) -> None:
    """Copy the network in ``source``, a campaign's folder or that of one network, to ``path``.

    ``needed`` are the figures that it must have been trained for; ``model`` is the ``model_key`` that it must come
    from, or None if exact weights reveal a network of another model; ``engine`` is the name of the engine that it
    belongs to.

    Raises
    ------
    ConfigError
        There is no network or there are several, or it has other parameters, fields or constants, or another model.
    UnavailableError
        Networks cannot be read here.
    """
    require("safetensors", extra=engine)
    from safetensors import SafetensorError, safe_open

    found = _found(source, engine)
    try:
        with safe_open(found, framework="numpy") as content:
            entries: list[str] = list(content.keys())
            made_of = (content.metadata() or {}).get(MODEL)
            single = bool(content.get_tensor("space/sequential"))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{found}: expected a trained network ({error}); run the 'train' stage there") from error
    if single:
        raise ConfigError(f"{found}: trained in sequential rounds for one data set; it serves no other")
    known = {name.removeprefix(COVERAGE) for name in entries if name.startswith(COVERAGE)} - {"grid"}
    if known != needed:
        lacks, more = (", ".join(sorted(group)) or "nothing" for group in (needed - known, known - needed))
        raise ConfigError(
            f"{found}: trained for another kind of data sets or another model: this campaign also has {lacks}; "
            f"the network also expects {more}. Train one for this campaign: leave out [engines.{engine}] model"
        )
    if model is not None and made_of != model:
        raise ConfigError(
            f"{found}: simulated with another model file or function, and this model has no likelihood whose weights "
            f"could correct that; leave out [engines.{engine}] model, or use the file that it was trained with"
        )
    shutil.copyfile(found, path)
    if found.with_name(CALIBRATION).is_file():
        shutil.copyfile(found.with_name(CALIBRATION), path.with_name(CALIBRATION))


def _found(source: Path, engine: str) -> Path:
    """Return the one network in ``source``."""
    if (source / NETWORK).is_file():
        return source / NETWORK
    networks = sorted(source.glob(f"models/{engine}-*/{NETWORK}"))
    if len(networks) != 1:
        several = ", ".join(str(path.parent) for path in networks)
        raise ConfigError(
            f"{source}: expected one trained network in models/, found {len(networks)}; [engines.{engine}] model names "
            + (f"one of {several}" if several else "a campaign whose 'train' stage is done")
        )
    return networks[0]
