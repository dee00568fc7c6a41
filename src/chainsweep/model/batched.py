"""A Problem over a whole batch of data sets: NumPy arrays in, NumPy arrays out, compiled once.

Black-box likelihoods and simulators are called once per data set and point, on unpadded fields. Where a call
raises, its data set is marked as failed, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from chainsweep.data.collection import Batch, constant_of
from chainsweep.errors import ModelError
from chainsweep.model.host import HostCall, Simulation
from chainsweep.model.problem import LARGEST_LOG_DENSITY, Observation, Problem, observation
from chainsweep.numerics.arrays import Bools, Floats, Ints
from chainsweep.numerics.keys import split_keys
from chainsweep.numerics.loops import first_of, on_cpu

POINTS = 256
"""The number of draws of one data set that are computed together: their arrays fit into a processor's cache."""
BLOCKS, MANY_BLOCKS = 64, 1024
"""The blocks of draws of one compiled call, on a processor and on an accelerator."""
MAX_NUMBERS = 1 << 23
"""The largest (block x draw x point) array of one compiled call, which limits the memory to some 64 MiB per array."""
PRIOR_POINTS = 32
"""The number that replaces ``POINTS`` where only the prior is compiled: a step of an ensemble has few draws."""
CURVATURES = 32
"""The number of points at which second derivatives are computed together."""


def blocks_of(count: int, size: int) -> list[Ints]:
    """The positions below ``count``, in blocks of ``size``; the last block repeats its last position to fill up."""
    return [np.minimum(np.arange(first, first + size), count - 1) for first in range(0, count, size)]


