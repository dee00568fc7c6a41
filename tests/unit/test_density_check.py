"""After sampling: is there a density near the draws, the same at each call, with a gradient?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chainsweep.engines.chains import Chains, DrawKind
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.causes import Cause, Finding
from chainsweep.verdicts.density_check import density_causes
from tests.snpe_lines import line_batch, line_problem

JAX = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

def model(x, y_err, centre, y=None):
    a = numpyro.sample("a", dist.Uniform(-5, 5))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("obs", dist.Normal(a + b * x + 0 * {term}, y_err), obs=y)
"""
HOST = """
import numpy as np
import numpyro.distributions as dist
prior = {{"a": dist.Uniform(-5, 5), "b": dist.Normal(0, 2)}}
rng, calls = np.random.default_rng(0), [0]

def log_likelihood(params, x, y, y_err, centre):
    a, b = params["a"], params["b"]
    good = -0.5 * np.sum(((y - a - b * x) / y_err) ** 2)
    calls[0] += 1
    return {value}
"""


CALLED = {
    "not a function": Cause.NOT_A_FUNCTION,
    "+inf, or above": Cause.INFINITE_DENSITY,
    "the gradient by": Cause.GRADIENT_NOT_A_NUMBER,
    "not a number (NaN": Cause.DENSITY_NOT_A_NUMBER,
}
"""The cause that goes with the words of a sentence."""


def sentences(findings: dict[int, Finding]) -> dict[int, str]:
    """The sentences, each checked to come with its cause and place."""
    for finding in findings.values():
        assert next(cause for words, cause in CALLED.items() if words in finding.sentence) is finding.cause
        assert finding.at.rpartition("a = ")[2] in finding.sentence
    return {row: finding.sentence for row, finding in findings.items()}


def causes_of(
    folder: Path, text: str, centres: tuple[float, ...] = (0.0, 3.0), diverging: bool = False
) -> dict[int, str]:
    """What is found near draws ``a`` of sd 0.2 about each centre and ``b`` of sd 0.2 about 0."""
    problem = line_problem(folder, text)
    batch = line_batch(len(centres))
    draws = 0.2 * np.random.default_rng(1).standard_normal((len(centres), 2, 300, 2))
    draws[..., 0] += np.array(centres)[:, None, None]
    stats = {"diverging": np.full(draws.shape[:3], float(diverging))}
    chains = Chains(DrawKind.MARKOV, draws, stats, np.full(len(centres), 300))
    return sentences(density_causes(BatchedProblem(problem, batch), chains, Seeds(1, "nuts")))


def test_nothing_is_said_of_a_density(tmp_path):
    assert causes_of(tmp_path, JAX.format(term="a")) == {}
    assert causes_of(tmp_path, HOST.format(value="good")) == {}
    assert causes_of(tmp_path, HOST.format(value="0.0")) == {}
    assert causes_of(tmp_path, HOST.format(value="good if a < 0.1 else -np.inf")) == {}, "zero is a number"


