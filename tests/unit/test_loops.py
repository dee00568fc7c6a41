"""Compiled loops over data sets and points, in a processor's form and in an accelerator's, and their random numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest

from chainsweep.data.collection import Batch
from chainsweep.model.batched import BatchedProblem, Compiled
from chainsweep.model.load import example_observation
from chainsweep.model.problem import Problem
from chainsweep.model.trace import trace_structure
from chainsweep.numerics.keys import fold_keys, split_keys, uniform_of
from chainsweep.numerics.loops import first_of, isolated, scan_rows
from chainsweep.numerics.random_numbers import normals, random_words, uniforms
from tests.conftest import line_data


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
def test_bits_are_those_of_jax(seed):
    key = jax.random.PRNGKey(seed)
    high, low = (np.asarray(half, np.uint64) for half in random_words(key, 1001))
    assert_array_equal(high << np.uint64(32) | low, jax.random.bits(key, (1001,), jnp.uint64))


@pytest.mark.parametrize("double", [True, False])
def test_uniforms_are_uniform_and_normals_normal(double):
    key = jax.random.PRNGKey(3)
    with jax.enable_x64(double):
        drawn = np.asarray(uniforms(key, 40_000))
        assert drawn.dtype == (np.float64 if double else np.float32)
    assert drawn.min() > 0.0
    assert drawn.max() < 1.0
    assert kstest(drawn, "uniform").pvalue > 1e-3
    assert kstest(np.asarray(normals(drawn)), "norm").pvalue > 1e-3
    assert kstest(np.asarray(normals(drawn)) * 1.1, "norm").pvalue < 1e-3, "a twin that is too wide"


@pytest.mark.parametrize(("dtype", "bits"), [(np.float64, 52), (np.float32, 23)])
def test_the_outermost_uniforms_give_finite_normals(dtype, bits):
    ends = np.array([0.5, 2.0**bits - 0.5], dtype) * dtype(2.0**-bits)
    assert ends[1] < 1.0
    assert_array_equal(np.isfinite(normals(ends)), True)


def test_what_is_computed_apart_is_the_same_also_for_many_and_for_derivatives():
    def function(x, y):
        return {"sum": x + y, "product": x * y}

    x, y = jnp.arange(5.0), jnp.arange(5.0) + 1.0
    for found in (
        jax.jit(lambda x, y: isolated(function, x, y))(x, y),
        jax.vmap(lambda x, y: isolated(function, x, y))(x, y),
    ):
        assert_array_equal(found["sum"], x + y)
        assert_array_equal(found["product"], x * y)
    assert jax.grad(lambda x: isolated(lambda x: x**3, x))(2.0) == 12.0


def test_only_a_processors_program_has_branches(monkeypatch):
    def program():
        return str(jax.make_jaxpr(lambda x: isolated(lambda x: 2.0 * x, x))(1.0))

    assert "cond" in program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "cond" not in program()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_only_so_many_rows_are_computed(count):
    rows = jnp.arange(5.0)
    first, second = jax.jit(lambda n: first_of(lambda x: (x + 1.0, {"double": 2.0 * x}), (rows,), n))(count)
    assert_array_equal(first, np.where(np.arange(5) < count, rows + 1.0, 0.0))
    assert_array_equal(second["double"], np.where(np.arange(5) < count, 2.0 * rows, 0.0))


def test_keys_are_those_of_jax():
    key = jax.random.PRNGKey(2**40 + 3)
    raw = np.asarray(key)[None]
    assert_array_equal(split_keys(raw, 1000)[0], jax.random.split(key, 1000))
    assert_array_equal(fold_keys(raw, 7)[0], jax.random.fold_in(key, 7))
    assert not np.array_equal(fold_keys(raw, 7), fold_keys(raw, 8))


def test_a_number_of_each_key_is_uniform():
    drawn = uniform_of(split_keys(np.array([[3, 4]], np.uint32), 20_000)[0])
    assert kstest(drawn, "uniform").pvalue > 1e-3
    assert kstest(drawn**1.1, "uniform").pvalue < 1e-3, "a twin that is not"


def line(x, y_err, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("obs", dist.Normal(a + b * x, y_err), obs=y)


def test_a_batch_on_an_accelerator_gives_what_a_processor_gives(monkeypatch):
    fields = {name: line_data(3)[name] for name in ("x", "y", "y_err")}
    batch = Batch(("0", "1", "2"), fields, {}, np.ones_like(fields["x"], bool))
    example = example_observation({name: values[0] for name, values in fields.items()}, {})
    problem = Problem(line, trace_structure(line, Path("model.py"), example, ("y",)), ("y",))
    theta = np.random.default_rng(1).normal(size=(3, 300, 2))
    keys = np.arange(6, dtype=np.uint32).reshape(3, 2)

    def results():
        batched = BatchedProblem(problem, batch, Compiled(problem))
        return batched.log_density(theta), batched.sample_prior(keys, 300), batched.simulate(keys, theta)["y"]

    assert BatchedProblem(problem, batch).log_density(theta[:, :0]).shape == (3, 0)
    sequential = results()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for ours, theirs in zip(sequential, results(), strict=True):
        assert_allclose(ours, theirs, rtol=1e-11)


def test_the_python_of_a_function_is_gone_through_once():
    def counted():
        calls = []

        def function(x):
            calls.append(x)
            return 3.0 * x

        return function, calls

    def of_rows(function, x):
        return first_of(function, (x,), 3)

    def named(function, x):
        return scan_rows(function, jnp.array([3, 1, 0]), 2, (), (x,))

    def twice(function, x):
        return jax.lax.fori_loop(0, 4, lambda _, x: isolated(function, x), x)

    x = jnp.arange(4.0)
    for loop, right in ((of_rows, [0.0, 3.0, 6.0, 0.0]), (named, [9.0, 3.0, 0.0]), (twice, 81.0 * x)):
        function, calls = counted()
        found = jax.jit(partial(loop, function))(x)
        assert_array_equal(found, right)
        assert len(calls) == 1, loop.__name__
        assert isinstance(calls[0], jax.core.Tracer)
