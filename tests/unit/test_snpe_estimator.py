"""Flows of every kind draw from the density that they state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chainsweep.engines.snpe import estimator as snpe_flow
from chainsweep.engines.snpe.estimator import (
    ATTENTION_LAYERS,
    AUTOREGRESSIVE,
    ESTIMATORS,
    Architecture,
    Ensemble,
    Sampler,
    SetEmbedding,
    build_estimator,
)

BISECTED = ("bpf",)
"""Inverted to within a millionth."""
SIZES = {"parameters": 3, "summary": 4, "per_point": 2, "width": 5, "transforms": 2, "hidden": 16, "embedding": 6}


def sampler_of(estimator, autoregressive):
    sizes = Architecture(**SIZES, estimator=ESTIMATORS.index(estimator), autoregressive=int(autoregressive))
    assert Architecture.from_arrays(sizes.arrays()) == sizes
    flow = build_estimator(sizes, seed=3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return Sampler(flow)


KINDS = [(name, form) for name in ESTIMATORS for form in (False, True) if name in AUTOREGRESSIVE or not form]


def some_features(rows=4):
    packed = np.random.default_rng(7).standard_normal((rows, 4 + 5 * 3)).astype(np.float32)
    packed[:, -5:] = 1.0
    return packed


@pytest.mark.parametrize(("estimator", "autoregressive"), KINDS)
def test_density_of_a_draw_is_the_density_there(estimator, autoregressive):
    sampler, rng = sampler_of(estimator, autoregressive), np.random.default_rng(0)
    packed = rng.standard_normal((4, 4 + 5 * 3)).astype(np.float32)
    packed[:, -5:] = 1.0
    draws, log_q = sampler.draw(packed, rng.standard_normal((4, 200, 3)))
    assert draws.std() > 0.1
    np.testing.assert_allclose(sampler.log_prob(packed, draws), log_q, atol=1e-4 if estimator in BISECTED else 1e-6)
    other = sampler.draw(packed[::-1].copy(), rng.standard_normal((4, 200, 3)))[0]
    assert not np.allclose(draws, other)


def test_kinds_differ():
    rng = np.random.default_rng(0)
    packed, base = np.ones((1, 4 + 5 * 3), np.float32), rng.standard_normal((1, 50, 3))
    kinds = [sampler_of(*kind).draw(packed, base)[0] for kind in KINDS]
    assert all(not np.allclose(a, b) for i, a in enumerate(kinds) for b in kinds[:i])


def test_summaries_do_not_depend_on_how_many_there_are():
    sampler, rng = sampler_of("nsf", autoregressive=False), np.random.default_rng(0)
    packed = rng.standard_normal((1500, 4 + 5 * 3)).astype(np.float32)
    packed[:, -5:] = 1.0
    whole = sampler.summary(packed)
    assert whole.shape == (1500, 6)
    np.testing.assert_allclose(whole[1200:1210], sampler.summary(packed[1200:1210]), atol=1e-12)


def test_draws_are_the_same_in_many_passes_and_in_one(monkeypatch):
    sampler, packed = sampler_of("nsf", autoregressive=False), some_features()
    base = np.random.default_rng(0).standard_normal((4, 300, 3))
    calls = []
    sampler.estimator.embedding_net.register_forward_hook(lambda *_: calls.append(1))
    whole = sampler.draw(packed, base)
    assert len(calls) == 1
    monkeypatch.setitem(snpe_flow.ROWS_PER_CALL, "cpu", 70)
    parts = sampler.draw(packed, base)
    assert len(calls) == 1 + 4
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("attention", [0, ATTENTION_LAYERS])
def test_embedding_knows_neither_order_nor_padding(attention):
    torch.manual_seed(0)
    network = SetEmbedding(Architecture(**SIZES, estimator=0, autoregressive=0, attention=attention)).double().eval()
    rng = np.random.default_rng(0)
    summary, points = rng.standard_normal((6, 4)), rng.standard_normal((6, 5, 2))
    mask = np.array([[1, 1, 1, 0, 0]] * 3 + [[1, 1, 1, 1, 1]] * 3, float)

    def embedded(points, mask):
        packed = np.concatenate([summary, (points * mask[:, :, None]).reshape(6, -1), mask], axis=1)
        with torch.no_grad():
            return network(torch.as_tensor(packed)).numpy()

    order = np.array([2, 0, 1, 4, 3])
    first = embedded(points, mask)
    np.testing.assert_allclose(embedded(points[:, order], mask[:, order]), first, atol=1e-12)
    other = points.copy()
    other[:, 3:] = 9.0
    changed = np.abs(embedded(other, mask) - first).max(axis=1)
    assert np.all(changed[:3] == 0.0)
    assert np.all(changed[3:] > 1e-3)
    one = points.copy()
    one[:, 0] += 1.0
    assert np.all(np.abs(embedded(one, mask) - first).max(axis=1) > 1e-4)


def test_attention_lets_points_see_each_other():
    """What one point adds depends on the others, beyond the pooling that a deep set has too."""
    torch.manual_seed(0)
    network = SetEmbedding(Architecture(**SIZES, estimator=0, autoregressive=0, attention=ATTENTION_LAYERS)).eval()
    inside = []
    network.score.register_forward_pre_hook(lambda _, given: inside.append(given[0]))
    packed = torch.as_tensor(some_features(2))
    other = packed.clone()
    other[:, 4:6] += 1.0
    with torch.no_grad():
        network(packed), network(other)
    assert (inside[0][:, 1:] - inside[1][:, 1:]).abs().max() > 1e-3


def test_mixed_precision_is_of_training_alone():
    torch.manual_seed(0)
    network = SetEmbedding(Architecture(**SIZES, estimator=0, autoregressive=0))
    packed = torch.as_tensor(some_features())
    exact = network(packed)
    network.mixed_precision = True
    coarse = network(packed)
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().max() < 0.05
    coarse.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)
    assert torch.equal(network.eval()(packed), exact)


def test_an_ensemble_is_the_mixture_of_its_members():
    first, second = sampler_of("nsf", autoregressive=False), sampler_of("maf", autoregressive=False)
    both, packed = Ensemble([first, second]), some_features()
    base = np.random.default_rng(0).standard_normal((4, 101, 3))
    draws, log_q = both.draw(packed, base)
    parts = [np.exp(member.log_prob(packed, draws)) for member in (first, second)]
    np.testing.assert_allclose(np.exp(log_q), np.mean(parts, axis=0), rtol=1e-10)
    np.testing.assert_array_equal(draws[:, ::2], first.draw(packed, base[:, ::2].copy())[0])
    np.testing.assert_array_equal(draws[:, 1::2], second.draw(packed, base[:, 1::2].copy())[0])
    assert both.summary(packed).shape == (4, 12)
    alone = both.draw(packed, base[:, :1])
    np.testing.assert_array_equal(alone[0], draws[:, :1])
