"""From a model file to a Problem: load it, trace it, and say clearly what is wrong with it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import Distribution

from chainsweep.config import CampaignConfig
from chainsweep.errors import ModelError
from chainsweep.model.mistakes import explained, told
from chainsweep.model.problem import Observation, Parameter, Problem, Structure, observation
from chainsweep.model.source import ModelLoader, read_source
from chainsweep.model.transforms import free_transform
from chainsweep.model.trial import check_compiles, padding_is_invisible

RESERVED_NAMES = ("dataset", "chain", "draw", "n_draws")


def load_problem(
    path: Path,
    config: CampaignConfig,
    example: Observation,
    structure: Structure | None = None,
    module: ModuleType | None = None,
) -> Problem:
    """Load a model file, unless it is given as ``module``, and check it against one data set.

    Switches JAX to double precision. ``example`` is one data set of the campaign, unpadded. With ``structure``, which
    this function found for the same file and data before, nothing is traced or checked again.

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
        return _black_box(module, path, config, observed, structure)
    model = told(function, path)
    if structure is not None:
        return Problem(model, structure, observed, config.model.curve)
    structure = trace_structure(model, path, example, observed)
    problem = Problem(model, structure, observed, config.model.curve)
    _check_curve(problem, path, example)
    check_compiles(problem, path, example)
    if structure.paddable and not padding_is_invisible(problem, example):
        problem = replace(problem, structure=replace(structure, paddable=False))
    return problem


def load_module(path: Path, source: bytes | None = None) -> ModuleType:
    """Execute a model file as a module of its own; the error of a file that raises names its line.

    Where ``source`` is given, these bytes are run, which the caller has compared with a hash; else those of the file.
    Nothing that Python compiled before (``__pycache__``) is ever run in their place. Switches JAX to double precision
    before, since the file may make arrays.
    """
    jax.config.update("jax_enable_x64", True)
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


def _trace_once(function: Callable, arguments: Mapping[str, Any]) -> Any:
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        function(**arguments)
    return trace


def _latent_sites(trace: Any) -> dict[str, Any]:
    return {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}


def _observed_sites(trace: Any) -> dict[str, Any]:
    return {n: s for n, s in trace.items() if s["type"] == "sample" and s["is_observed"]}


def trace_structure(function: Callable, path: Path, example: Observation, observed: tuple[str, ...]) -> Structure:
    """Trace a NumPyro model on one unpadded data set and on one with a point more.

    Raises ``ModelError`` where the model cannot be used as it is; ``path`` names its file in the message.
    """
    longer = _append_last_point(example)
    trace = _trace_once(function, {**example.fields, **example.constants})
    trace_longer = _trace_once(function, {**longer.fields, **longer.constants})
    sites = _observed_sites(trace)
    if not sites:
        raise ModelError(
            f"{path}: model '{function.__name__}' has no observed site; "
            f"pass obs={observed[0]} to one of its numpyro.sample statements"
        )
    for name, site in trace.items():
        _check_density(name, site, path)
    latent = _latent_sites(trace)
    if not latent:
        raise ModelError(f"{path}: model '{function.__name__}' has no latent numpyro.sample site to infer")
    for name, site in latent.items():
        if "/" in name or name in RESERVED_NAMES:
            raise ModelError(
                f"{path}: latent site '{name}' needs another name: it holds '/' or is one of "
                f"{', '.join(RESERVED_NAMES)}, which the stored files use"
            )
        if site["fn"].support.is_discrete:
            raise ModelError(
                f"{path}: latent site '{name}' is discrete ({type(site['fn']).__name__}); "
                "the engines need continuous parameters: sum it out in the model"
            )
        other = trace_longer.get(name)
        if other is None or jnp.shape(other["value"]) != jnp.shape(site["value"]):
            raise ModelError(
                f"{path}: the shape of latent site '{name}' depends on the number of points; "
                "parameters must have one shape for all data sets"
            )
    axes, paddable = _point_axes(sites, _observed_sites(trace_longer))
    mapping = _map_observed(function, path, sites, example, observed)
    simulated = _trace_once(function, {**example.fields, **example.constants, **dict.fromkeys(observed)})
    for name, site_name in mapping.items():
        if jnp.shape(simulated[site_name]["value"]) != jnp.shape(example.fields[name]):
            raise ModelError(
                f"{path}: with {name}=None the site '{site_name}' draws shape "
                f"{jnp.shape(simulated[site_name]['value'])}, but the data have "
                f"{jnp.shape(example.fields[name])}; give it the shape of the design, not of the data"
            )
    return Structure(tuple(_parameter(n, s) for n, s in latent.items()), mapping, axes, paddable)


