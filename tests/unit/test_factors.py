"""Cholesky factors of many covariances: one that is singular takes none of the others down."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from chainsweep.importance.modes import Modes
from chainsweep.importance.target import from_modes
from chainsweep.numerics.factors import cholesky_factors, inverses


def covariances(number: int, n: int = 4) -> np.ndarray:
    roots = np.random.default_rng(0).standard_normal((number, n, n))
    return roots @ np.swapaxes(roots, -1, -2)


SINGULAR = {
    "rank one": np.outer([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
    "indefinite by rounding": covariances(1)[0] - np.linalg.eigvalsh(covariances(1)[0])[0] * np.eye(4) * (1 + 1e-15),
    "scales from 1e-10 to 1e10": np.outer([1e-10, 1.0, 1.0, 1e10], [1e-10, 1.0, 1.0, 1e10]),
    "nothing at all": np.zeros((4, 4)),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_matrix_gets_a_factor_and_leaves_the_others_theirs(name):
    stack = covariances(5)
    plain = np.linalg.cholesky(stack)
    stack[2] = SINGULAR[name]
    factors = cholesky_factors(stack)
    assert_array_equal(factors[[0, 1, 3, 4]], plain[[0, 1, 3, 4]])
    assert np.isfinite(factors[2]).all()
    size = np.sqrt(np.maximum(np.outer(np.diag(stack[2]), np.diag(stack[2])), 0))
    assert_allclose((factors[2] @ factors[2].T) / (size + 1e-290), stack[2] / (size + 1e-290), atol=1e-3)


def test_a_matrix_without_numbers_has_a_factor_without_numbers():
    stack = covariances(3)
    stack[1, 0, 0], stack[2] = np.nan, 0.0
    factors = cholesky_factors(stack)
    assert np.isnan(np.diagonal(factors[1])).all()
    assert np.isfinite(factors[[0, 2]]).all()


def test_modes_whose_covariance_is_all_but_singular_are_taken():
    covariance = np.stack([np.eye(3), np.outer([1, 1, 1], [1, 1, 1]) + 1e-17 * np.eye(3)])[None]
    modes = Modes(np.zeros((1, 2, 3)), np.zeros((1, 2)), np.zeros((1, 2)), covariance)
    mixture = from_modes(modes)
    assert np.isfinite(mixture.chol).all()


def test_inverses_of_a_stack_with_a_singular_matrix_are_those_of_each_alone():
    rng = np.random.default_rng(4)
    root = rng.standard_normal((3, 4, 4))
    covariance = root @ root.transpose(0, 2, 1)
    covariance[1] = np.diag([1.0, 0.0, 2.0, 0.0])
    found = inverses(covariance)
    np.testing.assert_array_equal(found[[0, 2]], np.linalg.inv(covariance[[0, 2]]))
    assert np.isfinite(found[1]).all()
    np.testing.assert_allclose(found[1][[0, 2], [0, 2]], [1.0, 0.5], rtol=1e-6)
    assert found[1][1, 1] > 1e6


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_a_singular_matrix_is_widened_in_its_own_unit(unit):
    """Variances may be tiny or huge: the others of its entries stay as they are."""
    found = inverses(unit * np.diag([1.0, 0.0, 2.0])[None])[0]
    np.testing.assert_allclose(unit * np.diagonal(found)[[0, 2]], [1.0, 0.5], rtol=1e-9)
    assert unit * found[1, 1] == pytest.approx(0.5e12, rel=1e-6)