UNDEFINED = {
    "square root": JAX.format(term="jnp.sqrt(0.1 - a)"),
    "logarithm": JAX.format(term="jnp.log(0.1 - a)"),
    "infinite": JAX.format(term="0").replace(
        '    numpyro.sample("obs"',
        "    numpyro.factor('f', jnp.where(a > 0.1, jnp.inf, 0.0))\n    numpyro.sample(\"obs\"",
    ),
    "huge": JAX.format(term="0").replace(
        '    numpyro.sample("obs"',
        "    numpyro.factor('f', jnp.where(a > 0.1, 1e300, 0.0))\n    numpyro.sample(\"obs\"",
    ),
    "black box, NaN": HOST.format(value="good if a < 0.1 else np.nan"),
    "black box, infinite": HOST.format(value="good if a < 0.1 else np.inf"),
    "black box, huge": HOST.format(value="good if a < 0.1 else 1e300"),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_density_that_is_no_number_near_the_draws_is_told_with_its_place(tmp_path, name):
    causes = causes_of(tmp_path, UNDEFINED[name], centres=(0.0, -3.0))
    everywhere = "infinite" in name or "huge" in name
    assert sorted(causes) == ([0, 1] if everywhere else [0]), (
        "the second data set is far from where there is no density"
    )
    if everywhere:
        assert all("log density is +inf" in cause and "prior draws" in cause for cause in causes.values())
        assert float(causes[1].split("at ")[1].split("%")[0]) / 100 == pytest.approx(0.49, abs=0.08)
        return
    share = float(causes[0].split("at ")[1].split("%")[0]) / 100
    assert share == pytest.approx(0.33, abs=0.08), "P(normal > 0.1) of sd 0.2 * sqrt(1 + STEP**2)"
    assert "not a number" in causes[0]
    example = float(causes[0].split("a = ")[1].split(",")[0])
    assert 0.1 < example < 1.0


def test_a_density_that_is_infinite_in_a_corner_of_the_prior_alone_is_let_be(tmp_path):
    corner = UNDEFINED["infinite"].replace("a > 0.1", "b > 12")
    assert causes_of(tmp_path, corner) == {}, "6 sds of the prior away"
    tail = UNDEFINED["infinite"].replace("a > 0.1", "b > 4")
    assert sorted(causes_of(tmp_path, tail)) == [0, 1], "2 sds away: 2.3 % of the prior"


def test_few_points_without_a_density_are_let_be(tmp_path):
    causes = causes_of(tmp_path, JAX.format(term="jnp.sqrt(0.8 - a)"), centres=(0.0, 0.45))
    assert list(causes) == [1], "0.8 is 3.6 sd of the points above the first centre, 1.6 above the second"


@pytest.mark.parametrize(
    "value",
    [
        "good + rng.normal(0, 0.1)",
        "good + 1e-6 * rng.normal()",
        "good - 1e-3 * calls[0]",
        "good + 0.5 * (calls[0] % 2)",
    ],
)
def test_what_is_no_function_of_its_arguments_is_told_with_both_answers(tmp_path, value):
    causes = causes_of(tmp_path, HOST.format(value=value))
    assert sorted(causes) == [0, 1]
    assert "not a function of its arguments" in causes[0]
    first, second = causes[0].split(" was ")[1].split(", and ")
    assert float(first) != float(second.split(" when")[0])


def test_a_gradient_that_is_no_number_is_told_where_chains_diverge(tmp_path):
    text = JAX.format(term="jnp.where(x > 9, jnp.sqrt(x - a - 9), 0.0)")
    assert causes_of(tmp_path, text) == {}, "no divergence, no question"
    causes = causes_of(tmp_path, text, diverging=True)
    assert sorted(causes) == [0, 1]
    assert "the gradient by a is not a number" in causes[0]
    assert causes_of(tmp_path, JAX.format(term="a"), diverging=True) == {}


CHANGING = """
import numpy as np
import numpyro.distributions as dist
prior = {"a": dist.Uniform(-5, 5), "b": dist.Normal(0, 2)}
shift, calls, first = [0.0], [0], []

def log_likelihood(params, x, y, y_err, centre):
    calls[0] += 1
    first.append(float(x[0]))
    good = -0.5 * np.sum(((y - params["a"] - params["b"] * x) / y_err) ** 2)
    return good + {}
"""


def stored_causes(folder: Path, text: str, stored_change: float = 0.0) -> dict[int, str]:
    """What is found where draws come with the log densities that the model gave while they were drawn."""
    problem, batch = line_problem(folder, text), line_batch(3)
    batched = BatchedProblem(problem, batch)
    draws = 0.2 * np.random.default_rng(1).standard_normal((3, 2, 300, 2))
    lp = batched.log_density(draws.reshape(3, 600, 2)).reshape(3, 2, 300) + stored_change
    if problem.black_box:
        problem.host_log_likelihood.__globals__["shift"][0] = 1.0
    chains = Chains(DrawKind.MARKOV, draws, {"lp": lp}, np.full(3, 300), {"seconds": np.ones(3)})
    return sentences(density_causes(batched, chains, Seeds(1, "nuts")))


def test_a_density_that_changed_since_it_was_stored_is_told_with_both(tmp_path):
    assert stored_causes(tmp_path, CHANGING.replace("{}", "0.0")) == {}
    causes = stored_causes(tmp_path, CHANGING.replace("{}", "shift[0] * params['a'] ** 2"))
    assert sorted(causes) == [0, 1, 2]
    before, after = causes[0].split(" was ")[1].split(", and ")
    a = float(causes[0].split("a = ")[1].split(",")[0])
    assert float(after.split(" when")[0]) - float(before) == pytest.approx(a**2, rel=1e-3)
    assert "after sampling" in causes[0]


def test_a_density_that_counts_its_calls_or_depends_on_the_batch_is_told(tmp_path):
    assert stored_causes(tmp_path, CHANGING.replace("{}", "1e-3 * (calls[0] > 2000)"))
    assert stored_causes(tmp_path, CHANGING.replace("{}", "1e-6 * (len(first) > 1 and first[-2] == x[0])"))


@pytest.mark.parametrize(("change", "told"), [(0.0, False), (1e-10, False), (1e-4, True)])
def test_stored_log_densities_of_a_numpyro_model_must_agree_to_their_precision(tmp_path, change, told):
    assert bool(stored_causes(tmp_path, JAX.format(term="a"), change)) is told
