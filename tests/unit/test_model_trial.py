"""A model is tried before anything is sampled: on several data sets, at likely points, term by term."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.config import parse_config
from chainsweep.errors import ModelError
from chainsweep.model.load import example_observation, load_problem
from chainsweep.model.problem import Problem

HEAD = """
import numpy as np
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

"""


def tried(
    folder: Path, body: str, *, lengths: Sequence[int] = (8, 11, 8), counts: bool = False
) -> tuple[Problem, list[str]]:
    """The problem of the model ``body`` on lines of these lengths, with what was said of it."""
    path = folder / "model.py"
    path.write_text(HEAD + body)
    fields = {"x": "x", "y": "y", "y_err": "y_err"}
    config = parse_config(
        {"model": {"file": str(path)}, "data": {"fields": fields, "constants": ["kind"]}}, origin="test"
    )
    rng, examples = np.random.default_rng(0), []
    for k, length in enumerate(lengths):
        x = np.sort(rng.uniform(0.1, 2.0, length))
        y = rng.poisson(np.exp(1 + x)).astype(float) if counts else 1 + x + 0.1 * rng.standard_normal(length)
        examples.append(example_observation({"x": x, "y": y, "y_err": np.full(length, 0.1)}, {"kind": float(k)}))
    said: list[str] = []
    return load_problem(path, config, examples[0], others=examples[1:], say=said.append), said


PLAIN = """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    b = numpyro.sample("b", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a + b * x, y_err), obs=y)
"""


def test_a_plain_model_is_padded_and_nothing_is_said(tmp_path):
    problem, said = tried(tmp_path, PLAIN)
    assert problem.structure.paddable
    assert said == []


RANDOM = {
    "subsample_size=3 of 8": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    with numpyro.plate("g", 8, subsample_size=3) as i:
        numpyro.factor("extra", -0.5 * (a - i) ** 2)
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
    "plate 'points' has subsample_size=4": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    with numpyro.plate("points", x.shape[0], subsample_size=4) as i:
        numpyro.sample("part", dist.Normal(a * x[i], y_err[i]), obs=x[i])
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
    "numpyro.prng_key()": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    noise = jax.random.normal(numpyro.prng_key(), x.shape)
    numpyro.sample("obs", dist.Normal(a * x + noise, y_err), obs=y)
""",
    "the term 'obs'": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a * x + np.random.normal(), y_err), obs=y)
""",
    "the term 'extra'": """
calls = []
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    calls.append(1)
    numpyro.factor("extra", -1e-3 * len(calls) * a**2)
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
    "the term 'a'": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(np.random.default_rng().normal(), 3))
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
}


@pytest.mark.parametrize("told", RANDOM)
def test_a_model_that_is_random_or_remembers_is_refused_by_name(tmp_path, told):
    with pytest.raises(ModelError, match=r"model\.py") as caught:
        tried(tmp_path, RANDOM[told])
    assert told in str(caught.value)


def test_a_plate_with_all_of_its_rows_is_taken(tmp_path):
    body = PLAIN.replace(
        '    numpyro.sample("obs"',
        '    with numpyro.plate("p", x.shape[0], subsample_size=x.shape[0]):\n        numpyro.sample("obs"',
    )
    problem, _ = tried(tmp_path, body)
    assert problem.names == ("a", "b")


LOOKS_AT_THE_WHOLE = {
    "every density of a prior draw is zero": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1000))
    b = numpyro.sample("b", dist.Normal(0, 1000))
    numpyro.sample("obs", dist.Poisson(jnp.exp(a + b * (x - x.mean()))), obs=y)
""",
    "hidden by a huge term": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.factor("huge", -1e13 + 0.0 * a)
    numpyro.sample("obs", dist.Normal(a + (x - x.mean()), y_err), obs=y)
""",
    "in the second data set alone": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a + jnp.where(kind == 1, x.mean(), 0.0), y_err), obs=y)
""",
    "in the last data set, as long as the first": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a + jnp.where(kind == 2, x.std(), 0.0), y_err), obs=y)
""",
    "in the prior": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(x.mean(), 3))
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
    "in the range of a parameter": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Uniform(0, x.sum()))
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
    "in a factor": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.factor("roughness", -jnp.sum(jnp.diff(a * x) ** 2) - 1e-6 * a**2 * x.shape[0])
    numpyro.sample("obs", dist.Normal(a * x, y_err), obs=y)
""",
}


@pytest.mark.parametrize("where", LOOKS_AT_THE_WHOLE)
def test_padding_that_shows_anywhere_is_found(tmp_path, where):
    problem, _ = tried(tmp_path, LOOKS_AT_THE_WHOLE[where], counts="zero" in where)
    assert not problem.structure.paddable


NO_GRADIENT = {
    "by c, h is not a number at x =": """
def model(x, y_err, kind, y=None):
    c = numpyro.sample("c", dist.Uniform(0, 2))
    h = numpyro.sample("h", dist.Uniform(0, 3))
    numpyro.sample("obs", dist.Normal(jnp.where(x > c, h * jnp.sqrt(x - c), 0.0), y_err), obs=y)
""",
    "by slope is not a number at x = 0.1": """
def model(x, y_err, kind, y=None):
    slope = numpyro.sample("slope", dist.LogNormal(0, 0.7))
    z = jnp.log10(jnp.where(x < jnp.sort(x)[0] + 1e-9, 0.0, x))
    numpyro.sample("obs", dist.Normal(1 / (1 + 10 ** (slope * z)), y_err), obs=y)
""",
    "by a is not a number": """
def model(x, y_err, kind, y=None):
    a = numpyro.sample("a", dist.Normal(0, 3))
    numpyro.sample("obs", dist.Normal(a + 0 * jnp.linalg.norm(a * jnp.zeros(2)), y_err), obs=y)
""",
}


@pytest.mark.parametrize("told", NO_GRADIENT)
def test_a_gradient_that_is_no_number_is_told_with_its_place(tmp_path, told):
    _, said = tried(tmp_path, NO_GRADIENT[told])
    assert said
    assert "gradient" in said[0]
    if "0.1" not in told:
        assert told in said[0]
    assert "jnp.where" in said[0]


def test_a_safe_argument_gives_nothing_to_say(tmp_path):
    body = NO_GRADIENT["by c, h is not a number at x ="].replace(
        "jnp.sqrt(x - c)", "jnp.sqrt(jnp.where(x > c, x - c, 1.0))"
    )
    assert tried(tmp_path, body)[1] == []
