"""Seeds: frozen values, and a stream of its own for each campaign, data set, engine, purpose and chain."""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import pytest

from chainsweep.numerics.seeds import Seeds

PLAIN = (7, "nuts", "star-1", "warmup", 0)
CHANGED = {
    "campaign seed": (8, "nuts", "star-1", "warmup", 0),
    "engine": (7, "emcee", "star-1", "warmup", 0),
    "data set": (7, "nuts", "star-2", "warmup", 0),
    "purpose": (7, "nuts", "star-1", "draws", 0),
    "chain": (7, "nuts", "star-1", "warmup", 1),
}
FROZEN = 0xAACF510112F625F94A46B84775970F8C
FROZEN_KEY = [1246148679, 1972834188]
FROZEN_UNIFORM = 0.17656722043868167


def entropy(campaign_seed: int, engine: str, dataset_id: str, purpose: str, chain: int) -> int:
    return Seeds(campaign_seed, engine).entropy(dataset_id, purpose, chain)


def first(campaign_seed: int, engine: str, dataset_id: str, purpose: str, chain: int) -> float:
    return float(Seeds(campaign_seed, engine).generator(dataset_id, purpose, chain).uniform())


def key(campaign_seed: int, engine: str, dataset_id: str, purpose: str, chain: int) -> tuple[int, int]:
    keys = Seeds(campaign_seed, engine).jax_keys((dataset_id,), purpose, chain + 1)
    high, low = keys[0, chain].tolist()
    return high, low


@pytest.mark.parametrize("stream", [entropy, first, key])
@pytest.mark.parametrize("what", CHANGED)
def test_each_argument_alone_makes_another_stream(stream, what):
    assert stream(*CHANGED[what]) != stream(*PLAIN)
    assert stream(*PLAIN) == stream(*PLAIN)


def test_a_seed_is_the_first_half_of_a_hash_and_never_changes():
    """A changed value would change every draw of every campaign."""
    whole = hashlib.sha256(b"7\0star-1\0nuts\0warmup\x000").digest()
    assert entropy(*PLAIN) == int.from_bytes(whole[:16], "big") == FROZEN
    assert Seeds(7, "nuts").jax_keys(("star-1",), "warmup", 1).tolist() == [[FROZEN_KEY]]
    assert first(*PLAIN) == FROZEN_UNIFORM


def test_texts_that_read_alike_side_by_side_are_different_streams():
    pairs = [("ab", "c"), ("a", "bc"), ("abc", "")]
    seeds = Seeds(1, "nuts")
    values = {seeds.entropy(name, purpose) for name, purpose in pairs}
    assert len(values) == len(pairs)
    assert Seeds(1, "nuts").entropy("a", "b", 11) != Seeds(1, "nuts").entropy("a", "b1", 1)


def test_keys_are_those_of_their_data_set_and_chain_in_any_company():
    seeds = Seeds(3, "snpe")
    keys = seeds.jax_keys(("a", "b", "c"), "check", 4)
    assert keys.shape == (3, 4, 2)
    assert keys.dtype == np.uint32
    np.testing.assert_array_equal(keys[[1]], seeds.jax_keys(("b",), "check", 4))
    np.testing.assert_array_equal(keys[:, :2], seeds.jax_keys(("a", "b", "c"), "check", 2))
    flat = keys.reshape(-1, 2).tolist()
    assert all(one != other for one, other in combinations(flat, 2))
    whole = [[high << 32 | low for high, low in row] for row in keys.astype(object).tolist()]
    assert whole == [[seeds.entropy(name, "check", chain) % 2**64 for chain in range(4)] for name in "abc"]


def test_streams_of_purposes_are_independent():
    seeds = Seeds(5, "emcee")
    streams = np.array([seeds.generator("a", purpose).standard_normal(4000) for purpose in ("one", "two", "three")])
    assert np.abs(np.corrcoef(streams) - np.eye(3)).max() < 0.06, "four standard errors"
