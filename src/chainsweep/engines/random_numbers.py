"""Uniform and normal numbers from a key, for compiled loops that draw many.

JAX's own generator, Threefry of 20 rounds, written out: JAX rolls the rounds up on a processor, where they then take
four times as long.

Reference: J. Salmon, M. Moraes, R. Dror, D. Shaw, Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
MANTISSA = 52
"""Bits of a uniform number, half of the last one added: neither 0 nor 1 is one."""


def random_bits(key: Array, count: int) -> Array:
    """64-bit words ``(count,)`` from a raw key ``(2,)``, those of ``jax.random.bits``."""
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
    return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)


def uniforms(key: Array, count: int) -> Array:
    """Between 0 and 1, exclusive; shape ``(count,)``, double precision."""
    whole = (random_bits(key, count) >> np.uint64(64 - MANTISSA)).astype(jnp.int64)
    return (whole.astype(jnp.float64) + 0.5) * 2.0**-MANTISSA


def normals(uniform: Array) -> Array:
    """Standard normal numbers, by inversion."""
    return np.sqrt(2.0) * jax.lax.erf_inv(2.0 * uniform - 1.0)
