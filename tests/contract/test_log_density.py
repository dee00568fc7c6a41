"""The three engines see one posterior: their log densities agree, Jacobians and padding included."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn

from chainsweep.campaign.config import parse_config
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.summary import convergence_summary
from chainsweep.engines.snpe.entry import SNPE
from chainsweep.errors import ModelError
from chainsweep.importance.modes import find_modes, prior_pool
from chainsweep.importance.target import from_prior, target_of
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.load import example_observation, load_problem
from chainsweep.model.problem import Problem, observation
from chainsweep.model.structure import Structure
from chainsweep.model.trace import trace_structure
from chainsweep.verdicts.mode_check import PASSES, mode_check
from tests.mode_checks import lacks_mass

POINTS = 11
PADDING = 5
TOLERANCE = 1e-6


def normal_peak(x, y_err, y=None):
    height = numpyro.sample("height", dist.Uniform(-2, 2))
    width = numpyro.sample("width", dist.LogNormal(-1, 0.5))
    mu = numpyro.deterministic("mu", height * jnp.exp(-((x - 0.5) ** 2) / (2 * width**2)))
    numpyro.sample("obs", dist.Normal(mu, y_err), obs=y)


def poisson_in_plate(x, scale, y=None):
    log_rate = numpyro.sample("log_rate", dist.Normal(scale, 1))
    slope = numpyro.sample("slope", dist.Uniform(-scale, scale))
    with numpyro.plate("points", x.shape[0]):
        numpyro.sample("obs", dist.Poisson(jnp.exp(log_rate) * (1 + 0.3 * slope * x)), obs=y)


def student_with_vectors(x, y_err, y=None):
    with numpyro.plate("terms", 3):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(2)))
    low = numpyro.sample("low", dist.Uniform(0, 1))
    high = numpyro.sample("high", dist.Uniform(low, low + 2))
    mu = theta[0] + theta[1] * x * share[0] + theta[2] * x**2 * share[1] + high
    numpyro.sample("obs", dist.StudentT(4.0, mu, y_err), obs=y)


CASES = {
    "normal": (normal_peak, {"y_err": True, "constant": None}),
    "poisson": (poisson_in_plate, {"y_err": False, "constant": "scale"}),
    "student": (student_with_vectors, {"y_err": True, "constant": None}),
}


def make(name: str, points: int = POINTS, padding: int = 0) -> tuple[Problem, Batch]:
    model, options = CASES[name]
    rng = np.random.default_rng(5)
    fields = {
        "x": np.sort(rng.uniform(0, 1, (2, points)), axis=1),
        "y": rng.poisson(3.0, (2, points)).astype(float),
    }
    if options["y_err"]:
        fields["y_err"] = rng.uniform(0.1, 0.4, (2, points))
    constants = {options["constant"]: np.array([0.5, 0.9])} if options["constant"] else {}
    example = example_observation({n: v[0] for n, v in fields.items()}, {n: v[0] for n, v in constants.items()})
    problem = Problem(model, trace_structure(model, Path("model.py"), example, ("y",)), ("y",))
    padded = {n: np.concatenate([v, np.repeat(v[:, -1:], padding, 1)], axis=1) for n, v in fields.items()}
    mask = np.arange(points + padding) < points
    return problem, Batch(("one", "two"), padded, constants, np.stack([mask, mask]))


def random_points(problem: Problem, batch: Batch, count: int = 40):
    batched = BatchedProblem(problem, batch)
    z = np.random.default_rng(7).normal(0, 1.5, (2, count, problem.ndim_unconstrained))
    return batched, z, batched.constrain(z)


def arguments(batch: Batch, row: int) -> dict:
    real = batch.mask[row]
    return {n: v[row][real] for n, v in batch.fields.items()} | {n: v[row] for n, v in batch.constants.items()}


@pytest.mark.parametrize("padding", [0, PADDING])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_numpyro_on_unpadded_data(name, padding):
    problem, batch = make(name, padding=padding)
    batched, z, theta = random_points(problem, batch)
    constrained = batched.log_density(theta)
    unconstrained = batched.log_density_unconstrained(z)
    for row in range(2):
        kwargs = arguments(batch, row)
        in_numpyro = jax.jit(jax.vmap(lambda params: log_density(problem.model, (), kwargs, params)[0]))  # noqa: B023
        np.testing.assert_allclose(constrained[row], in_numpyro(problem.unflatten(theta[row])), atol=TOLERANCE)
        expected = jax.jit(jax.vmap(lambda point: by_numpyro(problem, kwargs, point)))  # noqa: B023
        np.testing.assert_allclose(unconstrained[row], expected(z[row]), atol=TOLERANCE)


def by_numpyro(problem: Problem, kwargs: dict, z: jax.Array) -> jax.Array:
    """Log density of our unconstrained point by NumPyro's potential, which has other coordinates on intervals."""
    fields = {name: value for name, value in kwargs.items() if np.ndim(value)}
    constants = {name: value for name, value in kwargs.items() if not np.ndim(value)}
    observed = observation(fields, constants, np.ones(len(fields["x"]), bool))

    def theirs(z):
        params = problem.unflatten(problem.constrain(z, observed))
        return unconstrain_fn(problem.model, (), kwargs, params)

    volume = jnp.linalg.slogdet(jax.jacfwd(lambda z: ravel_pytree(theirs(z))[0])(z))[1]
    return volume - potential_energy(problem.model, (), kwargs, theirs(z))


