"""Simulations that are no numbers: where parameters decide which, no draws of the network alone are converged.

The exact posterior of a straight line with normal errors is known, so a wrong answer is seen as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from chainsweep.campaign.config import parse_config
from chainsweep.engines.snpe import engine as snpe
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.seeds import Seeds
from chainsweep.verdicts.judge import judge
from tests.engine_settings import changed
from tests.snpe_lines import (
    HOST_MODEL,
    MODEL,
    TINY,
    MemorySink,
    draws,
    exact_posterior,
    line_batch,
    line_problem,
    never,
)

LIKELIHOOD = """
def log_likelihood(params, x, y, y_err, centre):
    residual = (y - params["a"] - params["b"] * x) / y_err
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * y_err**2))
"""
SIMULATED = 'return {"y": params["a"] + params["b"] * x + y_err * rng.standard_normal(len(x))}'
UNEVEN = {
    "NaN for a part": ("a > 0.7", "y * np.nan", "a"),
    "infinite for a part": ("a > 0.7", "y + np.inf", "a"),
    "one element": ("a > 0.7", "np.where(np.arange(len(y)) == 3, np.nan, y)", "a"),
    "two parameters jointly": ("a * b > 0 and rng.uniform() < 0.3", "y * np.nan", "a and b together"),
}
SETTINGS = changed(TINY, bank_simulations=1500, train_steps=20, jitter=0.0)
"""What is dropped shows in the simulations alone, so the network need not be good."""
CONFIG = parse_config({"model": {"file": "model.py"}, "data": {"source": "data.npz"}}, origin="test")


class Judged(NamedTuple):
    """Verdicts and reasons of six data sets, and how far the means of ``a`` are off, in exact sds."""

    verdicts: list[str]
    reasons: list[str]
    off: np.ndarray
    notes: list[str]
    dropping: Any


def simulator(where: str, bad: str, likelihood: bool = False) -> str:
    body = f'a, b = params["a"], params["b"]\n    {SIMULATED.replace("return {", "made = {")}\n    y = made["y"]\n'
    body += f'    return {{"y": {bad} if {where} else y}}'
    return HOST_MODEL.replace(SIMULATED, body) + (LIKELIHOOD if likelihood else "")


def judged(folder: Path, text: str, **changes: Any) -> Judged:
    problem, batch, sink = line_problem(folder, text), line_batch(6), MemorySink()
    trained = snpe.train(problem, batch, changed(SETTINGS, **changes), 11, sink=sink, resume=None, deadline=never)
    assert trained is not None
    chains = draws(problem, trained, batch, draws=500, adaptive_rounds=6)
    columns = judge(chains, BatchedProblem(problem, batch), CONFIG.verdict, Seeds(1, "snpe"))
    exact = [exact_posterior(batch, i) for i in range(6)]
    off = [(columns["mean_a"][i] - mean[0]) / np.sqrt(cov[0, 0]) for i, (mean, cov, _) in enumerate(exact)]
    return Judged(columns["verdict"], columns["reason"], np.array(off), sink.notes, trained.dropped(problem))


@pytest.mark.parametrize("name", UNEVEN)
def test_where_parameters_decide_nothing_of_the_network_is_converged(tmp_path, name):
    where, bad, parameter = UNEVEN[name]
    found = judged(tmp_path, simulator(where, bad))
    assert set(found.verdicts) == {"not_converged"}
    share = found.dropping.share
    told = (
        f"{share:.1%} of the network's simulations are no numbers and were dropped, which ones depends on {parameter}"
    )
    assert all(told in reason for reason in found.reasons), found.reasons
    assert any(found.dropping.sentence() == note for note in found.notes)
    assert found.dropping.causes["+inf" if "infinite" in name else "NaN"] == found.dropping.dropped


def test_what_is_dropped_at_random_is_told_and_changes_no_verdict(tmp_path):
    found = judged(tmp_path, simulator("rng.uniform() < 0.05", "y * np.nan"))
    assert found.dropping.share == pytest.approx(0.05, abs=0.015)
    assert found.dropping.parameter is None
    assert not any("dropped" in reason for reason in found.reasons)
    assert any("independently of the parameters" in note for note in found.notes)


def test_a_likelihood_and_a_conclusive_mode_check_stand_in_for_what_was_dropped(tmp_path):
    found = judged(tmp_path, simulator("a > 0.7", "y * np.nan", likelihood=True))
    assert found.dropping.parameter == "a"
    converged = np.array(found.verdicts) == "converged"
    assert converged.any()
    assert np.abs(found.off[converged]).max() < 0.2


def test_simulations_of_a_numpyro_model_are_counted_too(tmp_path):
    text = MODEL.format(curve="a + b * x").replace(
        '    numpyro.sample("obs"',
        '    y_err = y_err if y is not None else jnp.where(a > 0.7, jnp.nan, y_err)\n    numpyro.sample("obs"',
    )
    found = judged(tmp_path, "import jax.numpy as jnp\n" + text)
    assert found.dropping.share == pytest.approx(0.36, abs=0.02), "P(a > 0.7) of a normal of sd 2"
    assert found.dropping.parameter == "a"
    assert np.abs(found.off[np.array(found.verdicts) == "converged"]).max(initial=0.0) < 0.2


def test_a_design_without_any_usable_simulation_is_told_of_its_data_sets_alone(tmp_path):
    first = line_batch(6).fields["x"][:, 0]
    found = judged(tmp_path, simulator(f"x[0] < {np.median(first)!r}", "y * np.nan"))
    assert found.dropping.parameter is None
    told = ["design" in reason for reason in found.reasons]
    assert told == (first < np.median(first)).tolist()
    assert all(verdict == "not_converged" for verdict, yes in zip(found.verdicts, told, strict=True) if yes)
