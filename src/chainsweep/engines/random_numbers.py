"""Uniform and normal numbers from a key, for compiled loops that draw many.

JAX's own generator, Threefry of 20 rounds, written out: JAX rolls the rounds up on a processor, where they then take
four times as long.

Reference: J. Salmon, M. Moraes, R. Dror, D. Shaw, Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def random_words(key: Array, count: int) -> tuple[Array, Array]:
    """Upper and lower halves ``(count,)``, 32 bits each, of the words of ``jax.random.bits``."""
    key = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    keys = key[0], key[1], key[0] ^ key[1] ^ PARITY
    low = jax.lax.iota(jnp.uint32, count)
    high = jnp.zeros_like(low) + keys[0]
    low = low + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            high = high + low
            low = ((low << np.uint32(rotation)) | (low >> np.uint32(32 - rotation))) ^ high
        high = high + keys[(block + 1) % 3]
        low = low + keys[(block + 2) % 3] + np.uint32(block + 1)
    return high, low


def uniforms(key: Array, count: int) -> Array:
    """Shape ``(count,)``: multiples of the smallest step plus its half, so that neither 0 nor 1 is among them."""
    high, low = random_words(key, count)
    if jnp.zeros(()).dtype == jnp.float32:
        return ((high >> np.uint32(9)).astype(jnp.float32) + 0.5) * 2.0**-23
    whole = ((high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)) >> np.uint64(12)
    return (whole.astype(jnp.int64).astype(jnp.float64) + 0.5) * 2.0**-52


def normals(uniform: Array) -> Array:
    """Standard normal numbers, by inversion."""
    return math.sqrt(2.0) * jax.lax.erf_inv(2.0 * uniform - 1.0)
