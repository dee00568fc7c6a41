"""Compiled loops over data sets.

A processor takes one data set after another: its arrays stay in the cache, none waits for another, and what is not
asked for costs nothing. An accelerator takes many at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from chainsweep.numerics.cut_off import cut_off

MAX_BLOCK = 1 << 24
"""Numbers in the largest intermediate array of data sets that an accelerator takes together."""
DATASETS = 4
"""Data sets of one call on a processor, which goes through those that there are."""
TOGETHER = 512
"""Lanes that an accelerator advances together."""


def one_by_one_here() -> bool:
    """Whether programs compiled now are for a processor."""
    return jax.default_backend() == "cpu"


def lanes_of(numbers: int) -> int:
    """Data sets of one compiled call, ``numbers`` being the largest array of one of them."""
    return DATASETS if one_by_one_here() else max(1, min(TOGETHER, MAX_BLOCK // max(1, numbers)))


def first_of(function: Callable, arrays: tuple[Any, ...], count: Any) -> Any:
    """``function`` of each of the first ``count`` rows of ``arrays``; behind them is nothing of meaning.

    An accelerator takes all rows at once.
    """
    if not one_by_one_here():
        return jax.vmap(function)(*arrays)

    of_row = traced_once(function)

    def add(k: Any, found: Any) -> Any:
        return jax.tree.map(lambda whole, part: whole.at[k].set(part), found, of_row(*_row(arrays, k)))

    rows = jax.tree.leaves(arrays)[0].shape[0]
    return jax.lax.fori_loop(0, count, add, zeros_like_result(of_row, *_row(arrays, 0), rows=(rows,)))


def _row(arrays: Any, k: Any) -> Any:
    return jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, k, keepdims=False), arrays)


def one_by_one(function: Callable, rows: Any, count: Any, given: tuple[Any, ...], datasets: tuple[Any, ...]) -> Any:
    """``function`` of what is ``given`` ``(row, ...)`` and of the ``datasets`` ``(dataset, ...)`` that ``rows`` name.

    The first ``count`` rows are gone through one after the other; zeros elsewhere.
    """

    of_row = traced_once(function)

    def arguments(i: Any) -> tuple[Any, ...]:
        return *_row(given, i), *_row(datasets, rows[i])

    def add(i: Any, found: Any) -> Any:
        return jax.tree.map(lambda whole, part: whole.at[i].set(part), found, of_row(*arguments(i)))

    return jax.lax.fori_loop(0, count, add, zeros_like_result(of_row, *arguments(0), rows=rows.shape))


def of_lanes(function: Callable, arrays: Any, rows: Any, count: Any, result: Any) -> Any:
    """``result`` with ``function`` of the first ``count`` of the lanes ``rows`` in their places.

    ``arrays`` and ``result`` have lanes in front. An accelerator takes ``TOGETHER`` of them at once.
    """
    width = rows.shape[0]
    together = _together(width)
    over_lanes = jax.vmap(function)

    def some(k: Any, result: Any) -> Any:
        places = k * together + jnp.arange(together)
        inside = rows[jnp.minimum(places, count - 1)]
        found = over_lanes(*jax.tree.map(lambda array: array[inside], arrays))
        targets = jnp.where(places < count, inside, width)
        return jax.tree.map(lambda whole, part: whole.at[targets].set(part, mode="drop"), result, found)

    return jax.lax.fori_loop(0, (count + together - 1) // together, some, result)


def lanes_computed(count: int, width: int) -> int:
    """How many of ``width`` lanes cost time where ``count`` are busy."""
    together = _together(width)
    return -(-count // together) * together


def apart(function: Callable, *arrays: Any) -> Any:
    """``function`` of ``arrays``, on a processor as a program within the program.

    A compiler fuses what makes an array with what uses it; where there are several uses, or each reads it more than
    once, it is then computed as often. It cannot look through a branch whose condition it does not know. (An
    accelerator would wait at each such branch.)
    """
    if not one_by_one_here():
        return function(*arrays)
    always, once = jax.lax.optimization_barrier(jnp.asarray(True)), traced_once(function)
    return jax.lax.cond(always, once, lambda *some: zeros_like_result(once, *some), *arrays)


def alone(function: Callable) -> Callable:
    """``function(z, obs)``, a number, whose loops end, and whose ``vmap`` goes from point to point on a processor.

    A loop that ends when a point says so would else go on for all of them until the slowest is done. The function can
    be differentiated once, by ``z`` and backwards. An accelerator takes all points at once.
    """
    value, sloped = cut_off(function), cut_off(jax.value_and_grad(function))
    if one_by_one_here():
        value, sloped = sequential_vmap(value), sequential_vmap(sloped)
    single = jax.custom_vjp(value)

    def forth(z: Any, obs: Any) -> tuple[Any, Any]:
        return sloped(z, obs)

    def back(slope: Any, weight: Any) -> tuple[Any, None]:
        return weight * slope, None

    single.defvjp(forth, back)
    return single


def traced_once(function: Callable) -> Callable:
    """``function``, whose Python is gone through once for each shape of arguments, however often it is called."""
    return jax.jit(function, inline=True)


def zeros_like_result(function: Callable, *arrays: Any, rows: tuple[int, ...] = ()) -> Any:
    """Zeros of the shapes that ``function`` gives, behind ``rows``; nothing is computed."""
    return jax.tree.map(lambda leaf: jnp.zeros((*rows, *leaf.shape), leaf.dtype), jax.eval_shape(function, *arrays))


def _together(width: int) -> int:
    return 1 if one_by_one_here() else min(width, TOGETHER)
