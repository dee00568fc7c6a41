"""Flows of every kind draw from the density that they state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chainsweep.engines.snpe_flow import ESTIMATORS, Architecture, Sampler, build_estimator

SIZES = {"parameters": 3, "summary": 4, "per_point": 2, "width": 5, "transforms": 2, "hidden": 16, "embedding": 6}


def sampler_of(estimator, autoregressive):
    sizes = Architecture(**SIZES, estimator=ESTIMATORS.index(estimator), autoregressive=int(autoregressive))
    assert Architecture.from_arrays(sizes.arrays()) == sizes
    flow = build_estimator(sizes, seed=3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return Sampler(flow)


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_density_of_a_draw_is_the_density_there(estimator, autoregressive):
    sampler, rng = sampler_of(estimator, autoregressive), np.random.default_rng(0)
    packed = rng.standard_normal((4, 4 + 5 * 3)).astype(np.float32)
    packed[:, -5:] = 1.0
    draws, log_q = sampler.draw(packed, rng.standard_normal((4, 200, 3)))
    assert draws.std() > 0.1
    np.testing.assert_allclose(sampler.log_prob(packed, draws), log_q, atol=1e-6)
    other = sampler.draw(packed[::-1].copy(), rng.standard_normal((4, 200, 3)))[0]
    assert not np.allclose(draws, other)


def test_kinds_differ():
    rng = np.random.default_rng(0)
    packed, base = np.ones((1, 4 + 5 * 3), np.float32), rng.standard_normal((1, 50, 3))
    kinds = [sampler_of(name, coupled).draw(packed, base)[0] for name in ESTIMATORS for coupled in (False, True)]
    assert all(not np.allclose(a, b) for i, a in enumerate(kinds) for b in kinds[:i])


def test_summaries_do_not_depend_on_how_many_there_are():
    sampler, rng = sampler_of("nsf", autoregressive=False), np.random.default_rng(0)
    packed = rng.standard_normal((1500, 4 + 5 * 3)).astype(np.float32)
    packed[:, -5:] = 1.0
    whole = sampler.summary(packed)
    assert whole.shape == (1500, 6)
    np.testing.assert_allclose(whole[1200:1210], sampler.summary(packed[1200:1210]), atol=1e-12)
