"""A Problem over a whole batch of data sets: NumPy arrays in, NumPy arrays out, compiled once per shape.

Black-box likelihoods and simulators are called once per data set and point, on unpadded fields. One that
raises marks its data set as failed and goes on with the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.errors import ModelError
from chainsweep.model.host import HostCall
from chainsweep.model.loops import map_points, one_by_one_here
from chainsweep.model.problem import Observation, Problem, observation

Floats = NDArray[np.float64]

MAX_POINT_EVALUATIONS = 1 << 23
"""Largest (data set x draw x point) block of one compiled call; bounds memory at some 64 MiB an array."""


def blocks_of(count: int, size: int) -> list[NDArray[np.int64]]:
    """Positions up to ``count``, ``size`` at a time; the last block repeats one, so that all are compiled once."""
    return [np.minimum(np.arange(first, first + size), count - 1) for first in range(0, count, size)]


class Compiled:
    """The functions of one Problem, vectorised over data sets and draws and jitted.

    Kept once per Problem and process (``compiled_for``): JAX then compiles once per shape.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.functions: dict[str, Callable] = {}

    def __call__(self, name: str) -> Callable:
        """``name`` of a Problem method, over ``(dataset, draw, ...)`` points or keys and stacked data sets."""
        if name not in self.functions:
            method = getattr(self.problem, name)

            def over_draws(*arrays: Any) -> Any:
                *points, data = arrays
                return map_points(lambda *point: method(*point, data), tuple(points))

            def over_datasets(*arrays: Any) -> Any:
                return jax.lax.map(lambda one: over_draws(*one), arrays)

            self.functions[name] = jax.jit(over_datasets if one_by_one_here() else jax.vmap(over_draws))
        return self.functions[name]


_COMPILED: WeakKeyDictionary[Problem, Compiled] = WeakKeyDictionary()


def compiled_for(problem: Problem) -> Compiled:
    """The one Compiled of a Problem in this process, so that a second batch compiles nothing."""
    if problem not in _COMPILED:
        _COMPILED[problem] = Compiled(problem)
    return _COMPILED[problem]


