"""What a network was trained for, and which data sets are none of that."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.data.collection import Batch
from chainsweep.engines.snpe.training_range import coverage_of, figure_names, outside
from tests.snpe_lines import line_batch, line_problem


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return line_problem(tmp_path_factory.mktemp("line"))


def changed(batch: Batch, name: str, shift: float) -> Batch:
    """The same with the first data set's values ``name`` moved."""
    fields = {key: values.copy() for key, values in batch.fields.items()}
    constants = {key: values.copy() for key, values in batch.constants.items()}
    (fields if name in fields else constants)[name][0] += shift
    return Batch(batch.ids, fields, constants, batch.mask)


def test_what_was_trained_on_is_covered(problem):
    batch = line_batch(6)
    coverage = coverage_of(problem, [batch.take(np.arange(3)), batch.take(np.arange(3, 6))])
    assert coverage.keys() == figure_names(problem, batch.fields, batch.constants)
    assert outside(problem, batch, coverage) == {}


def test_observations_are_no_design(problem):
    batch = line_batch(6)
    assert outside(problem, changed(batch, "y", 1e6), coverage_of(problem, [batch])) == {}


@pytest.mark.parametrize("shift", [100.0, -100.0])
@pytest.mark.parametrize("name", ["x", "y_err", "centre"])
def test_another_design_is_named(problem, name, shift):
    batch = line_batch(6)
    reasons = outside(problem, changed(batch, name, shift), coverage_of(problem, [batch]))
    assert list(reasons) == [0]
    assert f" {name} is " in reasons[0]


def test_more_points_than_it_was_trained_for(problem):
    batch = line_batch(6)
    few = Batch(batch.ids, batch.fields, batch.constants, batch.mask & (np.arange(batch.width) < batch.width // 2))
    reasons = outside(problem, batch, coverage_of(problem, [few]))
    assert len(reasons) == 6
    assert "points is" in reasons[0]


def test_a_margin_is_forgiven(problem):
    batch = line_batch(6)
    assert outside(problem, changed(batch, "x", 0.05), coverage_of(problem, [batch])) == {}


def test_a_figure_that_is_no_number_is_left_to_others(problem):
    batch = line_batch(6)
    assert outside(problem, changed(batch, "y_err", np.nan), coverage_of(problem, [batch])) == {}
