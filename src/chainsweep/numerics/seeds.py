"""Seeds of random numbers: each is a hash of its purpose, so that the order of work does not change it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Seeds:
    """Seeds of the data sets of one batch for one engine.

    A seed is a hash of (campaign seed, data set id, engine, purpose, chain), so neither the order of work
    nor the composition of a shard changes it.
    """

    campaign_seed: int
    engine: str

    def entropy(self, dataset_id: str, purpose: str, chain: int = 0) -> int:
        """A 128-bit integer for ``numpy.random.Philox(key=...)`` or ``SeedSequence``."""
        text = "\0".join((str(self.campaign_seed), dataset_id, self.engine, purpose, str(chain)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    def generator(self, dataset_id: str, purpose: str, chain: int = 0) -> np.random.Generator:
        """A NumPy generator of its own for one data set, purpose and chain."""
        return np.random.Generator(np.random.Philox(key=self.entropy(dataset_id, purpose, chain)))

    def jax_keys(self, dataset_ids: tuple[str, ...], purpose: str, chains: int) -> NDArray[np.uint32]:
        """Raw threefry keys, shape ``(dataset, chain, 2)``."""
        words = [
            [self.entropy(dataset_id, purpose, chain) & (2**64 - 1) for chain in range(chains)]
            for dataset_id in dataset_ids
        ]
        keys = np.array(words, dtype=np.uint64).reshape(len(dataset_ids), chains)
        return np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=-1).astype(np.uint32)
