"""The stored reference posteriors: exact by their own weights, reproduced from their script, and met by the package."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.data.collection import Batch
from chainsweep.importance.adaptive import adapt
from chainsweep.importance.target import target_of
from tests.statistical.references import peaks
from tests.statistical.test_importance import QUICK, bound, keys, posterior, sd_error, start_of

SOME = (0, 5, 11, 20, 33, 40, 47, 58)
"""Four visible peaks and four from the broad prior."""


@pytest.fixture(scope="module")
def stored() -> tuple[peaks.Peaks, peaks.Reference]:
    return peaks.load()


def batch_of(data: peaks.Peaks, members: tuple[int, ...]) -> Batch:
    rows = list(members)
    fields = {"x": data.x[rows], "y_err": data.y_err[rows], "y": data.y[rows]}
    return Batch(tuple(f"reference-{k:02d}" for k in rows), fields, {}, np.ones((len(rows), peaks.POINTS), bool))


def test_the_stored_data_are_those_of_the_script(stored):
    """To rounding: NumPy's ``exp`` gives other last bits on other processors."""
    for kept, made in zip(stored[0], peaks.make_data(), strict=True):
        np.testing.assert_allclose(kept, made, rtol=0, atol=1e-14)


def test_every_reference_is_exact_enough(stored):
    reference = stored[1]
    assert reference.ess.min() > 10_000
    assert reference.log_evidence_se.max() < 0.02
    assert (np.diff(reference.quantiles, axis=2) > 0).all()
    assert ((reference.mean >= peaks.LOW) & (reference.mean <= peaks.HIGH)).all()


def test_another_seed_gives_the_same_posterior_and_other_data_do_not(stored):
    data, reference = stored
    again = peaks.solve(data.x[5], data.y[5], data.y_err[5], seed=1000)
    error = np.sqrt(1 / again.ess + 1 / reference.ess[5])
    assert np.abs((again.mean - reference.mean[5]) / reference.sd[5]).max() < 5 * error
    assert np.abs(again.sd / reference.sd[5] - 1).max() < 5 * error
    assert abs(again.log_evidence - reference.log_evidence[5]) < 5 * np.hypot(
        again.log_evidence_se, reference.log_evidence_se[5]
    )
    assert np.abs((again.mean - reference.mean[6]) / reference.sd[6]).max() > 1


def test_the_truth_lies_where_the_references_say(stored):
    """Over all data sets the truth is an ordinary draw of the posterior where it was drawn from the prior."""
    data, reference = stored
    half = peaks.DATASETS // 2
    low, high = reference.quantiles[half:, :, 0], reference.quantiles[half:, :, 2]
    inside = ((low <= data.truth[half:]) & (data.truth[half:] <= high)).mean(axis=0)
    assert np.abs(inside - 0.9).max() < 4 * np.sqrt(0.9 * 0.1 / half)


def test_adaptive_importance_sampling_agrees_on_visible_peaks_and_nearly_on_broad_ones(stored):
    """Trusted weights (k-hat < 0.7, ESS > 400) miss part of the far tails of weakly constrained peaks: their sds come
    out up to a third too small and the evidence up to 0.3 too low, beyond the errors that the weights themselves tell.
    """
    data, reference = stored
    batched = bound(batch_of(data, SOME))
    found = adapt(target_of(batched), start_of(batched), keys(batched.batch.ids, "reference"), QUICK)
    usable = (found.khat < 0.7) & (found.ess > 400)
    assert usable.sum() >= 7
    rows = np.array(SOME)
    mean, sd = posterior(batched, found)
    shift = np.abs((mean - reference.mean[rows]) / reference.sd[rows]).max(axis=1)
    spread = np.abs(sd / reference.sd[rows] - 1)
    evidence = np.abs(found.log_evidence - reference.log_evidence[rows])
    visible, broad = usable & (rows < peaks.DATASETS // 2), usable & (rows >= peaks.DATASETS // 2)
    error = np.sqrt(1 / found.ess + 1 / reference.ess[rows])
    assert (shift / error)[visible].max() < 5
    assert (spread / np.hypot(sd_error(batched, found), error[:, None]))[visible].max() < 5
    assert (evidence / np.hypot(found.log_evidence_se, reference.log_evidence_se[rows]))[visible].max() < 5
    assert shift[broad].max() < 0.3
    assert spread[broad].max() < 0.4
    assert evidence[broad].max() < 0.4
