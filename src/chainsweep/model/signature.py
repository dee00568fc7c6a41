"""The arguments of a user's functions: compared with the names in ``[data]``, which they complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from chainsweep.config.sections import ModelConfig
from chainsweep.errors import ConfigError, ModelError
from chainsweep.model.handlers import written

ConfigT = TypeVar("ConfigT", bound=ModelConfig)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
BLACK_BOX = {"log_likelihood": 1, "simulate": 2}
"""The functions of a black-box model, and the number of arguments before the fields: params; params, rng."""


def with_own_names(config: ConfigT, module: ModuleType, path: Path) -> ConfigT:
    """Return ``config`` where each argument of the model that ``[data]`` does not name is a field of its own name.

    An argument that has a default and is not observed keeps its default, where ``[data] fields`` is given.

    Raises
    ------
    ConfigError
        ``[data] fields`` is left out, and the arguments of the functions do not define the fields.
    ModelError
        An argument of the model is missing or superfluous, or ``[model]`` names one that does not exist.
    """
    given, observed = config.data.fields, config.model.observed
    functions = _functions_of(module, config)
    taken = {name: argument.default for each, skip in functions for name, argument in _named(each, skip).items()}
    if not hasattr(module, config.model.function):
        taken |= dict.fromkeys(observed)
    unnamed = [name for name in taken if name not in given and name not in config.data.constants]
    own = {name: name for name in unnamed if taken[name] is inspect.Parameter.empty or name in observed}
    if not given and (not functions or any(_takes_any(each) for each, _ in functions)):
        raise ConfigError(
            f"[data] fields is left out, and {path} has no function whose arguments say what the fields are; give, "
            'for example, fields = { x = "column of x", y = "column of y" }'
        )
    if not given and (doubtful := [name for name in unnamed if name not in own]):
        raise ConfigError(
            f"[data] fields is left out, and argument '{doubtful[0]}' of the model in {path} has a default: shall it "
            "be read from the data? Give fields, with all that is read from the data"
        )
    data = config.data.model_copy(update={"fields": {**given, **own}})
    config = config.model_copy(update={"data": data})
    if callable(model := getattr(module, config.model.function, None)):
        _check_arguments(model, path, config)
    _check_names(path, config)
    return config


def _functions_of(module: ModuleType, config: ModelConfig) -> list[tuple[Callable, int]]:
    """The functions that take fields, each with the number of arguments before them."""
    if callable(model := getattr(module, config.model.function, None)):
        return [(model, 0)]
    found = [(getattr(module, name, None), skip) for name, skip in BLACK_BOX.items()]
    return [(function, skip) for function, skip in found if callable(function)]


def _named(function: Callable, skip: int = 0) -> dict[str, inspect.Parameter]:
    arguments = list(inspect.signature(written(function)).parameters.items())[skip:]
    return {name: argument for name, argument in arguments if argument.kind in NAMED}


def _takes_any(function: Callable) -> bool:
    return any(
        argument.kind is argument.VAR_KEYWORD for argument in inspect.signature(written(function)).parameters.values()
    )


def _check_arguments(function: Callable, path: Path, config: ModelConfig) -> None:
    """Compare a NumPyro model's arguments with the names in ``[data]`` and the observed ones in ``[model]``."""
    arguments, observed = (*config.data.fields, *config.data.constants), config.model.observed
    named = _named(function)
    where = f"{path}: function '{config.model.function}({', '.join(inspect.signature(written(function)).parameters)})'"
    for argument in arguments:
        if argument not in named and not _takes_any(function):
            raise ModelError(
                f"{where} takes no argument '{argument}', which [data] fields or constants gives; "
                f"rename one of them (the model takes: {', '.join(named)})"
            )
    for name in observed:
        if name in named and named[name].default is not None:
            raise ModelError(f"{where}: observed argument '{name}' must default to None, so that it can be simulated")


def _check_names(path: Path, config: ModelConfig) -> None:
    """Raise ``ModelError`` unless all fields that ``[model]`` names exist."""
    fields = ", ".join(config.data.fields)
    for name in config.model.observed:
        if name not in config.data.fields:
            raise ModelError(
                f"{path}: [model] observed names '{name}', which is no argument of the model that the data give; "
                f"[data] fields: {fields}"
            )
    if config.model.x is not None and config.model.x not in config.data.fields:
        raise ModelError(
            f"{path}: [model] x = '{config.model.x}' is no argument of the model that has a value a point; "
            f"plots can be drawn over: {fields}"
        )
