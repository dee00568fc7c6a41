"""A limit on the loops of a model that may otherwise never end.

The number of steps of a differential equation solver depends on the point; far from the posterior, where a rate is a
million, the solver never ends, and a compiled program cannot be interrupted. Here each loop whose length is not known
in advance ends after ``MAX_ROUNDS``; the results of a loop that is not finished by then are NaN, and a density that
depends on them is treated like any other NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

MAX_ROUNDS = 10_000
"""The most rounds of one loop. A solver takes tens of steps at an easy point, and hundreds at a stiff one."""

Values = Sequence[Any]


def cut_off(function: Callable) -> Callable:
    """Return ``function`` of arrays, in which loops of unknown length end; unfinished floats are NaN.

    A function with its own differentiation rule (``jax.custom_vjp``) loses that rule: differentiate it before.
    """

    def ending(*arrays: Any) -> Any:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arrays)
        results = _evaluate(program, jax.tree.leaves(arrays))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return ending


def has_loop(program: Any) -> bool:
    """True where a jaxpr, or one inside it, has a loop of unknown length."""
    return any(eqn.primitive.name == "while" or _loops_within(eqn) for eqn in _jaxpr(program).eqns)


def _loops_within(eqn: JaxprEqn) -> bool:
    return any(has_loop(inner) for value in eqn.params.values() for inner in _programs_in(value))


def _programs_in(value: Any) -> Iterator[Any]:
    if isinstance(value, Jaxpr | ClosedJaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _programs_in(one)


def _jaxpr(program: Any) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _evaluate(program: Any, values: Values) -> list[Any]:
    """Compute a jaxpr at ``values``, with at most ``MAX_ROUNDS`` rounds of each loop of unknown length."""
    jaxpr = _jaxpr(program)
    consts = program.consts if isinstance(program, ClosedJaxpr) else []
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

    def read(name: Any) -> Any:
        return name.val if isinstance(name, Literal) else known[name]

    for eqn in jaxpr.eqns:
        given = [read(name) for name in eqn.invars]
        rule = _RULES.get(eqn.primitive.name)
        if rule is not None and (eqn.primitive.name == "while" or _loops_within(eqn)):
            found = rule(eqn, given)
        else:
            bound = eqn.primitive.get_bind_params(eqn.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before JAX 0.10
            found = eqn.primitive.bind(*functions, *given, **params)
            found = found if eqn.primitive.multiple_results else [found]
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(name) for name in jaxpr.outvars]


def _ended_while(eqn: JaxprEqn, given: Values) -> Values:
    params = eqn.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    # A loop over several points at once asks each of them, and moves those that go on.
    several = bool(params["cond_jaxpr"].out_avals[0].shape)
    asked = partial(_of, params["cond_jaxpr"], given[:first])
    moved = partial(_of, params["body_jaxpr"], given[first:second])

    def goes_on(state: Any) -> Any:
        rounds, carry = state
        return (rounds < MAX_ROUNDS) & jnp.any(asked(carry)[0])

    def step(state: Any) -> Any:
        rounds, carry = state
        moved_on = moved(carry)
        if several:
            (going,) = asked(carry)
            moved_on = [_where(going, new, old) for new, old in zip(moved_on, carry, strict=True)]
        return rounds + 1, moved_on

    _, carry = jax.lax.while_loop(goes_on, step, (0, list(given[second:])))
    (unfinished,) = asked(carry)
    return [
        _where(unfinished, jnp.nan, value) if jnp.issubdtype(value.dtype, jnp.inexact) else value for value in carry
    ]


def _where(chosen: Any, new: Any, old: Any) -> Any:
    """Return ``new`` where ``chosen`` is True, else ``old``; the axes of ``chosen`` are the first of ``old``."""
    chosen = jnp.reshape(chosen, jnp.shape(chosen) + (1,) * (jnp.ndim(old) - jnp.ndim(chosen)))
    return jnp.where(chosen, new, old)


def _scan(eqn: JaxprEqn, given: Values) -> Values:
    # How many constants and carried values there are, the parameters of the primitive say differently from version to
    # version; but what is gone through, or collected, has one axis more outside than inside.
    params, body = eqn.params, eqn.params["jaxpr"]
    gone_through = sum(map(_has_more_axes, eqn.invars, body.in_avals))
    carried = len(eqn.outvars) - sum(map(_has_more_axes, eqn.outvars, body.out_avals))
    consts = len(given) - carried - gone_through

    def step(carry: Any, row: Any) -> Any:
        found = _evaluate(body, [*given[:consts], *carry, *row])
        return found[:carried], found[carried:]

    last, rows = jax.lax.scan(
        step,
        list(given[consts : consts + carried]),
        list(given[consts + carried :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*last, *rows]


def _has_more_axes(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) > len(inside.shape)


def _branches(eqn: JaxprEqn, given: Values) -> Values:
    return jax.lax.switch(given[0], [partial(_of, branch, []) for branch in eqn.params["branches"]], list(given[1:]))


def _call(eqn: JaxprEqn, given: Values) -> Values:
    params = eqn.params
    return _evaluate(params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"], given)


def _of(program: Any, consts: Values, values: Values) -> list[Any]:
    return _evaluate(program, [*consts, *values])


_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call")
_RULES: dict[str, Callable[[JaxprEqn, Values], Values]] = {
    "while": _ended_while,
    "scan": _scan,
    "cond": _branches,
    **dict.fromkeys(_CALLS, _call),
}
