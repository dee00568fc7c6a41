"""``simulations/<task>.h5``: one part of the simulations that a network is trained on, as flat arrays by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from chainsweep.errors import CampaignError, ChainsweepError
from chainsweep.publish import publish

KEY = "key"
"""The name of the attribute with the hash of all that decides the simulations."""


def publish_bank(
    path: Path, arrays: Mapping[str, NDArray], key: str, still_owner: Callable[[], bool] = lambda: True
) -> None:
    """Write one part. Raises ``LostOwnership``."""

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs[KEY] = key
            for name, array in arrays.items():
                file.create_dataset(name, data=array)

    def check(temporary: Path) -> None:
        back = read_bank(temporary, key)
        if back.keys() != arrays.keys() or any(not np.array_equal(back[n], arrays[n], equal_nan=True) for n in back):
            raise ChainsweepError(f"{temporary}: the simulations read back are not those written; is the disk full?")

    publish(path, write, check, still_owner)


def is_bank(path: Path, key: str) -> bool:
    """Return True if ``path`` is a published part of the simulations with this key."""
    try:
        with h5py.File(path) as file:
            return bool(file.attrs[KEY] == key)
    except (OSError, KeyError):
        return False


def read_bank(path: Path, key: str) -> dict[str, NDArray]:
    """Read the arrays of one part.

    Raises
    ------
    CampaignError
        The file cannot be read, or holds other simulations.
    """
    arrays: dict[str, NDArray] = {}

    def keep(name: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Dataset):
            arrays[name] = node[()]

    try:
        with h5py.File(path) as file:
            if file.attrs[KEY] != key:
                raise CampaignError(f"{path}: simulations of another model, prior or data; delete it and run again")
            file.visititems(keep)
    except (OSError, KeyError) as error:
        raise CampaignError(f"{path}: expected simulations ({error}); delete it and run again") from error
    return arrays
