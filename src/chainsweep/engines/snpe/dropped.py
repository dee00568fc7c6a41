"""The record of dropped simulations that is kept with a network: counts by cause, and what decides which are dropped.

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.diagnostics.dropping import Dropping, dependence
from chainsweep.engines.snpe.simulator import FreshSimulations, Pairs, Rows, usable_rows
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Arrays, Bools, Floats, Ints

CAUSES = {"nan": "NaN", "plus": "+inf", "minus": "-inf", "coarse": "beyond single precision"}
UNSEEN = "unseen"
MORE_BLOCKS = 4
"""The number of further blocks of simulations of a NumPyro model that are examined if the first has dropped ones."""
UNEVEN = 5.0
"""The number of standard errors by which the shares dropped must differ between designs more than by chance."""
STREAM = 0xD20
"""The second word of the key of the random numbers."""


def dropping_of(problem: Problem, record: Mapping[str, NDArray]) -> Dropping:
    """Return the content of ``record`` as a ``Dropping`` with the names of the parameters."""
    causes = {told: int(record[name]) for name, told in CAUSES.items()}
    return Dropping(problem.unconstrained_columns, int(record["simulated"]), causes, record["pvalues"])


def unseen_designs(ids: Sequence[str], record: Mapping[str, NDArray]) -> Bools:
    """True where all simulations of the design of a data set were dropped, shape ``(dataset,)``."""
    return np.isin([_number(name) for name in ids], record[UNSEEN])


def record_of_bank(
    batches: Sequence[Batch], rows: Sequence[Rows], pairs: Sequence[Pairs], seed: int, before: Arrays | None = None
) -> Arrays:
    """The record of simulations ``rows`` of the data sets of ``batches``, encoded as ``pairs``, one entry per bucket.

    ``before`` is the record of an earlier round, which decided the parameters that this one simulates.
    """
    usable = np.concatenate([usable_rows(np.asarray(packed), np.asarray(w)) for packed, w in pairs])
    nan, plus, minus = (
        np.concatenate([_any(rows_of, test) for rows_of in rows]) for test in (np.isnan, np.isposinf, np.isneginf)
    )
    causes = _first_cause(~usable, nan, plus, minus)
    parameters = np.concatenate([np.asarray(w, float) for _, w in pairs])
    names = np.array([_number(name) for batch in batches for name in batch.ids])
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    design = np.concatenate([start + np.asarray(each.index) for start, each in zip(starts, rows, strict=False)])
    record = {
        "simulated": np.array(len(usable)),
        **{name: np.array(causes[name].sum()) for name in CAUSES},
        "pvalues": dependence(parameters, ~usable, (seed, STREAM)),
        UNSEEN: _without_usable(names[design], ~usable),
    }
    return record if before is None else _joined(before, record)


def record_of_fresh(provider: FreshSimulations, batches: Sequence[Batch], number: int, split: Sequence[int]) -> Arrays:
    """The record of simulations like those that training makes, ``split`` over the buckets, from block ``number`` down.

    Where no simulation of the first block is dropped, the share is below 1 in 1,000, and no more blocks are examined.
    """
    seed = provider.simulators[0].seed
    used = [k for k, count in enumerate(split) if count]
    some = [batches[k] for k in used]
    blocks = [provider.probe(number, [(k, split[k]) for k in used])]
    record = record_of_bank(some, *blocks[0], seed)
    if not dropped_in(record):
        return record
    blocks += [provider.probe(number - k, [(k, split[k]) for k in used]) for k in range(1, MORE_BLOCKS + 1)]
    rows = [each for made, _ in blocks for each in made]
    pairs = [each for _, made in blocks for each in made]
    return record_of_bank(some * len(blocks), rows, pairs, seed)


def dropped_in(record: Mapping[str, NDArray]) -> int:
    """The number of simulations that were dropped."""
    return sum(int(record[name]) for name in CAUSES)


def _number(name: str) -> int:
    """The number that stands for the data set ``name`` in a record, which holds numbers only: a hash of the name."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big", signed=True)


def _any(rows: Rows, test: Callable[[Floats], Bools]) -> Bools:
    """True where a parameter or an observation of a simulation passes ``test``, shape ``(row,)``."""
    found = test(rows.z).any(axis=1)
    for values in rows.observed.values():
        found |= test(values.reshape(len(values), -1)).any(axis=1)
    return np.asarray(found)


def _first_cause(dropped: Bools, *found: Bools) -> dict[str, Bools]:
    causes = {}
    for name, each in zip(CAUSES, (*found, np.ones(len(dropped), bool)), strict=True):
        causes[name] = dropped & each
        dropped = dropped & ~each
    return causes


def _without_usable(design: Ints, dropped: Bools) -> Ints:
    """The designs of ``design`` ``(simulation,)`` without a usable simulation; empty where that may be chance."""
    names, place = np.unique(design, return_inverse=True)
    count, lost = np.bincount(place), np.bincount(place, dropped)
    share = dropped.mean()
    if not 0 < share < 1:
        return np.empty(0, np.int64)
    variance = count * share * (1 - share)
    excess = ((lost - count * share) ** 2 / variance - 1).sum()
    error = np.sqrt(np.sum(2 + (1 - 6 * share * (1 - share)) / variance))
    return names[lost == count] if excess > UNEVEN * error else np.empty(0, np.int64)


def _joined(before: Arrays, record: Arrays) -> Arrays:
    counts = {name: before[name] + record[name] for name in ("simulated", *CAUSES)}
    return {
        **counts,
        "pvalues": np.minimum(before["pvalues"], record["pvalues"]),
        UNSEEN: np.union1d(before[UNSEEN], record[UNSEEN]),
    }