@pytest.mark.parametrize("name", CASES)
def test_padding_changes_no_engine(name):
    problem, batch = make(name)
    _, padded = make(name, padding=PADDING)
    batched, z, theta = random_points(problem, batch)
    with_padding = BatchedProblem(problem, padded)
    np.testing.assert_allclose(with_padding.log_density(theta), batched.log_density(theta), atol=TOLERANCE)
    np.testing.assert_allclose(
        with_padding.log_density_unconstrained(z), batched.log_density_unconstrained(z), atol=TOLERANCE
    )


def test_padding_that_is_not_masked_is_seen():
    """The twin: without the mask the padded points count, and the densities differ."""
    problem, padded = make("normal", padding=PADDING)
    everything = Batch(padded.ids, padded.fields, padded.constants, np.ones_like(padded.mask))
    batched, _, theta = random_points(problem, padded)
    assert not np.allclose(BatchedProblem(problem, everything).log_density(theta), batched.log_density(theta))


@pytest.mark.parametrize("name", ["normal", "poisson"])
def test_jacobian_is_the_derivative_of_the_transform(name):
    """emcee's constrained density and NUTS's potential differ by log|d theta / d z|, by finite differences."""
    problem, batch = make(name)
    batched, z, theta = random_points(problem, batch, count=5)
    step = 1e-6
    columns = []
    for k in range(problem.ndim):
        shift = np.zeros(problem.ndim)
        shift[k] = step
        columns.append((batched.constrain(z + shift) - batched.constrain(z - shift)) / (2 * step))
    log_jacobian = np.linalg.slogdet(np.stack(columns, axis=-1))[1]
    difference = batched.log_density_unconstrained(z) - batched.log_density(theta)
    np.testing.assert_allclose(difference, log_jacobian, atol=1e-5)
    assert np.abs(difference).max() > 0.1


