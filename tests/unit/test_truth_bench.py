"""The exact posteriors of the truth bench, and what it calls wrong."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.truth.answers import Answer, errors, table
from benchmarks.truth.cases import calls, case_names, counted, datasets_of, load, text_of
from benchmarks.truth.exact import Exact, averaged, grid_posterior, linear, named, normals, on_grid, shares
from benchmarks.truth.longrun import by_hamiltonian, by_weights
from benchmarks.truth.run import DATASETS, QUICK


def test_algebra_and_grid_agree_on_a_line():
    rng = np.random.default_rng(1)
    x = np.linspace(-1, 1, 9)
    y, prior_sd = 0.3 - 2.0 * x + 0.5 * rng.standard_normal(9), np.array([2.0, 1.0])
    exact = named(("a", "b"), *linear(np.stack([np.ones(9), x], axis=1), y, 0.5, prior_sd))

    def log_density(theta):
        return -0.5 * ((theta / prior_sd) ** 2).sum(axis=1) - 2 * ((y - theta[:, :1] - theta[:, 1:] * x) ** 2).sum(
            axis=1
        )

    grid = grid_posterior(("a", "b"), log_density, [(-20, 20), (-10, 10)])
    for name in ("a", "b"):
        assert grid.mean[name] == pytest.approx(exact.mean[name], abs=1e-3 * exact.sd[name])
        assert grid.sd[name] == pytest.approx(exact.sd[name], rel=1e-3)


def test_a_grid_sees_modes_that_lie_apart():
    def log_density(theta):
        return np.logaddexp(-0.5 * ((theta[:, 0] + 30) / 0.01) ** 2, -0.5 * ((theta[:, 0] - 40) / 0.01) ** 2)

    grid = on_grid(log_density, [(-100, 100)])
    assert grid.share[grid.centres[:, 0] > 0].sum() == pytest.approx(0.5, abs=0.01)


def test_a_grid_that_does_not_resolve_a_density_is_refused():
    """The twin: an oblique ridge of width 1e-7, which no box of cells gets hold of."""
    with pytest.raises(ArithmeticError, match="does not resolve"):
        on_grid(lambda t: -0.5 * ((t[:, 0] - 0.37 * t[:, 1]) / 1e-7) ** 2 - 3 * t[:, 0] ** 2, [(-3, 3)] * 2)


def answer(mean=0.0, sd=0.0, mass=0.0, converged=True) -> Answer:
    return Answer("funnel", "nuts", 0, converged, mean, sd, mass, 1.0)


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (answer(0.29, 0.29, 0.049), False),
        (answer(mean=0.31), True),
        (answer(sd=0.31), True),
        (answer(mass=0.06), True),
        (answer(np.nan), True),
        (answer(mean=9.0, converged=False), False),
    ],
)
def test_only_what_is_called_converged_can_be_wrong(made, wrong):
    assert made.is_wrong == wrong


def test_errors_are_in_units_of_the_exact_posterior():
    exact = Exact({"a": 1.0}, {"a": 2.0}, (0.25, 0.75), lambda draws: (draws["a"] > 0).astype(int))
    mean, sd, mass = errors(exact, {"a": 2.0}, {"a": 1.0}, {"a": np.array([-1.0, 1.0])}, np.array([1.0, 1.0]))
    assert (mean, sd, mass) == (0.5, 1.0, 0.25)


def test_a_wrong_answer_stands_out_in_the_table():
    lines = table([answer(), answer(mean=1.0)], {"funnel": 2.0}).splitlines()
    assert lines[2] == "| funnel | 2/2, **1**, 1.00, 0%, 1 s | 2 |"


def test_linear_models_in_cells_are_those_of_algebra():
    rng = np.random.default_rng(2)
    design, y = rng.standard_normal((2, 7, 3)), rng.standard_normal(7)
    log_evidence, mean, variance = normals(design, y, np.array([0.5, 2.0]), 4 * np.eye(3))
    for cell, sigma in enumerate((0.5, 2.0)):
        exact_mean, covariance = linear(design[cell], y, sigma, 2.0)
        np.testing.assert_allclose(mean[cell], exact_mean)
        np.testing.assert_allclose(variance[cell], np.diag(covariance))
        total = design[cell] @ design[cell].T * 4 + sigma**2 * np.eye(7)
        evidence = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(total)[1])
        assert log_evidence[cell] == pytest.approx(evidence)
    mixed = averaged("abc", shares(log_evidence), mean, variance)
    assert mixed.mean["a"] == pytest.approx(shares(log_evidence) @ mean[:, 0])


@pytest.mark.parametrize("method", ["chains", "weights"])
def test_a_long_run_is_the_posterior_of_algebra(method):
    rng = np.random.default_rng(3)
    design, names = rng.standard_normal((20, 4)), "abcd"
    y = design @ np.arange(4) + rng.standard_normal(20)
    exact = named(names, *linear(design, y, 1.0, 2.0))

    def value(b):
        return -0.5 * ((y - b @ design.T) ** 2).sum(axis=1) - (b**2).sum(axis=1) / 8

    def gradient(b):
        return (y - b @ design.T) @ design - b / 4

    found = by_hamiltonian(names, value, gradient) if method == "chains" else by_weights(names, value, np.zeros(4))
    for name in names:
        assert found.mean[name] == pytest.approx(exact.mean[name], abs=0.06 * exact.sd[name])
        assert found.sd[name] == pytest.approx(exact.sd[name], rel=0.06)


def test_weighted_draws_of_few_that_count_are_refused():
    """The twin: far tails, which the proposal never has enough draws of."""
    with pytest.raises(ArithmeticError, match="by chance"):
        by_weights("abcdefgh", lambda t: -2.0 * np.log1p(t**2).sum(axis=1), np.zeros(8))


def test_a_variant_is_a_constant_of_the_model_file():
    assert "\nCOEFFICIENTS = 60\n" in text_of("regression[60]")
    assert load("regression[60]").COEFFICIENTS == 60
    assert load("regression[12]").DESIGN.shape == (48, 12)


def test_there_are_as_many_posteriors_as_promised():
    problems = sum(getattr(load(name), "DATASETS", DATASETS) for name in case_names())
    assert problems >= 300
    assert set(QUICK) <= set(case_names())
    assert all(QUICK[name] in getattr(load(name), "ENGINES", (QUICK[name],)) for name in QUICK)


def test_calls_of_a_black_box_are_counted_by_data_set(tmp_path):
    sets = datasets_of("black_box_line", 2)
    module: dict = {}
    exec(counted(text_of("black_box_line"), tmp_path / "calls"), module)
    for number, times in enumerate((2, 3)):
        for _ in range(times):
            found = module["log_likelihood"]({"a": 0.0, "b": 1.0}, **sets[number])
            assert found == load("black_box_line").log_likelihood({"a": 0.0, "b": 1.0}, **sets[number])
    assert calls(tmp_path / "calls", sets) == [2, 3]


@pytest.mark.parametrize("name", case_names())
def test_every_case_has_data_sets_with_a_posterior(name):
    """A case of the same name and number has the same data, whatever their number."""
    one, *_ = datasets_of(name, 3)
    for field, values in datasets_of(name, 1)[0].items():
        np.testing.assert_array_equal(values, one[field])
    exact = load(name).exact(**one)
    assert exact.mean.keys() == exact.sd.keys()
    assert all(np.isfinite(value) for value in exact.mean.values())
    assert all(0 < value < np.inf for value in exact.sd.values())
    assert abs(sum(exact.masses) - 1) < 1e-9 or not exact.masses
