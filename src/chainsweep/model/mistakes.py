"""Messages on mistakes in a user's model file: what went wrong, in which line, and what to write instead."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from chainsweep.errors import ModelError
from chainsweep.model.handlers import written

SYMBOLS = "JAX compiles the model, so parameters and data are symbols without values while it runs"
ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        jax.errors.TracerArrayConversionError,
        "and NumPy functions need values. Use those of jax.numpy (import jax.numpy as jnp): jnp.exp in place of "
        "np.exp, jnp.where in place of np.where",
    ),
    (
        jax.errors.TracerBoolConversionError,
        "and Python's if, while, and, or, not, min, max and assert need them. Use jnp.where(condition, this, that), "
        "jnp.logical_and, jnp.minimum, jnp.maximum or jnp.clip",
    ),
    (
        jax.errors.TracerIntegerConversionError,
        "and range(n), a list's index or a shape need a whole number. Loop over a fixed number and leave out what is "
        "too much by jnp.where(k < n, ...), or use jax.lax.fori_loop, and index jnp arrays, not lists",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "and how many points x[x > 0] selects is not known. Keep all points: jnp.where(x > 0, this, that), or "
        "jnp.sum(..., where=x > 0)",
    ),
    (
        jax.errors.UnexpectedTracerError,
        "and one of an earlier call was kept (in a global variable, a list or a cache). A model may keep nothing from "
        "one call to the next",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "and float(), int(), .item(), functions of math, or a shape need them. Leave the value an array: x.max() in "
        "place of float(x.max()), jnp.exp in place of math.exp, x.shape[0] where a number of points is meant",
    ),
)
"""The advice on what to write instead, by JAX's exception; the first that fits counts, so subclasses come first."""


def told(function: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Return the user's ``function`` of the file ``path`` such that all its exceptions become a ModelError."""

    own = written(function)

    @functools.wraps(own)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except ModelError:
            raise
        except Exception as error:
            name = getattr(own, "__name__", "model")
            raise ModelError(f"{path}: model '{name}' raised when it was run: {explained(error, path)}") from error

    return call


def explained(error: BaseException, path: Path) -> str:
    """Return one line: the exception, the deepest line of the file ``path`` that it passed, and advice where known."""
    what, line = type(error).__name__, _line(error, path)
    for kind, advice in ADVICE:
        if isinstance(error, kind):
            return f"{what}{line}. {SYMBOLS}, {advice}"
    return f"{what}: {' '.join(str(error).split())}{line}"


def _line(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f" (line {error.lineno})"
    own = path.resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == own]
    return f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
