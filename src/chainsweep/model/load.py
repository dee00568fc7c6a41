"""From a model file to a Problem: load it, trace it, and say clearly what is wrong with it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
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
from chainsweep.model.problem import Observation, Parameter, Problem, Structure, observation
from chainsweep.model.transforms import free_transform

RESERVED_NAMES = ("dataset", "chain", "draw", "n_draws")
PADDING_TRIAL = 8
"""Points of padding, and prior draws, of the trial whether padding changes the log density."""


def load_problem(
    path: Path, config: CampaignConfig, example: Observation, structure: Structure | None = None
) -> Problem:
    """Load a model file and check it against one data set.

    Switches JAX to double precision. ``example`` is one data set of the campaign, unpadded. With ``structure``, which
    this function found for the same file and data before, nothing is traced or checked again.

    Raises
    ------
    ModelError
        The file cannot be executed, defines no model, or the model cannot be used as it is; the message
        names the function, argument or site.
    """
    jax.config.update("jax_enable_x64", True)
    module = load_module(path)
    function = getattr(module, config.model.function, None)
    observed = tuple(config.model.observed)
    if callable(function) and structure is not None:
        return Problem(function, structure, observed, config.model.curve)
    if callable(function):
        arguments = (*config.data.fields, *config.data.constants)
        _check_signature(function, path, arguments, observed)
        structure = trace_structure(function, path, example, observed)
        problem = Problem(function, structure, observed, config.model.curve)
        _check_curve(problem, path, example)
        if structure.paddable and not _padding_is_invisible(problem, example):
            problem = replace(problem, structure=replace(structure, paddable=False))
        return problem
    return _black_box(module, path, config, observed, structure)


def load_module(path: Path) -> ModuleType:
    """Execute a model file as a module of its own; the error of a file that raises names its line."""
    spec = importlib.util.spec_from_file_location("chainsweep_user_model", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ModelError(f"{path}: no such model file; expected a Python file named by [model] file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"{path}: raised while it was loaded: {_where(error, path)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    line = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    if isinstance(error, SyntaxError) and error.lineno:
        line = f" (line {error.lineno})"
    return f"{type(error).__name__}: {error}{line}"


def _check_signature(function: Callable, path: Path, arguments: tuple[str, ...], observed: tuple[str, ...]) -> None:
    accepted = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    named = [n for n, p in accepted.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    where = f"{path}: function '{function.__name__}({', '.join(accepted)})'"
    for argument in arguments:
        if argument not in named and not open_ended:
            raise ModelError(
                f"{where} takes no argument '{argument}', which [data] fields or constants gives; "
                f"rename one of them (the model takes: {', '.join(named)})"
            )
    for name in named:
        if name not in arguments and accepted[name].default is inspect.Parameter.empty:
            raise ModelError(
                f"{where} needs argument '{name}', which neither [data] fields nor [data] constants gives; "
                f"they give: {', '.join(arguments)}"
            )
    for name in observed:
        if name not in arguments:
            raise ModelError(
                f"{path}: [model] observed names '{name}', which is no key of [data] fields ({', '.join(arguments)})"
            )
        if name in named and accepted[name].default is not None:
            raise ModelError(f"{where}: observed argument '{name}' must default to None, so that it can be simulated")


def _trace_once(function: Callable, path: Path, arguments: Mapping[str, Any]) -> Any:
    try:
        with handlers.seed(rng_seed=0), handlers.trace() as trace:
            function(**arguments)
    except Exception as error:
        raise ModelError(
            f"{path}: model '{function.__name__}' raised when it was run: {_where(error, path)}"
        ) from error
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
    trace = _trace_once(function, path, {**example.fields, **example.constants})
    trace_longer = _trace_once(function, path, {**longer.fields, **longer.constants})
    sites = _observed_sites(trace)
    if not sites:
        raise ModelError(
            f"{path}: model '{function.__name__}' has no observed site; "
            f"pass obs={observed[0]} to one of its numpyro.sample statements"
        )
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
    simulated = _trace_once(function, path, {**example.fields, **example.constants, **dict.fromkeys(observed)})
    for name, site_name in mapping.items():
        if jnp.shape(simulated[site_name]["value"]) != jnp.shape(example.fields[name]):
            raise ModelError(
                f"{path}: with {name}=None the site '{site_name}' draws shape "
                f"{jnp.shape(simulated[site_name]['value'])}, but the data have "
                f"{jnp.shape(example.fields[name])}; give it the shape of the design, not of the data"
            )
    return Structure(tuple(_parameter(n, s) for n, s in latent.items()), mapping, axes, paddable)


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


def _padding_is_invisible(problem: Problem, example: Observation) -> bool:
    """Whether the log density stays the same when points are padded and masked.

    It does not where the model looks at its fields as a whole (their length, their mean), which is allowed;
    such data sets are then never padded.
    """
    fields = {n: jnp.concatenate([v, jnp.repeat(v[-1:], PADDING_TRIAL, 0)]) for n, v in example.fields.items()}
    mask = jnp.concatenate([example.mask, jnp.zeros(PADDING_TRIAL, bool)])
    padded = Observation(fields, example.constants, mask)

    @jax.jit
    def compare(keys: Any) -> Any:
        theta = jax.vmap(lambda key: problem.sample_prior(key, example))(keys)
        return [jax.vmap(problem.log_density, in_axes=(0, None))(theta, obs) for obs in (example, padded)]

    plain, with_padding = compare(jax.random.split(jax.random.key(0), PADDING_TRIAL))
    return bool(np.allclose(plain, with_padding, rtol=1e-9, atol=1e-9, equal_nan=True))


def _check_curve(problem: Problem, path: Path, example: Observation) -> None:
    if problem.curve_site is None:
        return
    trace = _trace_once(problem.model, path, {**example.fields, **example.constants})
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
    log_likelihood = getattr(module, "log_likelihood", None)
    simulate = getattr(module, "simulate", None)
    if log_likelihood is None and simulate is None:
        raise ModelError(f"{path}: a black-box model needs 'log_likelihood' and / or 'simulate' beside 'prior'")

    def prior_model() -> None:
        import numpyro

        for name, distribution in prior.items():
            numpyro.sample(name, distribution)

    if structure is None:
        latent = _latent_sites(_trace_once(prior_model, path, {}))
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
