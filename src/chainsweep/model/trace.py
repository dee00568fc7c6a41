"""The structure of a model, found by running it on a data set: its latent sites, and the sites of the observed data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.primitives import Messenger

from chainsweep.errors import ModelError
from chainsweep.model.handlers import ExpandObserved, RefusePriors
from chainsweep.model.mistakes import explained
from chainsweep.model.problem import Observation
from chainsweep.model.structure import Parameter, Structure
from chainsweep.model.transforms import free_transform

RESERVED_NAMES = ("dataset", "chain", "draw", "n_draws")


def trace_once(function: Callable, arguments: Mapping[str, Any]) -> Any:
    """The trace of one run of a model with these arguments, always with the same random numbers."""
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        function(**arguments)
    return trace


def latent_sites(trace: Any) -> dict[str, Any]:
    """The sites that are to be inferred, by name."""
    return {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}


def parameter_of(name: str, site: Any) -> Parameter:
    """A latent site's name and shapes."""
    shape = jnp.shape(site["value"])
    free = free_transform(site["fn"].support).inverse_shape(shape)
    return Parameter(name, tuple(shape), tuple(free))


def trace_structure(
    function: Callable, path: Path, example: Observation, observed: tuple[str, ...], others: Sequence[Observation] = ()
) -> Structure:
    """Trace a NumPyro model on one unpadded data set, on one with a point more, and on ``others`` of the campaign.

    A model that takes only one length may be used where all data sets have this length: then nothing is padded.
    Raises ``ModelError`` where the model cannot be used as it is; ``path`` names its file in the message.
    """
    with _NoKeys(path):
        trace = trace_once(RefusePriors(function, path), _arguments(example))
    sites = _observed_sites(trace)
    if not sites:
        raise ModelError(
            f"{path}: model '{function.__name__}' has no observed site; "
            f"pass obs={observed[0]} to one of its numpyro.sample statements"
        )
    for name, site in trace.items():
        _check_no_choice(name, site, path)
        _check_density(name, site, path)
    latent = latent_sites(trace)
    _check_latent(function, path, latent)
    for other in others:
        _check_other_length(function, path, latent, example, other)
    axes, paddable = _point_axes(function, path, latent, sites, example)
    mapping = _map_observed(function, path, sites, example, observed)
    expanded, no_simulator = _simulates(function, path, mapping, example)
    parameters = tuple(parameter_of(n, s) for n, s in latent.items())
    return Structure(parameters, mapping, axes, paddable, expanded=expanded, no_simulator=no_simulator)


def _simulates(
    function: Callable, path: Path, mapping: Mapping[str, str], example: Observation
) -> tuple[tuple[str, ...], str]:
    """The observed sites that must be expanded to draw values like the data; or the reason why the model draws none."""
    without = ", ".join(f"{name}=None" for name in mapping)
    wanted = {site: (name, jnp.shape(example.fields[name])) for name, site in mapping.items()}
    arguments = {**_arguments(example), **dict.fromkeys(mapping)}
    try:
        drawn = {site: jnp.shape(trace_once(function, arguments)[site]["value"]) for site in wanted}
        small = {site: shape for site, (_, shape) in wanted.items() if drawn[site] != shape}
        if not small:
            return (), ""
    except Exception as error:
        return (), f"{path}: with {without} model '{function.__name__}' draws nothing: {explained(error, path)}"
    try:
        trace = trace_once(ExpandObserved(function, small), arguments)
        if all(jnp.shape(trace[site]["value"]) == shape for site, shape in small.items()):
            return tuple(small), ""
    except ValueError:
        # No expansion gives this shape; the message below reports the first such site.
        pass
    site, shape = next(iter(small.items()))
    return (), (
        f"{path}: with {without} the site '{site}' draws shape {drawn[site]}, but the data have {shape}; "
        "give it the shape of the design, not of the data"
    )


def _arguments(obs: Observation) -> dict[str, Any]:
    return {**obs.fields, **obs.constants}


def _observed_sites(trace: Any) -> dict[str, Any]:
    return {n: s for n, s in trace.items() if s["type"] == "sample" and s["is_observed"]}


