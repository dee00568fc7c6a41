"""Second derivatives of a model's density, in the way that the model allows.

The cheapest way in JAX is forward over reverse mode. A function with a reverse rule of its own (``jax.custom_vjp``,
such as ``jax.experimental.ode.odeint``) has no forward rule: then differences of gradients are taken. (Reverse over
reverse mode, where it is possible at all, takes ten times as long: each backward solution is then solved backwards.)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from chainsweep.numerics.arrays import Array

STEP = 1e-4
"""Half the distance between the points of a difference of gradients; unconstrained parameters are of the order of 1."""


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
"""The ways to second derivatives by name, the best first. Each turns a function of ``(n,)`` into the function that
gives its second derivatives ``(n, n)``."""