def test_a_missing_jacobian_is_seen():
    """The twin: constrained and unconstrained densities are not the same function."""
    problem, batch = make("normal")
    batched, z, theta = random_points(problem, batch)
    assert not np.allclose(batched.log_density_unconstrained(z), batched.log_density(theta), atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_transforms_are_inverse(name):
    problem, batch = make(name)
    batched, z, theta = random_points(problem, batch)
    np.testing.assert_allclose(batched.unconstrain(theta), z, atol=1e-6)


def test_outside_the_support_is_minus_infinity():
    problem, batch = make("normal")
    batched, _, theta = random_points(problem, batch)
    theta = theta.copy()
    theta[:, 0, 0] = 2.5
    theta[:, 1, 1] = -0.1
    density = batched.log_density(theta)
    assert np.all(density[:, :2] == -np.inf)
    assert np.all(np.isfinite(density[:, 2:]))


@pytest.mark.parametrize("name", CASES)
def test_prior_draws_and_simulations_follow_the_model(name):
    """Snpe's simulations have the mean that the likelihood says, within 5 Monte-Carlo errors."""
    problem, batch = make(name, padding=PADDING)
    batched = BatchedProblem(problem, batch)
    keys = np.array([[0, 1], [0, 2]], np.uint32)
    theta = batched.sample_prior(keys, 1)
    repeated = np.repeat(theta, 4000, axis=1)
    simulated = batched.simulate(keys, repeated)["y"]
    assert simulated.shape == (2, 4000, POINTS + PADDING)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        substituted = numpyro.handlers.substitute(problem.model, data=problem.unflatten(theta[0, 0]))
        substituted(**arguments(batch, 0))
    expected = np.asarray(trace["obs"]["fn"].mean)
    error = simulated[0, :, :POINTS].std(axis=0) / np.sqrt(4000)
    assert np.all(np.abs(simulated[0, :, :POINTS].mean(axis=0) - expected) < 5 * error)


def test_a_model_is_traced_by_one_thread_at_a_time(monkeypatch):
    """NumPyro's stack of handlers is the process's: two threads at once would mix two traces."""
    problem, batch = make("normal")
    one = jax.tree.map(lambda values: values[0], BatchedProblem(problem, batch).observations)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def trace(_: int) -> str:
        return str(jax.make_jaxpr(lambda z: problem.potential(z, one))(jnp.zeros(problem.ndim_unconstrained)))

    try:
        with ThreadPoolExecutor(4) as threads:
            found = set(threads.map(trace, range(40)))
        assert found == {trace(0)}
        monkeypatch.setattr("chainsweep.model.problem._ONE_MODEL", nullcontext())
        with ThreadPoolExecutor(4) as threads, pytest.raises((AssertionError, KeyError, IndexError, ModelError)):
            assert set(threads.map(trace, range(400))) == found
    finally:
        sys.setswitchinterval(before)


def one_data_set(model, fields: dict, constants: dict | None = None, others: tuple = ()) -> tuple[Problem, Batch]:
    """A model as ``init`` takes it, and the one data set that it was tried on."""
    example = example_observation(fields, constants or {})
    structure = trace_structure(model, Path("model.py"), example, ("y",), others)
    mask = np.ones((1, len(fields["y"])), bool)
    batch = Batch(
        ("one",),
        {n: v[None] for n, v in fields.items()},
        {n: np.array([v]) for n, v in (constants or {}).items()},
        mask,
    )
    return Problem(model, structure, ("y",)), batch


def agrees_with_numpyro(problem: Problem, batch: Batch, draws: int = 5) -> None:
    batched, _, theta = random_points(problem, batch.take([0, 0]), draws)
    expected = [log_density(problem.model, (), arguments(batch, 0), problem.unflatten(t))[0] for t in theta[0]]
    np.testing.assert_allclose(batched.log_density(theta)[0], expected, atol=TOLERANCE)


def eight_schools(s, y=None, size=8):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", size):
        e = numpyro.sample("e", dist.Normal(0, 1))
        numpyro.sample("obs", dist.Normal(mu + tau * e, s), obs=y)


def schools_by_length(s, y=None):
    eight_schools(s, y, s.shape[0])


def schools_of(points: int) -> dict:
    return {"s": np.linspace(9.0, 18.0, points), "y": np.linspace(-3.0, 28.0, points)}


@pytest.mark.parametrize("model", [eight_schools, schools_by_length])
def test_a_model_of_one_length_is_taken_where_all_data_sets_have_it(model):
    problem, batch = one_data_set(model, schools_of(8))
    assert not problem.structure.paddable
    agrees_with_numpyro(problem, batch)
    seven = example_observation(schools_of(7), {})
    with pytest.raises(ModelError, match=r"one of 7|depends on the number of points.*8 and 7"):
        one_data_set(model, schools_of(8), others=(seven,))


def test_a_length_that_the_data_have_is_what_counts():
    """The trial has a point more than a data set, here an odd number, which no data set has."""

    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 2).expand([2]).to_event(1))
        numpyro.sample("obs", dist.Normal((a + x.reshape(-1, 2)).ravel(), 1.0), obs=y)

    fields = {"x": np.linspace(0, 1, 8), "y": np.linspace(0, 2, 8)}
    six = example_observation({name: values[:6] for name, values in fields.items()}, {})
    problem, batch = one_data_set(model, fields, others=(six,))
    assert not problem.structure.paddable
    agrees_with_numpyro(problem, batch)


def classes(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([2, 2]).to_event(2))
    logits = jnp.concatenate([jnp.zeros((*x.shape, 1)), b[:, 0] + x[..., None] * b[:, 1]], -1)
    numpyro.sample("obs", dist.Categorical(logits=logits), obs=y)


def successes(n, y=None):
    p = numpyro.sample("p", dist.Beta(2, 3))
    numpyro.sample("obs", dist.Binomial(n, p), obs=y)


