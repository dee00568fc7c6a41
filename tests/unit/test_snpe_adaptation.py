"""Which data sets are adapted how, after the draws of a network: quickly, thoroughly, and with a broader proposal."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from chainsweep.config.sections import VerdictSection
from chainsweep.engines.snpe import inference
from chainsweep.engines.snpe.inference import BROAD_DEFENSIVE_SHARE, BROAD_WIDE_SHARE, Info, thorough_of
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.importance import adaptive
from chainsweep.model.batched import BatchedProblem
from chainsweep.numerics.seeds import Seeds
from tests.snpe_lines import line_batch, line_problem

DRAWS = 500


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """A function that adapts three data sets; ``results`` are k-hat and effective draws of all, call by call."""

    def act(results: list[tuple[list[float], list[float]]]) -> tuple[list, Info]:
        batched = BatchedProblem(line_problem(tmp_path), line_batch(3))
        calls: list[tuple[list[int], adaptive.Settings, np.ndarray]] = []

        def adapt(target, start, keys, settings):
            khat, ess = (np.array(values) for values in results[len(calls)])
            rows = [int(np.flatnonzero(starts == first)[0]) for first in start.z[:, 0, 0]]
            calls.append((rows, settings, keys))
            empty = adaptive._empty(len(keys), settings.draws, 2)
            log_weight = np.zeros(empty.log_weight.shape)
            return replace(empty, z=start.z, log_weight=log_weight, khat=khat[rows], ess=ess[rows])

        monkeypatch.setattr(inference.importance, "adapt", adapt)
        thorough = thorough_of(SnpeSettings(draws=DRAWS), VerdictSection())
        info = Info.empty(3)
        info.khat[:], info.ess[:], info.rounds[:] = 0.9, 0.0, 0.0
        z = np.random.default_rng(1).standard_normal((3, DRAWS, 2))
        starts = z[:, 0, 0].copy()
        drawn = inference._Drawn(z, np.zeros((3, DRAWS)), np.zeros((3, DRAWS)), np.full(3, DRAWS))
        network = SimpleNamespace(usable=np.ones(3, bool))
        inference._adapt(batched, network, drawn, info, thorough, Seeds(1, "snpe"))
        return calls, info

    return act


def test_what_is_nearly_proven_is_adapted_once_more_with_a_broader_proposal(adapted):
    nearly, good, hopeless = (0.45, 0.0), (0.1, 900.0), (0.8, 0.0)
    first = tuple(zip(nearly, good, hopeless, strict=True))
    last = tuple(zip(good, good, good, strict=True))
    calls, info = adapted([first, first, last])
    assert [rows for rows, _, _ in calls] == [[0, 1, 2], [0, 2], [0]]
    quick, thorough, broad = (settings for _, settings, _ in calls)
    assert broad == replace(thorough, defensive_share=BROAD_DEFENSIVE_SHARE, wide_share=BROAD_WIDE_SHARE)
    assert quick.draws <= thorough.draws
    assert not np.array_equal(calls[1][2][0], calls[2][2][0])
    assert info.khat.tolist() == [0.1, 0.1, 0.9]
    assert info.ess.tolist() == [900.0, 900.0, 0.0]


def test_a_broader_proposal_that_does_not_help_changes_nothing(adapted):
    nearly, worse = (0.45, 100.0), (0.6, 0.0)
    calls, info = adapted([tuple(zip(*[nearly] * 3, strict=True))] * 2 + [tuple(zip(*[worse] * 3, strict=True))])
    assert len(calls) == 3
    assert info.khat.tolist() == [0.45] * 3


def test_no_broader_proposal_where_all_are_proven(adapted):
    calls, _ = adapted([tuple(zip(*[(0.1, 900.0)] * 3, strict=True))])
    assert len(calls) == 1
