"""Loops that would not end are cut off; all else is what it was."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint

from chainsweep.model.problem import double_precision
from chainsweep.numerics import cut_off as module
from chainsweep.numerics.cut_off import cut_off, has_loop

TIMES = np.linspace(0.0, 10.0, 12)


def halvings(a: Any) -> Any:
    """The halvings until ``a`` is below one, and what is left: of infinity, for ever."""
    return jax.lax.while_loop(lambda c: c[1] >= 1.0, lambda c: (c[0] + 1, c[1] / 2), (0, a))


def in_a_scan(a: Any) -> Any:
    return jax.lax.scan(lambda total, _: (total + halvings(a)[1], halvings(a)), jnp.zeros(()), None, length=3)


def in_a_branch(a: Any) -> Any:
    return jax.lax.cond(a > 0, lambda a: halvings(a), lambda a: (0, -a), a)


def in_a_call(a: Any) -> Any:
    return jax.jit(lambda a: halvings(2 * a))(a), jnp.sin(a)


def in_a_rule(a: Any) -> Any:
    ruled = jax.custom_vjp(lambda a: halvings(a)[1])
    ruled.defvjp(lambda a: (halvings(a)[1], a), lambda a, slope: (slope,))
    return ruled(a), jax.grad(ruled)(a)


def over_points(a: Any) -> Any:
    return jax.vmap(halvings)(jnp.stack([jnp.asarray(a), jnp.asarray(3.0), jnp.asarray(0.5)]))


@pytest.mark.parametrize("function", [halvings, in_a_scan, in_a_branch, in_a_call, in_a_rule, over_points])
def test_what_ends_is_bit_for_bit_what_it_was(function):
    double_precision()
    assert has_loop(jax.make_jaxpr(function)(1.0))
    for a in (0.3, 7.0, 1e9):
        ours, theirs = cut_off(function)(a), function(a)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("function", [halvings, in_a_scan, in_a_branch, in_a_call, in_a_rule])
def test_what_does_not_end_is_not_a_number(function):
    double_precision()
    found = jax.tree.leaves(cut_off(function)(jnp.inf))
    unfinished = [leaf for leaf in found if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert np.isnan(np.ravel(unfinished[0])).all()


def test_of_several_points_only_the_endless_one_is_not_a_number(monkeypatch):
    double_precision()
    monkeypatch.setattr(module, "MAX_ROUNDS", 20)
    inside, outside = cut_off(over_points)(jnp.inf), jax.vmap(cut_off(halvings))(jnp.array([jnp.inf, 3.0, 0.5]))
    for rounds, left in (inside, outside):
        np.testing.assert_array_equal(left, [np.nan, 0.75, 0.5])
        np.testing.assert_array_equal(rounds[1:], [2, 0])


def test_a_differential_equation_keeps_its_solution_and_its_slope():
    """Logistic growth: the solution is known; at a rate of e^12 a step of the solver is no step any more."""
    double_precision()

    def final(z: Any) -> Any:
        rate, capacity, start = jnp.exp(z)
        return odeint(lambda y, t: rate * y * (1 - y / capacity), start, jnp.asarray(TIMES), rtol=1e-8, atol=1e-10)[-1]

    def exact(z: Any) -> Any:
        rate, capacity, start = jnp.exp(z)
        return capacity / (1 + (capacity / start - 1) * jnp.exp(-rate * TIMES[-1]))

    z = jnp.array([-2.0, 2.0, -1.0])
    both = jax.jit(cut_off(jax.value_and_grad(final)))
    for ours, theirs in zip(both(z), jax.value_and_grad(exact)(z), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.isnan(both(z.at[0].set(12.0))[0])


def test_a_loop_of_known_length_is_no_loop_that_may_not_end():
    assert not has_loop(jax.make_jaxpr(lambda a: jax.lax.scan(lambda c, _: (c / 2, c), a, None, length=20_000))(1.0))
