"""Uniform and normal numbers from a key, for compiled loops that draw many.

This is JAX's own generator, Threefry of 20 rounds, with the rounds unrolled: on a processor JAX computes them in a
loop, which takes four times as long.

Reference: J. Salmon, M. Moraes, R. Dror, D. Shaw, Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from chainsweep.numerics.arrays import Array
from chainsweep.numerics.keys import threefry


def random_words(key: Array, count: int) -> tuple[Array, Array]:
    """Upper and lower halves ``(count,)``, 32 bits each, of the words of ``jax.random.bits``."""
    key = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    low = jax.lax.iota(jnp.uint32, count)
    return threefry(key[0], key[1], jnp.zeros_like(low), low)


def uniforms(key: Array, count: int) -> Array:
    """Uniform numbers ``(count,)``: odd multiples of half the smallest step, so that neither 0 nor 1 is among them."""
    high, low = random_words(key, count)
    if jnp.zeros(()).dtype == jnp.float32:
        return ((high >> np.uint32(9)).astype(jnp.float32) + 0.5) * 2.0**-23
    whole = ((high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)) >> np.uint64(12)
    return (whole.astype(jnp.int64).astype(jnp.float64) + 0.5) * 2.0**-52


def normals(uniform: Array) -> Array:
    """Standard normal numbers from uniform ones, by inversion of the distribution function."""
    return math.sqrt(2.0) * jax.lax.erf_inv(2.0 * uniform - 1.0)
