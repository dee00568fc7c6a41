"""Second derivatives of a model's density, in the way that the model allows.

JAX takes them forward over reverse at the least cost. A function with a reverse rule of its own (``jax.custom_vjp``, of
which ``jax.experimental.ode.odeint`` is one) has no forward rule: then differences of gradients. (Reverse over reverse,
where it is possible at all, takes ten times as long: each backward solution is then solved backwards.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = Any

STEP = 1e-4
"""Half the distance of the gradients in a difference; unconstrained parameters are of the order of 1."""


def by_differences(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The symmetric matrix of central differences of the gradients of ``function``."""
    gradient = jax.grad(function)

    def matrix(z: Array) -> Array:
        moves = STEP * jnp.eye(z.shape[0], dtype=z.dtype)
        rows = jax.vmap(lambda move: (gradient(z + move) - gradient(z - move)) / (2 * STEP))(moves)
        return 0.5 * (rows + rows.T)

    return matrix


WAYS: dict[str, Callable[[Callable[[Array], Array]], Callable[[Array], Array]]] = {
    "forward": jax.hessian,
    "differences": by_differences,
}
"""By name, what makes of a function of ``(n,)`` that of its second derivatives ``(n, n)``; the best first."""