@pytest.mark.parametrize("model", [classes, successes])
def test_integers_reach_the_model_padded_or_not(model):
    design = {"x": np.linspace(-1, 1, 6)} if model is classes else {"n": np.arange(5, 11)}
    problem, batch = one_data_set(model, {**design, "y": np.array([0, 2, 1, 2, 0, 1])})
    assert problem.structure.paddable
    agrees_with_numpyro(problem, batch)
    padded = {name: np.concatenate([v, v[:, -1:]], axis=1) for name, v in batch.fields.items()}
    batched, _, theta = random_points(problem, batch.take([0, 0]))
    longer = Batch(batch.ids, padded, {}, np.arange(7)[None] < 6)
    np.testing.assert_allclose(BatchedProblem(problem, longer).log_density(theta[:1]), batched.log_density(theta)[:1])
    drawn = batched.simulate(np.zeros((2, 2), np.uint32), theta)["y"]
    assert np.all(drawn == np.round(drawn))


POLYNOMIAL = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist

def model(x, degree, y=None):
    b = numpyro.sample("b", dist.Normal(0, 3).expand([3]).to_event(1))
    numpyro.sample("obs", dist.Normal((x[:, None] ** jnp.arange(int(degree) + 1)) @ b, 0.5), obs=y)
"""


def loaded(path: Path, text: str, fields: dict, constants: dict, **known) -> tuple[Problem, Batch]:
    """A model file as ``init`` loads it, and the one data set that it was tried on."""
    path.write_text(text)
    data = {"source": "data.npz", "fields": {n: n for n in fields}, "constants": list(constants)}
    config = parse_config({"model": {"file": path.name, "observed": ["y"]}, "data": data}, origin="test")
    problem = load_problem(path, config, example_observation(fields, constants), **known)
    stacked = [{n: np.asarray(v)[None] for n, v in some.items()} for some in (fields, constants)]
    return problem, Batch(("one",), *stacked, np.ones((1, len(fields["y"])), bool))


def test_a_constant_of_all_data_sets_may_be_a_number_to_the_model(tmp_path):
    """A linear model: the posterior by our log density is the exact one, mean and covariance."""
    x = np.linspace(-1, 1, 9)
    fields = {"x": x, "y": 1 + np.sin(3 * x)}
    with pytest.raises(ModelError, match=r"int\(degree\)"):
        loaded(tmp_path / "model.py", POLYNOMIAL, fields, {"degree": 2.0})
    problem, batch = loaded(tmp_path / "model.py", POLYNOMIAL, fields, {"degree": 2.0}, shared=["degree"])
    assert problem.structure.fixed == {"degree": 2.0}
    design = x[:, None] ** np.arange(3)
    precision = design.T @ design / 0.25 + np.eye(3) / 9
    mean = np.linalg.solve(precision, design.T @ fields["y"] / 0.25)
    batched = BatchedProblem(problem, batch)
    np.testing.assert_allclose(batched.curvature(mean[None, None])[0, 0], precision, rtol=1e-8)
    offsets = np.random.default_rng(1).normal(0, 0.3, (1, 6, 3))
    density = batched.log_density(mean + offsets) - batched.log_density(mean[None, None])
    np.testing.assert_allclose(density, -0.5 * np.einsum("dni,ij,dnj->dn", offsets, precision, offsets), atol=1e-8)
    with_constant_again = Structure.from_plain(json.loads(json.dumps(problem.structure.plain())))
    assert with_constant_again == problem.structure


def sample_of_a_normal(y=None):
    a, s = numpyro.sample("a", dist.Normal(0, 3)), numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("obs", dist.Normal(a, s), obs=y)


def sample_of_vectors(y=None):
    a = numpyro.sample("a", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.sample("obs", dist.MultivariateNormal(a, jnp.eye(2)), obs=y)


def sample_in_a_plate(y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("obs", dist.Normal(a, 1.0), obs=y)


def sample_of_thirty(y=None, n=30):
    a = numpyro.sample("a", dist.Normal(0, 3))
    with numpyro.plate("n", n if y is None else y.shape[0]):
        numpyro.sample("obs", dist.Normal(a, 1.0), obs=y)


@pytest.mark.parametrize("model", [sample_of_a_normal, sample_of_vectors, sample_in_a_plate, sample_of_thirty])
def test_observations_need_no_design(model):
    y = np.random.default_rng(2).normal(1.5, 1.0, (10, 2) if model is sample_of_vectors else 10)
    problem, batch = one_data_set(model, {"y": y})
    assert problem.structure.paddable
    agrees_with_numpyro(problem, batch)
    batched, _, theta = random_points(problem, batch.take([0, 0]))
    padded = Batch(batch.ids, {"y": np.concatenate([y, y[-1:]])[None]}, {}, np.arange(11)[None] < 10)
    np.testing.assert_allclose(BatchedProblem(problem, padded).log_density(theta[:1]), batched.log_density(theta)[:1])
    assert batched.sample_prior(np.zeros((2, 2), np.uint32), 3).shape == (2, 3, problem.ndim)
    if model in (sample_in_a_plate, sample_of_thirty):
        with pytest.raises(ModelError, match=r"snpe.*y=None.*(NoneType|\(30,\), but the data have \(10,\)).*remove"):
            SNPE.require(problem)
        return
    SNPE.require(problem)
    many = np.broadcast_to(theta[:1, :1], (1, 400, problem.ndim))
    drawn = BatchedProblem(problem, batch).simulate(np.zeros((1, 2), np.uint32), many)["y"]
    assert drawn.shape == (1, 400, *y.shape)
    sd = theta[0, 0, 1] if model is sample_of_a_normal else 1.0
    np.testing.assert_allclose(drawn.std(axis=(0, 1, 2)), sd, rtol=0.06)
    assert len(np.unique(drawn)) == drawn.size


SCAN = """
import jax, numpyro, numpyro.distributions as dist

