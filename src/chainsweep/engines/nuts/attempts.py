"""What a run of NUTS goes through: its rounds, the precision of each, and the lanes that a device has room for."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from chainsweep.config.campaign import NutsSettings as Settings
from chainsweep.data.collection import Batch
from chainsweep.engines.nuts.kernels import Algorithm, Bits
from chainsweep.importance.guide import DEEP_FIT
from chainsweep.model.problem import Problem
from chainsweep.numerics.loops import one_by_one_here

Floats = NDArray[np.float64]

ENERGY_ERROR = 0.05
"""Largest standard deviation of the error of single-precision log densities along a data set's chains."""
DEFAULT_LANES, MOST_LANES = 32, 2048
"""Data sets in lanes: on a processor, and at most on a GPU, so that the draws of all fit the host's memory."""
MEMORY_SHARE = 0.5
"""Of a GPU's memory that lanes may take."""


class Round(NamedTuple):
    """One attempt at data sets of one algorithm and precision, that had a ``deep`` search or none."""

    attempt: int
    algorithm: Algorithm
    bits: Bits
    deep: bool

    def __str__(self) -> str:
        single = ", float32" if self.bits == 32 else ""
        return f"attempt {self.attempt + 1}, {self.algorithm}{single}"


def rounds_of(settings: Settings, bits: Bits) -> list[Round]:
    """What a run goes through, one after the other, where data sets begin with ``bits``.

    ``auto`` takes HMC where weighted draws guide the chains, and NUTS, which finds its own lengths, where none do.
    Double precision comes behind single, for what that cannot do. After a first attempt all have a deep search.
    """
    algorithms: tuple[Algorithm, ...] = ("hmc", "nuts") if settings.algorithm == "auto" else (settings.algorithm,)
    widths: tuple[Bits, ...] = (32, 64) if bits == 32 else (64,)
    return [
        Round(attempt, algorithm, width, deep)
        for attempt in range(settings.attempts)
        for algorithm in algorithms
        for width in widths
        for deep in ((False, True) if attempt == 0 else (True,))
    ]


def device_memory() -> int | None:
    """Bytes of the GPU that JAX may use; None where it computes on a processor."""
    figures = jax.local_devices()[0].memory_stats()
    return int(figures["bytes_limit"]) if figures and "bytes_limit" in figures else None


def lanes_that_fit(memory: int | None, lane: int) -> int:
    """Lanes of ``lane`` bytes each for a device of ``memory`` bytes, None where it is a processor."""
    if memory is None:
        return DEFAULT_LANES
    return min(MOST_LANES, max(DEFAULT_LANES, int(MEMORY_SHARE * memory) // lane))


def lanes_of(problem: Problem, batch: Batch, settings: Settings) -> int:
    """The data sets that are advanced together: as many as told, or as the device has room for.

    A processor's idle lanes cost nothing, so that one number serves every batch; elsewhere there are at most as many as
    data sets in ``batch``.
    """
    lanes = settings.lanes or lanes_that_fit(device_memory(), lane_bytes(problem, batch, settings))
    return lanes if one_by_one_here() else min(len(batch), lanes)


def lane_bytes(problem: Problem, batch: Batch, settings: Settings) -> int:
    """Bytes of device memory of one lane: its data, its mixture, and a block's proposals and outputs, twice."""
    n = problem.ndim_unconstrained
    data = sum(values[0].size for values in (*batch.fields.values(), batch.mask))
    mixture = 2 * DEEP_FIT.components * (2 * n**2 + 3 * n + 2)
    block = settings.chains * settings.block * (settings.jumps * (n + 2) + n + 4)
    return bits_of(settings) // 8 * 2 * (data * (1 + settings.chains) + mixture + block)


def bits_of(settings: Settings) -> Bits:
    """The precision that data sets begin with: single on GPUs, unless told otherwise."""
    if settings.precision == "auto":
        return 32 if jax.default_backend() == "gpu" else 64
    return 32 if settings.precision == "float32" else 64


def energy_error(single: Floats, exact: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Standard deviation ``(dataset,)`` of ``single`` less ``exact`` ``(dataset, point)`` over the points ``counted``.

    An error that all points share is none. Infinite where one of the two is no number and the other is.
    """
    both = counted & np.isfinite(exact)
    difference = np.where(both, single, 0.0) - np.where(both, exact, 0.0)
    count = np.maximum(both.sum(axis=1), 1)
    mean = difference.sum(axis=1) / count
    variance = (np.where(both, difference - mean[:, None], 0.0) ** 2).sum(axis=1) / count
    return np.sqrt(np.where(np.isnan(variance), np.inf, variance))