def _check_latent(function: Callable, path: Path, latent: Mapping[str, Any]) -> None:
    if not latent:
        raise ModelError(f"{path}: model '{function.__name__}' has no latent numpyro.sample site to infer")
    for name in latent:
        if "/" in name or name in RESERVED_NAMES:
            raise ModelError(
                f"{path}: latent site '{name}' needs another name: it holds '/' or is one of "
                f"{', '.join(RESERVED_NAMES)}, which the stored files use"
            )


class _NoKeys(Messenger):
    """Refuse a model that asks NumPyro for random numbers in addition to its sites."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__()

    def process_message(self, msg: dict) -> None:
        """Raise ``ModelError`` where the model asks for a key."""
        if msg["type"] == "prng_key":
            raise ModelError(
                f"{self.path}: numpyro.prng_key() in a model makes its density random, and here it would be the same "
                "one for ever. Infer what is random as a numpyro.sample site, or leave it out"
            )


def _check_no_choice(name: str, site: Any, path: Path) -> None:
    """Refuse a plate of which NumPyro takes a random subset of rows in each run of a model."""
    if site["type"] != "plate":
        return
    size, subsample = site["args"]
    if subsample is not None and subsample < size:
        raise ModelError(
            f"{path}: plate '{name}' has subsample_size={subsample} of {size}: its density is that of a random subset, "
            "an estimate that no engine here can use. Leave subsample_size out"
        )


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


def _check_other_length(
    function: Callable, path: Path, latent: Mapping[str, Any], example: Observation, other: Observation
) -> None:
    """Raise unless the model takes a data set of another length with the same parameters."""
    ours, theirs = len(example.mask), len(other.mask)
    try:
        trace = trace_once(function, _arguments(other))
        for name, site in _observed_sites(trace).items():
            _check_density(name, site, path)
    except Exception as error:
        raise ModelError(
            f"{path}: model '{function.__name__}' takes a data set of {ours} points, but not one of {theirs}, and the "
            f"data have both: {explained(error, path)}. Follow the length of the fields (y.shape[0], plate('n', "
            "x.shape[0])), or make a campaign of each length"
        ) from error
    changed = _changed(latent, latent_sites(trace))
    if changed is not None:
        raise ModelError(
            f"{path}: the shape of latent site '{changed}' depends on the number of points, and the data sets have "
            f"{ours} and {theirs}; parameters must have one shape for all data sets: make a campaign of each length"
        )


def _changed(latent: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first latent site that ``other`` lacks or has in another shape; None where there is none."""
    shapes = {name: jnp.shape(site["value"]) for name, site in other.items()}
    return next((name for name, site in latent.items() if shapes.get(name) != jnp.shape(site["value"])), None)


def _point_axes(
    function: Callable, path: Path, latent: Mapping[str, Any], sites: Mapping[str, Any], example: Observation
) -> tuple[dict[str, int], bool]:
    """The axis of each observed site that runs over points, and whether the model is paddable.

    The axes are those that change for a data set with a point more. The model is not paddable where a site has no such
    axis, or where the model changes with the number of points or does not take one point more.
    """
    longer = _append_last_point(example)
    try:
        trace = trace_once(function, _arguments(longer))
        for name, site in trace.items():
            _check_density(name, site, path)
    except Exception:  # of any kind: the model does not take one point more, which is allowed
        return {}, False
    if _changed(latent, latent_sites(trace)) is not None:
        return {}, False
    axes: dict[str, int] = {}
    for name, site in sites.items():
        if name not in trace:
            return {}, False
        shape, other = _terms_shape(site), _terms_shape(trace[name])
        changed = [i - len(shape) for i in range(len(shape)) if len(other) == len(shape) and shape[i] != other[i]]
        if len(changed) == 1:
            axes[name] = changed[0]
    return axes, len(axes) == len(sites)


def _terms_shape(site: Any) -> tuple[int, ...]:
    """The shape of a site's log densities: that of its distribution, or of its values where those are more."""
    distribution, value = site["fn"], jnp.shape(site["value"])
    return np.broadcast_shapes(distribution.batch_shape, value[: len(value) - distribution.event_dim])


def _append_last_point(example: Observation) -> Observation:
    fields = {n: jnp.concatenate([v, v[-1:]]) for n, v in example.fields.items()}
    return Observation(fields, example.constants, jnp.ones(example.mask.shape[0] + 1, bool))


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