def model(x, y=None):
    r = numpyro.sample("r", dist.Normal(0, 1))
    def step(level, rate):
        return level + r * rate, level + r * rate
    numpyro.sample("obs", dist.Normal(jax.lax.scan(step, x[0], x)[1], 0.5), obs=y)
"""
IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from chainsweep.model.load import example_observation

example = example_observation({"x": np.linspace(0, 1, 5), "y": np.zeros(5)}, {"c": 0.5})
print(example.fields["x"].dtype, example.constants["c"].dtype)
"""


def test_a_loop_may_begin_with_a_field(tmp_path):
    """Its carry is float64 from the start: JAX computes so before the first array is made."""
    x = np.linspace(0, 1, 6)
    problem, batch = loaded(tmp_path / "model.py", SCAN, {"x": x, "y": 2 * x}, {})
    sums = np.cumsum(x)
    precision = 1 + np.sum(sums**2) / 0.25
    mean = np.sum(sums * (2 * x - x[0])) / 0.25 / precision
    density = BatchedProblem(problem, batch).log_density(np.array([[[mean], [mean - 0.1], [mean + 0.2]]]))[0]
    np.testing.assert_allclose(density[1:] - density[0], -0.5 * precision * np.array([0.1, 0.2]) ** 2, rtol=1e-9)
    done = subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float64", "float64"]


BACKWARDS = """
import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist

@jax.custom_vjp
def double(a):
    return 2 * a

double.defvjp(lambda a: (2 * a, a), lambda a, slope: (2 * slope,))

@jax.custom_vjp
def square(a):
    return a * a

def forth(a):
    return a * a, a

def back(a, slope):
    return (BACK,)

square.defvjp(forth, back)

def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("obs", dist.Normal(square(a) * x + b, 0.5), obs=y)
"""
LOOPED = "slope * jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] + double(a) / 2), (0 * a, 0 * a))[1]"
WAYS_BACK = [
    ("2 * a * slope", "forward"),
    # Reverse over reverse would do, but of a differential equation it takes ten times as long.
    ("double(a) * slope", "differences"),
    (LOOPED, "differences"),
]


