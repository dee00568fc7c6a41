r"""One model, written once, as the pure functions that every engine needs.

For one data set with design :math:`d` and observations :math:`y` and one point :math:`\theta`::

    log_density(theta) = log p(theta | d) + log p(y | theta, d)             constrained, emcee
    potential(z)       = -log_density(theta(z)) - log |d theta / d z|       unconstrained, NUTS
    simulate(theta)    ~ p(y | theta, d)                                    SNPE

All functions take a single point and a single data set and are pure JAX: engines ``vmap`` and ``jit`` them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from numpyro import handlers
from numpyro.distributions.util import sum_rightmost

from chainsweep.errors import ModelError
from chainsweep.model.derivatives import WAYS
from chainsweep.model.handlers import ExpandObserved, MaskObserved
from chainsweep.model.host import HostLikelihood, HostMap, HostSimulator, answer_in_turn
from chainsweep.model.structure import Parameter, Structure
from chainsweep.model.transforms import constrained, free_transform, normal_share, unconstrained
from chainsweep.numerics.arrays import Array
from chainsweep.numerics.cut_off import cut_off
from chainsweep.numerics.loops import alone

LARGEST_LOG_DENSITY = 1e15
"""The largest valid log density; beyond it doubles are too coarse to tell one point from another."""


class Observation(NamedTuple):
    """One data set as the model sees it: a pytree, so engines can ``vmap`` over stacked ones."""

    fields: dict[str, Array]
    """Field name to array of shape ``(point, ...)``, padded."""
    constants: dict[str, Array]
    """Constant name to scalar, or to a vector ``(k,)``."""
    mask: Array
    """Shape ``(point,)``: True where the point is real."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A model with its structure; see the module docstring for the functions.

    For a black-box model ``model`` holds the prior alone, and ``host_log_likelihood(params, **fields)`` and
    ``host_simulate(params, rng, **design)`` are NumPy functions of one data set, either of which may be None;
    ``host_map`` decides which process calls the likelihood.
    """

    model: Callable[..., Any]
    structure: Structure
    observed: tuple[str, ...]
    curve_site: str | None = None
    host_log_likelihood: HostLikelihood | None = None
    host_simulate: HostSimulator | None = None
    black_box: bool = False
    host_map: HostMap = answer_in_turn

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The latent sites, in the order of the model."""
        return self.structure.parameters

    @property
    def names(self) -> tuple[str, ...]:
        """Flat column names of the constrained space."""
        return tuple(column for parameter in self.parameters for column in parameter.columns)

    @property
    def ndim(self) -> int:
        """The number of scalars in the constrained space."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def ndim_unconstrained(self) -> int:
        """The number of scalars in the unconstrained space; less than ``ndim`` for simplexes and the like."""
        return sum(parameter.unconstrained_size for parameter in self.parameters)

    @property
    def unconstrained_names(self) -> tuple[str, ...]:
        """The name of the parameter that each unconstrained scalar belongs to."""
        return tuple(p.name for p in self.parameters for _ in range(p.unconstrained_size))

    @property
    def unconstrained_columns(self) -> tuple[str, ...]:
        """The name of each unconstrained scalar: its constrained one where both spaces have as many, else a number."""
        count = self.ndim_unconstrained
        return self.names if self.ndim == count else tuple(f"unconstrained[{i}]" for i in range(count))

    @property
    def varying(self) -> tuple[int, ...]:
        """The flat columns for which diagnostics are computed: all but those that are the same in every draw."""
        return tuple(column for column in range(self.ndim) if column not in self.structure.still)

    @property
    def has_jax_likelihood(self) -> bool:
        """True where JAX can trace, and so differentiate, the likelihood."""
        return not self.black_box

    @property
    def has_likelihood(self) -> bool:
        """True where a likelihood exists."""
        return not self.black_box or self.host_log_likelihood is not None

    @property
    def has_simulator(self) -> bool:
        """True where observations can be simulated."""
        return self.host_simulate is not None if self.black_box else not self.structure.no_simulator

    def flatten(self, params: Mapping[str, Array]) -> Array:
        """Flatten a dict of ``(..., *shape)`` by parameter to ``(..., ndim)``."""
        parts = []
        for parameter in self.parameters:
            value = params[parameter.name]
            lead = value.shape[: value.ndim - len(parameter.shape)]
            parts.append(value.reshape((*lead, parameter.size)))
        as_jax = any(isinstance(part, jax.Array) for part in parts)
        return jnp.concatenate(parts, axis=-1) if as_jax else np.concatenate(parts, axis=-1)

    def unflatten(self, theta: Array) -> dict[str, Array]:
        """Split ``(..., ndim)`` into a dict of ``(..., *shape)`` by parameter."""
        return _split(theta, [(p.name, p.shape, p.size) for p in self.parameters])

    def log_density(self, theta: Array, obs: Observation) -> Array:
        """Log prior plus log likelihood at constrained ``theta`` ``(ndim,)``; -inf outside the support."""
        return alone(self._log_density)(theta, obs) if self.structure.loops else self._log_density(theta, obs)

    def _log_density(self, theta: Array, obs: Observation) -> Array:
        prior, likelihood = self._log_probs(theta, obs)
        return _number_or_minus_inf(prior + likelihood)

    def log_likelihood(self, theta: Array, obs: Observation) -> Array:
        """Log likelihood at constrained ``theta``; -inf where it is NaN or too large (``LARGEST_LOG_DENSITY``)."""
        return alone(self._log_likelihood)(theta, obs) if self.structure.loops else self._log_likelihood(theta, obs)

    def _log_likelihood(self, theta: Array, obs: Observation) -> Array:
        return _number_or_minus_inf(self._log_probs(theta, obs)[1])

    def log_prior(self, theta: Array, obs: Observation) -> Array:
        """Log prior at constrained ``theta``; -inf outside the support."""
        return _number_or_minus_inf(self._log_probs(theta, obs)[0])

    def potential(self, z: Array, obs: Observation) -> Array:
        """Negative log density of the unconstrained ``z`` ``(ndim_unconstrained,)``, Jacobian included.

        Infinite where the density is zero. NaN where the prior has mass and the log density is NaN or too large
        (``LARGEST_LOG_DENSITY``): samplers treat both as a divergence.
        """
        return alone(self._potential)(z, obs) if self.structure.loops else self._potential(z, obs)

    def _potential(self, z: Array, obs: Observation) -> Array:
        prior, value = self._density_unconstrained(z, obs)
        value = jnp.where(value > LARGEST_LOG_DENSITY, jnp.nan, value)
        return jnp.where(prior == -jnp.inf, jnp.inf, -value)

    def infinite(self, z: Array, obs: Observation) -> Array:
        """True where the prior has mass and the log density of the unconstrained ``z`` is +inf, or too large."""
        prior, value = self._ending(self._density_unconstrained)(z, obs)
        return (prior > -jnp.inf) & (value > LARGEST_LOG_DENSITY)

    def _density_unconstrained(self, z: Array, obs: Observation) -> tuple[Array, Array]:
        """The log prior, and the log density with the Jacobian, not limited by ``LARGEST_LOG_DENSITY``."""
        trace, log_jacobian = self._trace_unconstrained(z, obs)
        prior, likelihood = sum_log_probs(trace, check_support=False)
        return prior, prior + likelihood + log_jacobian

    def sloped(self, z: Array, obs: Observation) -> Array:
        """True for each entry of ``z`` ``(ndim_unconstrained,)`` by which the gradient of ``potential`` is finite."""
        return jnp.isfinite(jax.grad(self.potential)(z, obs))

    def terms(self, z: Array, obs: Observation) -> dict[str, Array]:
        """The terms of ``-potential``: log probabilities by site, values of latent sites, and the log Jacobian."""
        return self._ending(self._terms)(z, obs)

    def _terms(self, z: Array, obs: Observation) -> dict[str, Array]:
        trace, log_jacobian = self._trace_unconstrained(z, obs)
        sites = {name: site for name, site in trace.items() if site["type"] == "sample"}
        found = {name: _site_terms(site) for name, site in sites.items()}
        found |= {f"value of {p.name}": trace[p.name]["value"] for p in self.parameters}
        return found | {"log Jacobian": log_jacobian}

    def curvature(self, z: Array, obs: Observation) -> Array:
        """Second derivatives of ``potential``, ``(ndim_unconstrained, ndim_unconstrained)``."""
        return self.hessian(lambda point: self.potential(point, obs))(z)

    def hessian(self, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """The function that gives second derivatives ``(n, n)`` of a ``function`` of ``(n,)`` made of the potential."""
        return WAYS[self.structure.second_derivatives](function)

    def constrain(self, z: Array, obs: Observation) -> Array:
        """The constrained ``theta`` of the unconstrained ``z``."""
        return self.constrain_with_jacobian(z, obs)[0]

    def constrain_with_jacobian(self, z: Array, obs: Observation) -> tuple[Array, Array]:
        """The constrained ``theta``, and the log of the absolute Jacobian determinant of ``theta`` by ``z``."""
        trace, log_jacobian = self._trace_unconstrained(z, obs)
        return self.flatten({p.name: trace[p.name]["value"] for p in self.parameters}), log_jacobian

    def unconstrain(self, theta: Array, obs: Observation) -> Array:
        """The unconstrained ``z`` of the constrained ``theta``; infinite on the edge of the support."""
        params = self.unflatten(theta)
        trace = self._trace(params, obs)
        parts, bounded = [], []
        for parameter in self.parameters:
            value, is_share = unconstrained(free_transform(trace[parameter.name]["fn"].support), params[parameter.name])
            parts.append(jnp.reshape(value, (parameter.unconstrained_size,)))
            bounded += [is_share] * parameter.unconstrained_size
        z = jnp.concatenate(parts)
        return jnp.where(np.array(bounded), ndtri(z), z) if any(bounded) else z

    def sample_prior(self, key: Array, obs: Observation) -> Array:
        """One prior draw, constrained, ``(ndim,)``."""
        with _recorded(key) as trace:
            self.model(**self._arguments(obs, observed=bool(self.structure.no_simulator)))
        return self.flatten({p.name: trace[p.name]["value"] for p in self.parameters})

    def simulate(self, key: Array, theta: Array, obs: Observation) -> dict[str, Array]:
        """Observed fields drawn from the likelihood at ``theta``; padding points hold draws as well."""
        return self._ending(self._simulate)(key, theta, obs)

    def _simulate(self, key: Array, theta: Array, obs: Observation) -> dict[str, Array]:
        expanded = {
            site: jnp.shape(obs.fields[name])
            for name, site in self.structure.observed_sites.items()
            if site in self.structure.expanded
        }
        model = ExpandObserved(self.model, expanded) if expanded else self.model
        substituted = handlers.substitute(model, data=self.unflatten(theta))
        with _recorded(key) as trace:
            substituted(**self._arguments(obs, observed=False))
        return {name: trace[site]["value"] for name, site in self.structure.observed_sites.items()}

    def predictive_pair(self, key: Array, theta: Array, obs: Observation) -> tuple[Array, Array]:
        """Log likelihood at ``theta`` of observations simulated there, and of the real ones."""
        simulated = self.simulate(key, theta, obs)
        replica = obs._replace(fields={**obs.fields, **simulated})
        return self.log_likelihood(theta, replica), self.log_likelihood(theta, obs)

    def curve(self, theta: Array, obs: Observation) -> Array:
        """The deterministic site that the plots draw, shape ``(point,)``."""
        if self.curve_site is None:
            raise ModelError("the model has no curve: set 'curve' in [model] to a numpyro.deterministic site")
        return self._ending(self._curve)(theta, obs)

    def _curve(self, theta: Array, obs: Observation) -> Array:
        return self._trace(self.unflatten(theta), obs)[self.curve_site]["value"]

    def _ending(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with loops that end, where the model has loops that may not end."""
        return cut_off(function) if self.structure.loops else function

    def _split_unconstrained(self, z: Array) -> dict[str, Array]:
        return _split(z, [(p.name, p.unconstrained_shape, p.unconstrained_size) for p in self.parameters])

    def _arguments(self, obs: Observation, observed: bool) -> dict[str, Array]:
        arguments = {**obs.fields, **obs.constants, **self.structure.fixed}
        if not observed:
            arguments |= dict.fromkeys(self.observed)
        return {} if self.black_box else arguments

    def _masked(self, obs: Observation) -> Callable[..., Any]:
        if not self.structure.point_axes:
            return self.model
        return MaskObserved(self.model, obs.mask, self.structure.point_axes)

    def _trace(self, params: Mapping[str, Array], obs: Observation) -> Any:
        substituted = handlers.substitute(self._masked(obs), data=dict(params))
        with _recorded(0) as trace:
            substituted(**self._arguments(obs, observed=True))
        return trace

    def _log_probs(self, theta: Array, obs: Observation) -> tuple[Array, Array]:
        return sum_log_probs(self._trace(self.unflatten(theta), obs), check_support=True)

    def _trace_unconstrained(self, z: Array, obs: Observation) -> tuple[Any, Array]:
        """Trace at ``z``, each site transformed by its own support, which may depend on earlier sites."""
        pieces = self._split_unconstrained(z)
        # For all parameters at once: normal distribution functions are most of a small model's program.
        shares = self._split_unconstrained(normal_share(z))
        log_jacobian = [jnp.zeros(())]

        def constrain_site(site: dict) -> Array | None:
            if site["name"] not in pieces:
                return None
            transform = free_transform(site["fn"].support)
            free = pieces[site["name"]]
            value = constrained(transform, free, shares[site["name"]])
            terms = transform.log_abs_det_jacobian(free, value)
            log_jacobian[0] = log_jacobian[0] + sum_rightmost(terms, jnp.ndim(terms))
            return value

        substituted = handlers.substitute(self._masked(obs), substitute_fn=constrain_site)
        with _recorded(0) as trace:
            substituted(**self._arguments(obs, observed=True))
        return trace, log_jacobian[0]