def _check_density(name: str, site: Any, path: Path) -> None:
    if site["type"] != "sample":
        return
    try:
        jax.eval_shape(site["fn"].log_prob, site["value"])
    except Exception as error:
        kind, shape = type(site["fn"]).__name__, jnp.shape(site["value"])
        raise ModelError(
            f"{path}: site '{name}': {kind} gives no log density of values of shape {shape}: {explained(error, path)}"
        ) from error


def _parameter(name: str, site: Any) -> Parameter:
    shape = jnp.shape(site["value"])
    free = free_transform(site["fn"].support).inverse_shape(shape)
    return Parameter(name, tuple(shape), tuple(free))


def _append_last_point(example: Observation) -> Observation:
    fields = {n: jnp.concatenate([v, v[-1:]]) for n, v in example.fields.items()}
    return Observation(fields, example.constants, jnp.ones(example.mask.shape[0] + 1, bool))


def _point_axes(sites: dict[str, Any], longer: dict[str, Any]) -> tuple[dict[str, int], bool]:
    """The axis of each observed site that runs over points; not paddable when a site has none."""
    axes: dict[str, int] = {}
    for name, site in sites.items():
        shape, other = site["fn"].batch_shape, longer[name]["fn"].batch_shape
        changed = [i - len(shape) for i in range(len(shape)) if len(other) == len(shape) and shape[i] != other[i]]
        if len(changed) == 1:
            axes[name] = changed[0]
    return axes, len(axes) == len(sites)


def _map_observed(
    function: Callable,
    path: Path,
    sites: dict[str, Any],
    example: Observation,
    observed: tuple[str, ...],
) -> dict[str, str]:
    mapping = {}
    for name in observed:
        data = example.fields[name]
        matches = [site for site, message in sites.items() if message["value"] is data]
        if not matches:
            matches = [
                site
                for site, message in sites.items()
                if jnp.shape(message["value"]) == data.shape and bool(jnp.all(message["value"] == data))
            ]
        if len(matches) != 1:
            raise ModelError(
                f"{path}: observed argument '{name}' of model '{function.__name__}' must be passed unchanged as "
                f"obs={name} to exactly one numpyro.sample site; {len(matches)} sites observe it "
                f"(observed sites: {', '.join(sites)})"
            )
        mapping[name] = matches[0]
    return mapping


def _check_curve(problem: Problem, path: Path, example: Observation) -> None:
    if problem.curve_site is None:
        return
    trace = _trace_once(problem.model, {**example.fields, **example.constants})
    if problem.curve_site not in trace:
        deterministic = [n for n, s in trace.items() if s["type"] == "deterministic"]
        raise ModelError(
            f"{path}: [model] curve = '{problem.curve_site}' is no site of the model; "
            f"its deterministic sites: {', '.join(deterministic) or 'none'}"
        )
    if jnp.shape(trace[problem.curve_site]["value"]) != example.mask.shape:
        raise ModelError(f"{path}: [model] curve = '{problem.curve_site}' must have one value a point")


def _black_box(
    module: ModuleType, path: Path, config: CampaignConfig, observed: tuple[str, ...], structure: Structure | None
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
        if not isinstance(distribution, Distribution) or distribution.support.is_discrete:
            raise ModelError(f"{path}: prior['{name}'] must be a continuous NumPyro distribution, got {distribution!r}")
    if config.model.curve is not None:
        raise ModelError(
            f"{path}: [model] curve = '{config.model.curve}' names a deterministic site of a NumPyro model, and a "
            "black-box model has none; leave it out"
        )
    log_likelihood = getattr(module, "log_likelihood", None)
    simulate = getattr(module, "simulate", None)
    if log_likelihood is None and simulate is None:
        raise ModelError(f"{path}: a black-box model needs 'log_likelihood' and / or 'simulate' beside 'prior'")

    def prior_model() -> None:
        import numpyro

        for name, distribution in prior.items():
            numpyro.sample(name, distribution)

    if structure is None:
        latent = _latent_sites(_trace_once(prior_model, {}))
        structure = Structure(tuple(_parameter(n, s) for n, s in latent.items()), {}, {}, paddable=True)
    return Problem(
        prior_model,
        structure,
        observed,
        host_log_likelihood=log_likelihood,
        host_simulate=simulate,
        black_box=True,
    )


def example_observation(fields: Mapping[str, np.ndarray], constants: Mapping[str, float]) -> Observation:
    """One unpadded data set as an Observation."""
    length = len(next(iter(fields.values())))
    return observation(fields, constants, np.ones(length, bool))