@pytest.mark.parametrize(("back", "way"), WAYS_BACK)
def test_a_model_without_forward_derivatives_has_the_curvature_all_the_same(tmp_path, back, way):
    """A reverse rule that calls such a function itself, as that of ``odeint`` does, has no forward derivative."""
    text = BACKWARDS.replace("BACK", back)
    x = np.linspace(0, 1, 5)
    problem, batch = loaded(tmp_path / "model.py", text, {"x": x, "y": 1 + x}, {})
    assert problem.structure.second_derivatives == way
    assert Structure.from_plain(json.loads(json.dumps(problem.structure.plain()))) == problem.structure
    z = np.array([[[0.7, 0.2], [-1.3, 0.4]]])
    found = BatchedProblem(problem, batch).curvature(z)[0]
    for (a, b), matrix in zip(z[0], found, strict=True):
        misfit = a * a * x + b - (1 + x)
        exact = np.array(
            [
                [np.sum(4 * a**2 * x**2 + 2 * misfit * x) / 0.25 + 0.25, np.sum(2 * a * x) / 0.25],
                [np.sum(2 * a * x) / 0.25, len(x) / 0.25 + 0.25],
            ]
        )
        np.testing.assert_allclose(matrix, exact, rtol=1e-6 if way == "differences" else 1e-9)
    batched, keys = BatchedProblem(problem, batch), np.zeros((1, 2), np.uint32)
    modes = find_modes(batched, prior_pool(batched, keys, 64), 4, [np.random.default_rng(1)])
    np.testing.assert_allclose(np.abs(modes.z[0, 0]), [0.9, 1.05], atol=0.2)


SHIFTED = """
import numpyro, numpyro.distributions as dist

def model(v, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3).expand([2]).to_event(1))
    numpyro.sample("obs", dist.Normal(a + v, 0.5).to_event(1), obs=y)
"""


def test_vectors_of_a_data_set_and_of_its_points_have_the_exact_posterior(tmp_path):
    """A vector for each data set, and two numbers for each point, padded as any."""
    y = np.random.default_rng(4).normal(size=(6, 2))
    problem, batch = loaded(tmp_path / "model.py", SHIFTED, {"y": y}, {"v": np.array([1.0, -2.0])})
    assert problem.structure.paddable
    precision = 6 / 0.25 + 1 / 9
    mean = np.sum(y - [1.0, -2.0], axis=0) / 0.25 / precision
    longer = {"y": np.pad(y, ((0, 3), (0, 0)), mode="edge")[None]}
    padded = replace(batch, fields=longer, mask=np.arange(9)[None] < 6)
    for some in (batch, padded):
        batched = BatchedProblem(problem, some)
        z = mean + np.array([[0, 0], [0.1, 0], [0, -0.2]])
        density = batched.log_density_unconstrained(z[None])[0]
        np.testing.assert_allclose(density - density[0], [0, -0.005 * precision, -0.02 * precision], rtol=1e-9)


TWO_LENGTHS = """
import numpyro, numpyro.distributions as dist

def model(w, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a, 0.5), obs=y)
    numpyro.sample("other", dist.Normal(a, 1.0), obs=w)
"""


def test_observations_of_another_length_count_as_a_vector(tmp_path):
    """Six observations and four others of one number: the exact posterior; nothing is padded."""
    y, w = np.random.default_rng(4).normal(size=6), np.array([1.0, 2.0, 0.5, -1.0])
    problem, batch = loaded(tmp_path / "model.py", TWO_LENGTHS, {"y": y}, {"w": w})
    assert not problem.structure.paddable
    precision = 6 / 0.25 + 4 + 1 / 9
    mean = (y.sum() / 0.25 + w.sum()) / precision
    density = BatchedProblem(problem, batch).log_density_unconstrained(mean + np.array([[[0.0], [0.1], [-0.2]]]))[0]
    np.testing.assert_allclose(density - density[0], [0, -0.005 * precision, -0.02 * precision], rtol=1e-9)


LOOPS = """
import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist

@jax.custom_vjp
def root(a):
    going = lambda c: (c[0] < 60) & (jnp.abs(c[1] * c[1] - a) > 1e-12 * a)
    return jax.lax.while_loop(going, lambda c: (c[0] + 1, (c[1] + a / c[1]) / 2), (0, a))[1]

def back(kept, slope):
    return (slope / (2 * kept),)

root.defvjp(lambda a: (root(a), root(a)), back)

def model(x, y=None):
    a = numpyro.sample("a", dist.LogNormal(0, 3))
    numpyro.sample("obs", dist.Normal(root(a) * x, 0.5), obs=y)
"""