def double_precision() -> None:
    """Switch JAX to double precision, for the whole process; an array made before keeps its type."""
    if not jax.config.read("jax_enable_x64"):
        jax.config.update("jax_enable_x64", True)


def observation(fields: Mapping[str, Array], constants: Mapping[str, Array], mask: Array) -> Observation:
    """One data set, or a stack of them, as JAX arrays; switches JAX to double precision before."""
    double_precision()
    # The arrays are copied: a JAX array on a processor may share the memory of the NumPy array it is made from.
    return jax.device_put(jax.tree.map(np.array, Observation(dict(fields), dict(constants), mask)))


@contextmanager
def _recorded(key: Any) -> Iterator[Any]:
    """The trace of a model that runs inside the block, with random numbers from ``key``.

    Only one thread at a time may be inside: NumPyro has one stack of handlers for the whole process.
    """
    with _ONE_MODEL, handlers.seed(rng_seed=key), handlers.trace() as trace:
        yield trace


_ONE_MODEL = threading.RLock()


def _split(flat: Array, layout: list[tuple[str, tuple[int, ...], int]]) -> dict[str, Array]:
    pieces, start = {}, 0
    for name, shape, size in layout:
        pieces[name] = flat[..., start : start + size].reshape(flat.shape[:-1] + shape)
        start += size
    return pieces


def _site_terms(site: Any) -> Array:
    terms = site["fn"].log_prob(site["value"])
    return terms if site["scale"] is None else site["scale"] * terms


def sum_log_probs(trace: Any, check_support: bool) -> tuple[Array, Array]:
    """Summed log probabilities of the latent and of the observed sites.

    NumPyro's distributions return finite densities outside their support unless told to validate, which a
    traced program cannot: hence the explicit check.
    """
    prior, likelihood = jnp.zeros(()), jnp.zeros(())
    for site in trace.values():
        if site["type"] != "sample":
            continue
        terms = _site_terms(site)
        if site["is_observed"]:
            likelihood = likelihood + jnp.sum(terms)
            continue
        prior = prior + jnp.sum(terms)
        if check_support:
            inside = jnp.all(site["fn"].support(site["value"]))
            prior = jnp.where(inside, prior, -jnp.inf)
    return prior, likelihood


def _number_or_minus_inf(value: Array) -> Array:
    return jnp.where(jnp.isnan(value) | (value > LARGEST_LOG_DENSITY), -jnp.inf, value)