class Compiled:
    """The functions of one Problem, jitted, for any number of data sets and draws.

    There is one Compiled for each Problem in a process (``compiled_for``), and each function is one program for all
    batches. It takes blocks of points, each of one data set, ``BLOCKS`` of them at a time, and computes only those that
    are filled.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.functions: dict[str, Callable] = {}

    def __call__(self, name: str, arrays: Sequence[Any], batch: Batch, block: int) -> Any:
        """Call the method ``name`` of the Problem at points or keys ``(dataset, draw, ...)`` of the data sets.

        The result is a tree of NumPy arrays whose first axes are ``(dataset, draw)``. That of a data set does not
        depend on the other ones.
        """
        datasets, draws = arrays[0].shape[:2]
        if not draws:
            return self._nothing(name, arrays, batch)
        points = 1 if draws == 1 else block
        per_dataset = -(-draws // points)
        index = np.minimum(np.arange(per_dataset * points), draws - 1)
        # The last block is filled up with copies of the last draw.
        blocks = [np.asarray(a)[:, index].reshape(datasets * per_dataset, points, *a.shape[2:]) for a in arrays]
        most = max(1, min(BLOCKS if on_cpu() else MANY_BLOCKS, MAX_NUMBERS // (points * max(1, batch.width))))
        parts = [
            self._blocks(name, [a[first : first + most] for a in blocks], batch, first, per_dataset, most)
            for first in range(0, datasets * per_dataset, most)
        ]
        joined = parts[0] if len(parts) == 1 else jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)
        return jax.tree.map(lambda a: a.reshape(datasets, per_dataset * points, *a.shape[2:])[:, :draws], joined)

    def _blocks(self, name: str, blocks: list[NDArray], batch: Batch, first: int, per_dataset: int, most: int) -> Any:
        """The result at ``blocks`` ``(block, point, ...)``, the first of which is number ``first`` of the batch."""
        count = len(blocks[0])
        row = np.minimum(np.arange(most), count - 1)
        obs = _observed(batch, (first + row) // per_dataset)
        found = self._compiled(name)(np.asarray(count), (*(a[row] for a in blocks), obs))
        return jax.tree.map(lambda a: np.asarray(a)[:count], found)

    def _nothing(self, name: str, arrays: Sequence[Any], batch: Batch) -> Any:
        """The result for 0 draws: empty arrays of the right shapes."""
        block = (*(np.zeros((1, 1, *a.shape[2:]), a.dtype) for a in arrays), _observed(batch, np.zeros(1, np.int64)))
        shapes = jax.eval_shape(self._compiled(name), np.asarray(0), block)
        return jax.tree.map(lambda leaf: np.zeros((len(batch), 0, *leaf.shape[2:]), leaf.dtype), shapes)

    def _compiled(self, name: str) -> Callable:
        if name not in self.functions:
            method = getattr(self.problem, name)

            def of_block(*arrays: Any) -> Any:
                *points, obs = arrays
                return jax.vmap(lambda *point: method(*point, obs))(*points)

            def over_blocks(count: Any, arrays: tuple[Any, ...]) -> Any:
                return first_of(of_block, arrays, count)

            over_blocks.__name__ = name
            self.functions[name] = jax.jit(over_blocks)
        return self.functions[name]


def _observed(batch: Batch, rows: Ints) -> Observation:
    some = batch.take(rows)
    return Observation(some.fields, some.constants, some.mask)


def _as_real(simulated: Floats, real: NDArray) -> NDArray:
    """A copy of simulated observations, with an integer type where the real ones have it and all numbers are whole."""
    whole = real.dtype.kind == "i" and bool(np.all(simulated == np.round(simulated)))
    return simulated.astype(real.dtype if whole else simulated.dtype)


def _used(function: Callable, first: Any, second: Any) -> bool:
    """Return True if an array of ``second`` is used in the computation of ``function(first, second)``."""
    traced = jax.make_jaxpr(function)(first, second).jaxpr
    needed = {id(v) for v in traced.outvars}
    for step in reversed(traced.eqns):
        if any(id(v) in needed for v in step.outvars):
            needed |= {id(v) for v in step.invars}
    return any(id(v) in needed for v in traced.invars[len(jax.tree.leaves(first)) :])


_COMPILED: WeakKeyDictionary[Problem, Compiled] = WeakKeyDictionary()


def compiled_for(problem: Problem) -> Compiled:
    """The only Compiled of a Problem in this process: a second batch compiles nothing."""
    if problem not in _COMPILED:
        _COMPILED[problem] = Compiled(problem)
    return _COMPILED[problem]


class BatchedProblem:
    """A ``problem`` bound to the data sets of ``batch``.

    Points have shape ``(dataset, draw, ndim)``; results ``(dataset, draw)`` or ``(dataset, draw, ...)``.
    ``failures`` maps the position of a data set to the reason why the user's own function failed on it.
    """

    def __init__(self, problem: Problem, batch: Batch, compiled: Compiled | None = None) -> None:
        self.problem = problem
        self.batch = batch
        self.compiled = compiled if compiled is not None else compiled_for(problem)
        self.failures: dict[int, str] = {}

    def take(self, positions: Ints) -> BatchedProblem:
        """The same problem bound to the data sets at ``positions``; compiled functions are shared, failures are not."""
        return BatchedProblem(self.problem, self.batch.take(positions), self.compiled)

    @cached_property
    def observations(self) -> Observation:
        """All data sets, stacked along a leading axis, on the device."""
        return observation(self.batch.fields, self.batch.constants, self.batch.mask)

    def log_density(self, theta: Floats) -> Floats:
        """Constrained log density, -inf outside the support or where it is NaN."""
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
        """Log density of the unconstrained ``z``, Jacobian included; -inf where it is NaN."""
        density = -self.potential(z)
        if not self.problem.has_jax_likelihood:
            theta = self.constrain(z)
            density = density + self._host_log_likelihood(theta, where=np.isfinite(density))
        return np.where(np.isnan(density), -np.inf, density)

    def potential(self, z: Floats) -> Floats:
        """Negative log density of the unconstrained ``z`` as JAX computes it, for a black box of the prior alone."""
        return self._call("potential", z)

    def undefined(self, z: Floats) -> Bools:
        """True where the prior has mass and the log density of the unconstrained ``z`` is NaN, or too large."""
        potential = self.potential(z)
        if self.problem.has_jax_likelihood:
            return np.isnan(potential)
        likelihood = self._host_values(self.constrain(z), where=np.isfinite(potential))
        return np.isnan(potential) | ~(likelihood <= LARGEST_LOG_DENSITY)

    def infinite(self, z: Floats) -> Bools:
        """True where the prior has mass and the log density of ``z`` is +inf, or too large for a density."""
        if self.problem.has_jax_likelihood:
            # Few models have such points, and the others need no program for them.
            return self._call("infinite", z) if np.isnan(self.potential(z)).any() else np.zeros(z.shape[:2], bool)
        values = self._host_values(self.constrain(z), where=np.isfinite(self.potential(z)))
        return np.asarray(values > LARGEST_LOG_DENSITY)

    def sloped(self, z: Floats) -> Bools:
        """True where the gradient of ``potential`` by an entry of ``z`` is finite, ``(dataset, draw, n)``."""
        return np.asarray(self._call("sloped", z, block=CURVATURES), bool)

    def curvature(self, z: Floats) -> Floats:
        """Second derivatives ``(dataset, draw, n, n)`` of ``potential``."""
        return self._call("curvature", z, block=CURVATURES)

    def constrain(self, z: Floats) -> Floats:
        """The constrained points of unconstrained ones."""
        return self._call("constrain", z)

    def unconstrain(self, theta: Floats) -> Floats:
        """The unconstrained points of constrained ones."""
        return self._call("unconstrain", theta)

    def unconstrain_padded(self, theta: Floats) -> Floats:
        """The unconstrained points, NaN where a row of ``theta`` is padding (NaN), or on the edge of the support."""
        present = np.isfinite(theta).all(axis=-1, keepdims=True)
        z = self.unconstrain(np.where(present, theta, 0.5))
        return np.where(present & np.isfinite(z).all(axis=-1, keepdims=True), z, np.nan)

    def curve(self, theta: Floats) -> Floats:
        """The model's curve, shape ``(dataset, draw, point)``, padding included."""
        return self._call("curve", theta)

    @cached_property
    def one_prior(self) -> bool:
        """True where no draw of the prior, constrained or not, is computed from anything of the data set."""

        def draw(key: Array, obs: Observation) -> tuple[Array, Array]:
            theta = self.problem.sample_prior(key, obs)
            return theta, self.problem.unconstrain(theta, obs)

        first = jax.tree.map(lambda leaf: leaf[0], _observed(self.batch, np.zeros(1, np.int64)))
        return not _used(draw, np.zeros(2, np.uint32), first)

    def sample_prior(self, keys: NDArray[np.uint32], draws: int) -> Floats:
        """Make ``draws`` prior draws of each data set, from raw ``keys`` ``(dataset, 2)``."""
        return self._call("sample_prior", split_keys(keys, draws))

    def simulate(self, keys: NDArray[np.uint32], theta: Floats) -> dict[str, Floats]:
        """Observed fields at each point, ``(dataset, draw, point, ...)``; padding holds the last real point.

        Raises
        ------
        ModelError
            The model has no simulator.
        """
        if not self.problem.has_simulator:
            missing = self.problem.structure.no_simulator or "define 'simulate(params, rng, **design)' in its file"
            raise ModelError(f"the model cannot simulate: {missing}")
        if self.problem.black_box:
            return self._host_simulate(keys, theta)
        return self._call("simulate", split_keys(keys, theta.shape[1]), theta)

    def predictive_pair(self, keys: NDArray[np.uint32], theta: Floats) -> tuple[Floats, Floats]:
        """Log likelihood of simulated and of real observations at each point, each ``(dataset, draw)``."""
        if self.problem.has_jax_likelihood:
            return self._call("predictive_pair", split_keys(keys, theta.shape[1]), theta)
        simulated = self._host_simulate(keys, theta)
        return self._replica_log_likelihood(theta, simulated), self.log_likelihood(theta)

    def _call(self, name: str, *arrays: Any, block: int | None = None) -> Any:
        ours = POINTS if self.problem.has_jax_likelihood else PRIOR_POINTS
        return self.compiled(name, arrays, self.batch, block or ours)

    def _unpadded(self, position: int, names: tuple[str, ...]) -> dict[str, Any]:
        length = int(self.batch.n_points[position])
        fields = {name: np.array(self.batch.fields[name][position, :length]) for name in names}
        return fields | {name: constant_of(value[position]) for name, value in self.batch.constants.items()}

    def _host_log_likelihood(self, theta: Floats, where: Bools) -> Floats:
        values = self._host_values(theta, where)
        return np.where(values <= LARGEST_LOG_DENSITY, values, -np.inf)

    def _host_values(self, theta: Floats, where: Bools) -> Floats:
        """Log likelihoods as the user's function gave them; -inf where it was not called, or failed."""
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
        return result

    def _replica_log_likelihood(self, theta: Floats, simulated: dict[str, Floats]) -> Floats:
        """Log likelihood of each draw's own observations; -inf where the user's function fails on them."""
        where = np.isfinite(self.log_prior(theta))
        names = tuple(self.batch.fields)
        result = np.full(theta.shape[:2], -np.inf)
        asked, calls = np.argwhere(where), []
        for position, draw in asked.tolist():
            fields = self._unpadded(position, names)
            length = int(self.batch.n_points[position])
            for name, values in simulated.items():
                fields[name] = _as_real(values[position, draw, :length], self.batch.fields[name])
            point = np.asarray(theta[position, draw : draw + 1])
            calls.append(HostCall(self.batch.ids[position], point, fields, frozen=False))
        for (position, draw), answer in zip(asked, self.problem.host_map(self.problem, calls), strict=True):
            if not answer.failure:
                result[position, draw] = answer.values[0]
        return np.where(np.isnan(result), -np.inf, result)

    def _host_simulate(self, keys: NDArray[np.uint32], theta: Floats) -> dict[str, Floats]:
        observed = self.problem.observed
        design = tuple(name for name in self.batch.fields if name not in observed)
        result = {name: np.full(theta.shape[:2] + self.batch.fields[name].shape[1:], np.nan) for name in observed}
        asked = [position for position in range(theta.shape[0]) if position not in self.failures]
        calls = []
        for position in asked:
            length = int(self.batch.n_points[position])
            shapes = {name: (length, *self.batch.fields[name].shape[2:]) for name in observed}
            simulation = Simulation(int.from_bytes(keys[position].tobytes(), "little"), shapes)
            fields = self._unpadded(position, design)
            calls.append(HostCall(self.batch.ids[position], theta[position], fields, simulation=simulation))
        for position, answer in zip(asked, self.problem.host_map(self.problem, calls), strict=True):
            if answer.failure:
                self.failures[position] = answer.failure
            for name, values in answer.simulated.items():
                length = values.shape[1]
                result[name][position, :, :length] = values
                result[name][position, :, length:] = values[:, -1:]
        return result
