"""Loading of a model file as a Problem: execute it, trace it, and report clearly what is wrong with it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from chainsweep.config.sections import ModelConfig
from chainsweep.errors import ModelError
from chainsweep.model.handlers import unusable
from chainsweep.model.mistakes import explained, told
from chainsweep.model.problem import Observation, Problem, double_precision, observation
from chainsweep.model.source import ModelLoader, read_source
from chainsweep.model.structure import Structure
from chainsweep.model.trace import latent_sites, parameter_of, trace_once, trace_structure
from chainsweep.model.trial import (
    check_is_function,
    compilable,
    gradient_note,
    likely_points,
    padding_is_invisible,
    still_columns,
)


def load_problem(
    path: Path,
    config: ModelConfig,
    example: Observation,
    structure: Structure | None = None,
    module: ModuleType | None = None,
    others: Sequence[Observation] = (),
    shared: Sequence[str] = (),
    say: Callable[[str], None] = lambda note: None,
) -> Problem:
    """Load a model file, unless it is given as ``module``, and check it against some data sets.

    Switches JAX to double precision. ``example`` and ``others`` are data sets of the campaign, unpadded; ``shared``
    names constants that have one value in all data sets; ``say`` is called with warnings, which are no errors yet. With
    ``structure``, which this function found for the same file and data before, nothing is traced or checked again.

    Raises
    ------
    ModelError
        The file cannot be executed, defines no model, or the model cannot be used as it is; the message
        names the function, argument or site.
    """
    module = module if module is not None else load_module(path)
    function = getattr(module, config.model.function, None)
    observed = tuple(config.model.observed)
    if not callable(function):
        return _black_box(module, path, config, example, structure)
    model = told(function, path)
    if structure is not None:
        return Problem(model, structure, observed, config.model.curve)
    if config.model.call_timeout_s is not None:
        raise ModelError(
            f"{path}: [model] call_timeout_s limits calls of 'log_likelihood' and 'simulate' of a black-box model, and "
            f"'{config.model.function}' is a NumPyro one, which is compiled and not called; leave it out"
        )
    structure = trace_structure(model, path, example, observed, others)
    problem = Problem(model, structure, observed, config.model.curve)
    _check_curve(problem, path, example)
    problem = _compilable(problem, path, example, shared)
    paddable = problem.structure.paddable
    for each in (example, *others):
        z = likely_points(problem, each)
        check_is_function(problem, path, each, z)
        note = gradient_note(problem, path, each, z)
        if note is not None:
            say(note)
        paddable = paddable and padding_is_invisible(problem, each, z)
    still = still_columns(problem, example)
    return replace(problem, structure=replace(problem.structure, still=still, paddable=paddable))


def _compilable(problem: Problem, path: Path, example: Observation, shared: Sequence[str]) -> Problem:
    """The problem in the form that compiles, with ``shared`` constants fixed if it needs them as numbers.

    A model that calls ``int(degree)``, for example, needs the constant ``degree`` as a number.

    Raises
    ------
    ModelError
        The model cannot be compiled either way.
    """
    try:
        return compilable(problem, path, example)
    except ModelError as error:
        if not shared:
            raise
        fixed = {name: float(example.constants[name]) for name in shared}
        problem = replace(problem, structure=replace(problem.structure, fixed=fixed))
        try:
            return compilable(problem, path, example)
        except ModelError:
            # Fixed constants do not help, so the first error is the right one to report.
            raise error from error.__cause__


def load_module(path: Path, source: bytes | None = None) -> ModuleType:
    """Execute a model file as a module of its own; the error of a file that raises names its line.

    Where ``source`` is given, these bytes are run, which the caller has compared with a hash; else those of the file.
    Code that Python compiled before (``__pycache__``) is never run in their place. Switches JAX to double precision
    first, since the file may make arrays.
    """
    double_precision()
    name, text = "chainsweep_user_model", source if source is not None else read_source(path)
    loader = ModelLoader(str(path.absolute()), text)
    spec = importlib.util.spec_from_loader(name, loader, origin=loader.path)
    assert spec is not None
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path}: raised while it was loaded: {explained(error, path)}") from error
    return module


def _check_curve(problem: Problem, path: Path, example: Observation) -> None:
    if problem.curve_site is None:
        return
    trace = trace_once(problem.model, {**example.fields, **example.constants})
    if problem.curve_site not in trace:
        deterministic = [n for n, s in trace.items() if s["type"] == "deterministic"]
        raise ModelError(
            f"{path}: [model] curve = '{problem.curve_site}' is no site of the model; "
            f"its deterministic sites: {', '.join(deterministic) or 'none'}"
        )
    if jnp.shape(trace[problem.curve_site]["value"]) != example.mask.shape:
        raise ModelError(f"{path}: [model] curve = '{problem.curve_site}' must have one value a point")


def _black_box(
    module: ModuleType, path: Path, config: ModelConfig, example: Observation, structure: Structure | None
) -> Problem:
    prior = getattr(module, "prior", None)
    if prior is None:
        raise ModelError(
            f"{path}: defines neither a NumPyro model function '{config.model.function}' ([model] function) "
            "nor a dict 'prior' for a black-box model"
        )
    if not isinstance(prior, dict) or not prior:
        raise ModelError(f"{path}: 'prior' must be a non-empty dict of NumPyro distributions, got {type(prior)}")
    for name, distribution in prior.items():
        if not isinstance(distribution, Distribution):
            raise ModelError(f"{path}: prior['{name}'] must be a continuous NumPyro distribution, got {distribution!r}")
        if (reason := unusable(distribution)) is not None:
            raise ModelError(f"{path}: prior['{name}'] {reason}")
    if config.model.curve is not None:
        raise ModelError(
            f"{path}: [model] curve = '{config.model.curve}' names a deterministic site of a NumPyro model, and a "
            "black-box model has none; leave it out"
        )
    observed = tuple(config.model.observed)
    log_likelihood = getattr(module, "log_likelihood", None)
    simulate = getattr(module, "simulate", None)
    if log_likelihood is None and simulate is None:
        raise ModelError(f"{path}: a black-box model needs 'log_likelihood' and / or 'simulate' in addition to 'prior'")

    def prior_model() -> None:
        import numpyro

        for name, distribution in prior.items():
            numpyro.sample(name, distribution)

    if structure is None:
        latent = latent_sites(trace_once(prior_model, {}))
        structure = Structure(tuple(parameter_of(n, s) for n, s in latent.items()), {}, {}, paddable=True)
        problem = Problem(prior_model, structure, (), black_box=True)
        structure = replace(structure, still=still_columns(problem, example))
    return Problem(
        prior_model,
        structure,
        observed,
        host_log_likelihood=log_likelihood,
        host_simulate=simulate,
        black_box=True,
    )


def example_observation(fields: Mapping[str, np.ndarray], constants: Mapping[str, Any]) -> Observation:
    """One unpadded data set as an Observation."""
    length = len(next(iter(fields.values())))
    return observation(fields, constants, np.ones(length, bool))
