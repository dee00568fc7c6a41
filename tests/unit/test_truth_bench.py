"""The exact posteriors of the truth bench, and what it calls wrong."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.truth.exact import Exact, grid_posterior, linear, named, on_grid
from benchmarks.truth.run import Answer, datasets_of, errors, family_names, load, table


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
    assert lines[2] == "| funnel | 2/2, **1**, 1.00, 0% |"


@pytest.mark.parametrize("name", family_names())
def test_every_family_has_data_sets_with_a_posterior(name):
    """A family of the same name and number has the same data, whatever their number."""
    family = load(name)
    one, *_ = datasets_of(family, 3)
    for field, values in datasets_of(family, 1)[0].items():
        np.testing.assert_array_equal(values, one[field])
    exact = family.exact(**one)
    assert exact.mean.keys() == exact.sd.keys()
    assert all(np.isfinite(value) for value in exact.mean.values())
    assert all(0 < value < np.inf for value in exact.sd.values())
    assert abs(sum(exact.masses) - 1) < 1e-9 or not exact.masses