def test_a_loop_of_unknown_length_is_gone_through_once_a_point(tmp_path):
    """Values and slopes are those of a model without the loop; and no point waits for another."""
    x = np.linspace(0, 1, 5)
    problem, batch = loaded(tmp_path / "model.py", LOOPS, {"x": x, "y": 1 + x}, {})
    plain, _ = loaded(tmp_path / "plain.py", LOOPS.replace("root(a) * x", "jnp.sqrt(a) * x"), {"x": x, "y": 1 + x}, {})
    assert problem.structure.loops
    assert not plain.structure.loops
    z = np.linspace(-9, 9, 6)[None, :, None]
    ours, theirs = BatchedProblem(problem, batch), BatchedProblem(plain, batch)
    np.testing.assert_allclose(ours.potential(z), theirs.potential(z), rtol=1e-9)
    np.testing.assert_allclose(ours.log_density(np.exp(z)), theirs.log_density(np.exp(z)), rtol=1e-9)
    np.testing.assert_allclose(ours.curvature(z), theirs.curvature(z), rtol=1e-5)
    obs = example_observation({"x": x, "y": 1 + x}, {})
    together = jax.vmap(jax.vmap(jax.grad(problem.potential), in_axes=(0, None)), in_axes=(0, None))
    alone = [jax.grad(plain.potential)(point, obs) for point in z[0]]
    np.testing.assert_allclose(together(z.reshape(2, 3, 1), obs).ravel(), np.ravel(alone), rtol=1e-9)
    # JAX has one loop for all points, and no scan over them.
    assert "scan[" in str(jax.make_jaxpr(jax.vmap(problem.potential, in_axes=(0, None)))(z[0], obs))


CORRELATED = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist

def model(y=None):
    L = numpyro.sample("L", dist.LKJCholesky(2, 2.0))
    numpyro.sample("obs", dist.MultivariateNormal(jnp.zeros(2), scale_tril=L), obs=y)
"""
BY_MATRIX = CORRELATED.replace("LKJCholesky", "LKJ").replace("scale_tril", "covariance_matrix")


@pytest.mark.parametrize("text", [CORRELATED, BY_MATRIX])
def test_entries_that_never_change_are_left_out_of_figures(tmp_path, text):
    """A correlation's posterior on a grid, and chains of it: judged as any, though two entries in four stand still."""
    rng = np.random.default_rng(3)
    y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 30)
    problem, batch = loaded(tmp_path / "model.py", text, {"y": y}, {})
    assert problem.names == ("L[0,0]", "L[0,1]", "L[1,0]", "L[1,1]")
    assert problem.structure.still == ((0, 1) if text == CORRELATED else (0, 3))
    batched = BatchedProblem(problem, batch)
    z = np.linspace(-3, 3, 2001)[None, :, None]
    r = batched.constrain(z)[0, :, 2]
    quadratic = np.sum(y**2) - 2 * r * np.sum(y[:, 0] * y[:, 1])
    exact = (1 - 15) * np.log1p(-(r**2)) - 0.5 * quadratic / (1 - r**2) + np.log(np.gradient(r, z[0, :, 0]))
    density = batched.log_density_unconstrained(z)[0]
    inside = slice(1, -1)
    np.testing.assert_allclose((density - density.max())[inside], (exact - exact.max())[inside], atol=1e-4)
    mass = np.exp(density - density.max())
    chain = rng.choice(z[0, :, 0], 800, p=mass / mass.sum())[None, :, None]
    if text == CORRELATED:
        keys = np.array([[1, 2]], np.uint32)
        start = from_prior(target_of(batched), prior_pool(batched, keys, 256))
        right = mode_check(batched, chain, start, keys, PASSES[:1])
        assert right.conclusive[0]
        assert right.shift[0] < 0.2
        assert not lacks_mass(right)[0]
        assert lacks_mass(mode_check(batched, chain + 1.0, start, keys, PASSES[:1]))[0]
    theta = batched.constrain(chain).reshape(1, 4, 200, 4)
    figures = convergence_summary(theta[..., problem.varying], np.array([200]))
    assert all(np.isfinite(figure).all() for figure in figures.values())


STILL = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist

def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1))
    p = numpyro.sample("p", PRIOR)
    numpyro.sample("obs", dist.Normal(a + jnp.sum(p) * x, 1.0), obs=y)
"""


@pytest.mark.parametrize(
    ("prior", "still"),
    [
        ("dist.Dirichlet(jnp.ones(1))", (1,)),
        ("dist.ZeroSumNormal(1.0, (3,))", ()),
    ],
)
def test_it_is_known_which_entries_never_change(tmp_path, prior, still):
    x = np.linspace(0, 1, 5)
    problem, _ = loaded(tmp_path / "model.py", STILL.replace("PRIOR", prior), {"x": x, "y": x}, {})
    assert problem.structure.still == still