class BatchedProblem:
    """``problem`` bound to the data sets of ``batch``.

    Points have shape ``(dataset, draw, ndim)``; results ``(dataset, draw)`` or ``(dataset, draw, ...)``.
    ``failures`` maps the position of a data set to the reason why the user's own function failed on it.
    """

    def __init__(self, problem: Problem, batch: Batch, compiled: Compiled | None = None) -> None:
        self.problem = problem
        self.batch = batch
        self.compiled = compiled if compiled is not None else compiled_for(problem)
        self.failures: dict[int, str] = {}

    @cached_property
    def observations(self) -> Observation:
        """All data sets, stacked along a leading axis, on the device."""
        return observation(self.batch.fields, self.batch.constants, self.batch.mask)

    def log_density(self, theta: Floats) -> Floats:
        """Constrained log density, -inf outside the support or where it is no number."""
        if self.problem.has_jax_likelihood:
            return self._call("log_density", theta)
        prior = self.log_prior(theta)
        return prior + self._host_log_likelihood(theta, where=np.isfinite(prior))

    def log_likelihood(self, theta: Floats) -> Floats:
        """Log likelihood at constrained points."""
        if self.problem.has_jax_likelihood:
            return self._call("log_likelihood", theta)
        return self._host_log_likelihood(theta, where=np.isfinite(self.log_prior(theta)))

    def log_prior(self, theta: Floats) -> Floats:
        """Log prior at constrained points."""
        return self._call("log_prior", theta)

    def log_density_unconstrained(self, z: Floats) -> Floats:
        """Log density of the unconstrained ``z``, Jacobian included; -inf where it is no number."""
        density = -self._call("potential", z)
        if not self.problem.has_jax_likelihood:
            theta = self.constrain(z)
            density = density + self._host_log_likelihood(theta, where=np.isfinite(density))
        return np.where(np.isnan(density), -np.inf, density)

    def constrain(self, z: Floats) -> Floats:
        """Unconstrained to constrained points."""
        return self._call("constrain", z)

    def unconstrain(self, theta: Floats) -> Floats:
        """Constrained to unconstrained points."""
        return self._call("unconstrain", theta)

    def unconstrain_padded(self, theta: Floats) -> Floats:
        """The same, NaN where a row of ``theta`` is padding (NaN), or on the edge of the support."""
        present = np.isfinite(theta).all(axis=-1, keepdims=True)
        z = self.unconstrain(np.where(present, theta, 0.5))
        return np.where(present & np.isfinite(z).all(axis=-1, keepdims=True), z, np.nan)

    def curve(self, theta: Floats) -> Floats:
        """The model's curve, shape ``(dataset, draw, point)``, padding included."""
        return self._call("curve", theta)

    def sample_prior(self, keys: NDArray[np.uint32], draws: int) -> Floats:
        """``draws`` prior draws of each data set from one raw key ``(dataset, 2)`` each."""
        return self._call("sample_prior", _split_keys(keys, draws))

    def simulate(self, keys: NDArray[np.uint32], theta: Floats) -> dict[str, Floats]:
        """Observed fields at each point, ``(dataset, draw, point, ...)``; padding holds the last real point.

        Raises
        ------
        ModelError
            The model has no simulator.
        """
        if not self.problem.has_simulator:
            raise ModelError("the model cannot simulate: define 'simulate(params, rng, **design)' in its file")
        if self.problem.black_box:
            return self._host_simulate(keys, theta)
        return self._call("simulate", _split_keys(keys, theta.shape[1]), theta)

    def predictive_pair(self, keys: NDArray[np.uint32], theta: Floats) -> tuple[Floats, Floats]:
        """Log likelihood of simulated and of real observations at each point, each ``(dataset, draw)``."""
        if self.problem.has_jax_likelihood:
            return self._call("predictive_pair", _split_keys(keys, theta.shape[1]), theta)
        simulated = self._host_simulate(keys, theta)
        return self._replica_log_likelihood(theta, simulated), self.log_likelihood(theta)

    def _call(self, name: str, *arrays: Any) -> Any:
        """Evaluate in blocks of draws, so that memory stays bounded whatever the number of draws.

        All blocks have one shape, a power of two, and are compiled once: the last one repeats its last draw.
        """
        datasets, draws = arrays[0].shape[:2]
        width = max(1, self.batch.mask.shape[1])
        most = max(1, MAX_POINT_EVALUATIONS // max(1, datasets * width))
        block = draws if draws <= most else 1 << (most.bit_length() - 1)
        function = self.compiled(name)
        if draws <= block:
            return jax.tree.map(np.asarray, function(*arrays, self.observations))
        parts = [
            jax.tree.map(np.asarray, function(*(np.asarray(a)[:, p] for a in arrays), self.observations))
            for p in blocks_of(draws, block)
        ]
        return jax.tree.map(lambda *pieces: np.concatenate(pieces, axis=1)[:, :draws], *parts)

    def _unpadded(self, position: int, names: tuple[str, ...]) -> dict[str, Any]:
        length = int(self.batch.n_points[position])
        fields = {name: np.array(self.batch.fields[name][position, :length]) for name in names}
        return fields | {name: float(value[position]) for name, value in self.batch.constants.items()}

    def _host_log_likelihood(self, theta: Floats, where: NDArray[np.bool_]) -> Floats:
        if self.problem.host_log_likelihood is None:
            raise ModelError("the model has no likelihood: define 'log_likelihood(params, **fields)' in its file")
        result = np.full(theta.shape[:2], -np.inf)
        names = tuple(self.batch.fields)
        asked = [p for p in range(theta.shape[0]) if p not in self.failures and where[p].any()]
        calls = [HostCall(self.batch.ids[p], theta[p][where[p]], self._unpadded(p, names)) for p in asked]
        for position, answer in zip(asked, self.problem.host_map(self.problem, calls), strict=True):
            if answer.failure:
                self.failures[position] = answer.failure
            else:
                result[position, where[position]] = answer.values
        return np.where(np.isnan(result), -np.inf, result)

    def _replica_log_likelihood(self, theta: Floats, simulated: dict[str, Floats]) -> Floats:
        """Log likelihood of each draw's own observations; -inf where the user's function fails on them."""
        where = np.isfinite(self.log_prior(theta))
        names = tuple(self.batch.fields)
        result = np.full(theta.shape[:2], -np.inf)
        asked, calls = np.argwhere(where), []
        for position, draw in asked.tolist():
            fields = self._unpadded(position, names)
            length = int(self.batch.n_points[position])
            fields |= {name: np.array(values[position, draw, :length]) for name, values in simulated.items()}
            point = np.asarray(theta[position, draw : draw + 1])
            calls.append(HostCall(self.batch.ids[position], point, fields, frozen=False))
        for (position, draw), answer in zip(asked, self.problem.host_map(self.problem, calls), strict=True):
            if not answer.failure:
                result[position, draw] = answer.values[0]
        return np.where(np.isnan(result), -np.inf, result)

    def _host_simulate(self, keys: NDArray[np.uint32], theta: Floats) -> dict[str, Floats]:
        function = self.problem.host_simulate
        assert function is not None
        observed = self.problem.observed
        design = tuple(name for name in self.batch.fields if name not in observed)
        shape = theta.shape[:2]
        result = {name: np.full(shape + self.batch.fields[name].shape[1:], np.nan) for name in observed}
        for position in range(shape[0]):
            if position in self.failures:
                continue
            rng = np.random.Generator(np.random.Philox(key=int.from_bytes(keys[position].tobytes(), "little")))
            fields = self._unpadded(position, design)
            length = int(self.batch.n_points[position])
            params = self.problem.unflatten(np.asarray(theta[position]))
            for draw in range(shape[1]):
                try:
                    simulated = function({n: v[draw] for n, v in params.items()}, rng, **fields)
                    values = simulated if isinstance(simulated, dict) else {observed[0]: simulated}
                    for name in observed:
                        value = np.asarray(values[name], float)
                        result[name][position, draw, :length] = value
                        result[name][position, draw, length:] = value[-1]
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self.failures[position] = f"simulate raised {type(error).__name__}: {error}"
                    break
        return result


def _split_keys(keys: NDArray[np.uint32], draws: int) -> Any:
    """Raw keys ``(dataset, 2)`` to ``(dataset, draws, 2)``."""
    return jax.vmap(lambda key: jax.random.split(key, draws))(jnp.asarray(keys, jnp.uint32))
