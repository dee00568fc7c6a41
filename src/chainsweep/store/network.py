"""A trained network that ``init`` freezes into another campaign."""

from __future__ import annotations

import json
import shutil
from collections.abc import Set
from pathlib import Path

from chainsweep.errors import ConfigError
from chainsweep.packages import require

NETWORK = "network.safetensors"
CALIBRATION = "calibration.json"
"""What held-out simulations say of it, beside it."""
COVERAGE = "coverage/"
"""Prefix of the names of what it was trained for; ``grid`` is a figure of the network alone."""
MODEL = "model"
"""Entry of the file's metadata: which model file and function made the simulations."""


def model_key(file_hash: str, function: str) -> str:
    """What says that two campaigns simulate with one model."""
    return f"{file_hash}:{function}"


def read_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of a whole safetensors file; None where there is none, or it is cut short.

    Read without the package, since ``status`` and ``submit`` ask where no network can be used: a file is the length of
    its header (8 bytes, little-endian), the header (JSON), then the arrays.
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


def freeze_network(source: Path, needed: Set[str], model: str | None, path: Path) -> None:
    """Copy the network in ``source``, a campaign's folder or that of one network, to ``path``.

    ``needed`` are the figures that it has to know; ``model`` is the ``model_key`` that it must come from, or None
    where exact weights show a network of another model.

    Raises
    ------
    ConfigError
        There is no network or several, or it is one of other parameters, fields or constants, or of another model.
    UnavailableError
        Networks cannot be read here.
    """
    require("safetensors", extra="snpe")
    from safetensors import SafetensorError, safe_open

    found = _found(source)
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
            f"the network also expects {more}. Train one for this campaign: leave out [engines.snpe] model"
        )
    if model is not None and made_of != model:
        raise ConfigError(
            f"{found}: simulated with another model file or function, and this model has no likelihood whose weights "
            "could correct that; leave out [engines.snpe] model, or use the file that it was trained with"
        )
    shutil.copyfile(found, path)
    if found.with_name(CALIBRATION).is_file():
        shutil.copyfile(found.with_name(CALIBRATION), path.with_name(CALIBRATION))


def _found(source: Path) -> Path:
    """The one network in ``source``."""
    if (source / NETWORK).is_file():
        return source / NETWORK
    networks = sorted(source.glob(f"models/snpe-*/{NETWORK}"))
    if len(networks) != 1:
        several = ", ".join(str(path.parent) for path in networks)
        raise ConfigError(
            f"{source}: expected one trained network in models/, found {len(networks)}; [engines.snpe] model names "
            + (f"one of {several}" if several else "a campaign whose 'train' stage is done")
        )
    return networks[0]
