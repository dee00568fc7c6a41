"""The rounds of a run of NUTS, the precision of each, and the number of lanes that a device has room for."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from chainsweep.data.collection import Batch
from chainsweep.engines.nuts.kernels import Algorithm, Bits
from chainsweep.engines.nuts.settings import NutsSettings as Settings
from chainsweep.importance.global_proposal import DEEP_FIT
from chainsweep.model.problem import Problem
from chainsweep.numerics.arrays import Bools, Floats
from chainsweep.numerics.loops import on_cpu

ENERGY_ERROR = 0.05
"""The largest allowed standard deviation of the error of single-precision log densities along a data set's chains."""
DEFAULT_LANES, MOST_LANES = 32, 2048
"""The number of lanes on a processor, and the most on a GPU, so that the draws of all lanes fit the host's memory."""
MEMORY_SHARE = 0.5
"""The share of a GPU's memory that lanes may take."""


class Round(NamedTuple):
    """An attempt, by one algorithm in one precision, at the data sets that had a ``deep`` search or at the others."""

    attempt: int
    algorithm: Algorithm
    bits: Bits
    deep: bool

    def __str__(self) -> str:
        single = ", float32" if self.bits == 32 else ""
        return f"attempt {self.attempt + 1}, {self.algorithm}{single}"


def rounds_of(settings: Settings, bits: Bits) -> list[Round]:
    """The rounds of a run in their order, where data sets begin with the precision ``bits``.

    ``auto`` takes HMC where weighted draws give the chains a global proposal, and NUTS, which finds its own trajectory
    lengths, where none do. Double precision follows single, for the data sets for which single is too coarse. After the
    first attempt all data sets have a deep search.
    """
    algorithms: tuple[Algorithm, ...] = ("hmc", "nuts") if settings.algorithm == "auto" else (settings.algorithm,)
    widths: tuple[Bits, ...] = (32, 64) if bits == 32 else (64,)
    return [
        Round(attempt, algorithm, width, deep)
        for attempt in range(settings.tuning.attempts)
        for algorithm in algorithms
        for width in widths
        for deep in ((False, True) if attempt == 0 else (True,))
    ]


def device_memory() -> int | None:
    """The bytes of the GPU's memory that JAX may use; None where it computes on a processor."""
    figures = jax.local_devices()[0].memory_stats()
    return int(figures["bytes_limit"]) if figures and "bytes_limit" in figures else None


def lanes_that_fit(memory: int | None, lane: int) -> int:
    """The number of lanes of ``lane`` bytes each for a device of ``memory`` bytes, which is None for a processor."""
    if memory is None:
        return DEFAULT_LANES
    return min(MOST_LANES, max(DEFAULT_LANES, int(MEMORY_SHARE * memory) // lane))


def lanes_of(problem: Problem, batch: Batch, settings: Settings) -> int:
    """The number of data sets that are advanced together: as set, or as the device has room for.

    A processor's idle lanes cost nothing, so one number serves every batch there; elsewhere there are at most as many
    lanes as data sets in ``batch``.
    """
    lanes = settings.tuning.lanes or lanes_that_fit(device_memory(), lane_bytes(problem, batch, settings))
    return lanes if on_cpu() else min(len(batch), lanes)


def lane_bytes(problem: Problem, batch: Batch, settings: Settings) -> int:
    """The bytes of device memory of one lane: twice those of its data, mixture, and a block's proposals and outputs."""
    n = problem.ndim_unconstrained
    data = sum(values[0].size for values in (*batch.fields.values(), batch.mask))
    mixture = 2 * DEEP_FIT.components * (2 * n**2 + 3 * n + 2)
    block = settings.chains * settings.tuning.block * (settings.tuning.jumps * (n + 2) + n + 4)
    return bits_of(settings) // 8 * 2 * (data * (1 + settings.chains) + mixture + block)


def bits_of(settings: Settings) -> Bits:
    """The precision that data sets begin with: as set, or single on GPUs and double elsewhere."""
    if settings.precision == "auto":
        return 32 if jax.default_backend() == "gpu" else 64
    return 32 if settings.precision == "float32" else 64


def energy_error(single: Floats, exact: Floats, counted: Bools) -> Floats:
    """Standard deviation ``(dataset,)`` of ``single`` less ``exact`` ``(dataset, point)`` over the points ``counted``.

    A constant error of all points does not count. Points where ``exact`` is not finite are left out; infinite where
    ``single`` is not finite at one of the others.
    """
    both = counted & np.isfinite(exact)
    difference = np.where(both, single, 0.0) - np.where(both, exact, 0.0)
    count = np.maximum(both.sum(axis=1), 1)
    mean = difference.sum(axis=1) / count
    variance = (np.where(both, difference - mean[:, None], 0.0) ** 2).sum(axis=1) / count
    return np.sqrt(np.where(np.isnan(variance), np.inf, variance))
