"""Compiled loops over data sets.

A processor computes one data set after another: its arrays stay in the cache, no data set waits for another, and
unused rows cost nothing. An accelerator computes many data sets at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from chainsweep.numerics.cut_off import cut_off

MAX_BLOCK = 1 << 24
"""The most numbers in an intermediate array of the data sets that an accelerator computes together."""
DATASETS = 4
"""The data sets that one compiled call on a processor has room for; it loops over those that are there."""
TOGETHER = 512
"""The most lanes that an accelerator advances together."""


def on_cpu() -> bool:
    """Return True if programs that are compiled now run on a processor."""
    return jax.default_backend() == "cpu"


def lanes_of(numbers: int) -> int:
    """The number of data sets of one compiled call, where the largest array of a data set has ``numbers`` numbers."""
    return DATASETS if on_cpu() else max(1, min(TOGETHER, MAX_BLOCK // max(1, numbers)))


def first_of(function: Callable, arrays: tuple[Any, ...], count: Any) -> Any:
    """Apply ``function`` to each of the first ``count`` rows of ``arrays``; later rows of the result mean nothing.

    An accelerator computes all rows at once.
    """
    if not on_cpu():
        return jax.vmap(function)(*arrays)

    of_row = traced_once(function)

    def add(k: Any, found: Any) -> Any:
        return jax.tree.map(lambda whole, part: whole.at[k].set(part), found, of_row(*_row(arrays, k)))

    rows = jax.tree.leaves(arrays)[0].shape[0]
    return jax.lax.fori_loop(0, count, add, zeros_like_result(of_row, *_row(arrays, 0), rows=(rows,)))


def _row(arrays: Any, k: Any) -> Any:
    return jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, k, keepdims=False), arrays)


def scan_rows(function: Callable, rows: Any, count: Any, given: tuple[Any, ...], datasets: tuple[Any, ...]) -> Any:
    """Apply ``function`` to the arrays ``given`` ``(row, ...)`` and to ``datasets`` ``(dataset, ...)`` at ``rows``.

    The first ``count`` rows are computed one after the other; the result is zero elsewhere.
    """

    of_row = traced_once(function)

    def arguments(i: Any) -> tuple[Any, ...]:
        return *_row(given, i), *_row(datasets, rows[i])

    def add(i: Any, found: Any) -> Any:
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), found, of_row(*arguments(i)))

    return jax.lax.fori_loop(0, count, add, zeros_like_result(of_row, *arguments(0), rows=rows.shape))


def vmap_active(function: Callable, arrays: Any, rows: Any, count: Any, result: Any) -> Any:
    """Return ``result``, in which ``function`` of the lane replaces the first ``count`` of the lanes ``rows``.

    The first axis of ``arrays`` and ``result`` is the lane. An accelerator computes ``TOGETHER`` lanes at once.
    """
    width = rows.shape[0]
    together = _together(width)
    over_lanes = jax.vmap(function)

    def some(k: Any, result: Any) -> Any:
        places = k * together + jnp.arange(together)
        active = rows[jnp.minimum(places, count - 1)]
        found = over_lanes(*jax.tree.map(lambda array: array[active], arrays))
        targets = jnp.where(places < count, active, width)
        return jax.tree.map(lambda whole, part: whole.at[targets].set(part, mode="drop"), result, found)

    return jax.lax.fori_loop(0, (count + together - 1) // together, some, result)


def lanes_computed(count: int, width: int) -> int:
    """The number of the ``width`` lanes that are computed where ``count`` are busy."""
    together = _together(width)
    return -(-count // together) * together


def isolated(function: Callable, *arrays: Any) -> Any:
    """Apply ``function`` to ``arrays``, on a processor in a way that the compiler cannot fuse with what follows.

    A compiler fuses the computation of an array with the code that uses it; where there are several uses, or a use
    reads the array more than once, the array is then computed once for each of them. The compiler cannot look through
    a branch whose condition it does not know, so the computation is put in one. (An accelerator would wait at each
    such branch.)
    """
    if not on_cpu():
        return function(*arrays)
    always, once = jax.lax.optimization_barrier(jnp.asarray(True)), traced_once(function)
    return jax.lax.cond(always, once, lambda *some: zeros_like_result(once, *some), *arrays)


def alone(function: Callable) -> Callable:
    """Return scalar ``function(z, obs)`` with loops that end, whose ``vmap`` on a processor takes one point at a time.

    Without this, a loop over several points would run for all of them until the slowest is done. The function can be
    differentiated once, by ``z`` and in reverse mode. An accelerator computes all points at once.
    """
    value, sloped = cut_off(function), cut_off(jax.value_and_grad(function))
    if on_cpu():
        value, sloped = sequential_vmap(value), sequential_vmap(sloped)
    single = jax.custom_vjp(value)

    def forth(z: Any, obs: Any) -> tuple[Any, Any]:
        return sloped(z, obs)

    def back(slope: Any, weight: Any) -> tuple[Any, None]:
        return weight * slope, None

    single.defvjp(forth, back)
    return single


def traced_once(function: Callable) -> Callable:
    """Return ``function``, traced once for each shape of its arguments, however often it is called."""
    return jax.jit(function, inline=True)


def zeros_like_result(function: Callable, *arrays: Any, rows: tuple[int, ...] = ()) -> Any:
    """Zeros of shape ``rows`` followed by the shapes of the results of ``function``; nothing is computed."""
    return jax.tree.map(lambda leaf: jnp.zeros((*rows, *leaf.shape), leaf.dtype), jax.eval_shape(function, *arrays))


def _together(width: int) -> int:
    return 1 if on_cpu() else min(width, TOGETHER)
