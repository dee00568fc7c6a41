"""Mixtures, their fits, starts, and the rules of the adaptation, on targets known in closed form."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ks_2samp, multivariate_t

from chainsweep.campaign.config import parse_config
from chainsweep.data.collection import Batch
from chainsweep.errors import ChainsweepError
from chainsweep.importance import mixture_density
from chainsweep.importance.adaptive import Settings, adapt, settings_for
from chainsweep.importance.mixture import combine, draw, log_density
from chainsweep.importance.mixture_density import Mixture, degrees
from chainsweep.importance.mixture_fit import fit, place
from chainsweep.importance.modes import Modes, Pool
from chainsweep.importance.target import (
    Start,
    Target,
    defensive_mixture,
    from_chains,
    from_draws,
    from_modes,
    from_prior,
    join,
    strongest,
    target_of,
)
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.load import example_observation, load_problem

SMALL = Settings(draws=500, rounds=6, components=8, points=256, effective=50.0, ess=150.0, lanes=16)


def keys(datasets: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, (datasets, 2), dtype=np.uint32)


def some_mixture(nz: int, count: int = 3, datasets: int = 2) -> Mixture:
    rng = np.random.default_rng(nz)
    root = np.tril(rng.normal(size=(datasets, count, nz, nz)) * 0.3) + np.eye(nz)
    weight = rng.dirichlet(np.ones(count), size=datasets)
    return Mixture(np.log(weight), rng.normal(0, 3, (datasets, count, nz)), root)


def gaussian_target(center: np.ndarray, sd: float = 0.1, log_evidence: float = 2.0) -> Target:
    """Isotropic Gaussians at ``center`` ``(dataset, nz)``; a NaN center is a target that is NaN everywhere."""
    nz = center.shape[1]

    def log_target(z, positions):
        squares = (((z - center[positions][:, None]) / sd) ** 2).sum(axis=-1)
        return log_evidence - 0.5 * squares - nz * np.log(sd * np.sqrt(2 * np.pi))

    return Target(log_target)


def gaussian_start(target: Target, datasets: int, nz: int) -> Start:
    z = np.random.default_rng(5).normal(0, 2, (datasets, 600, nz))
    log_proposal = -0.5 * ((z / 2) ** 2).sum(axis=-1) - nz * np.log(2 * np.sqrt(2 * np.pi))
    return from_draws(target, z, log_proposal)


@pytest.mark.parametrize("nz", [1, 2, 5, 12])
def test_density_is_that_of_a_t_mixture(nz):
    parts = some_mixture(nz)
    z = np.random.default_rng(1).normal(0, 4, (2, 50, nz))
    expected = np.stack(
        [
            sum(
                np.exp(parts.log_weight[i, k])
                * multivariate_t(
                    parts.mean[i, k], parts.chol[i, k] @ parts.chol[i, k].T, df=degrees(parts.mean.shape[-1])
                ).pdf(z[i])
                for k in range(3)
            )
            for i in range(2)
        ]
    )
    assert_allclose(np.exp(log_density(parts, z)), expected, rtol=1e-10)


def test_both_ways_to_the_density_agree_far_out_and_close_in(monkeypatch):
    parts = some_mixture(4)
    narrow = parts._replace(chol=parts.chol * np.array([1e-5, 1.0, 1e3])[:, None, None])
    z = np.concatenate([narrow.mean + 1e-6, narrow.mean * 1e6], axis=1)
    fused = np.asarray(log_density(narrow, z))
    monkeypatch.setattr(mixture_density, "UNROLLED_DIMENSIONS", 0)
    jax.clear_caches()
    assert_allclose(np.asarray(log_density(narrow, z)), fused, rtol=1e-9)
    jax.clear_caches()


@pytest.mark.parametrize("nz", [4, 5, 12])
def test_an_accelerators_programs_give_what_a_processors_give(nz, monkeypatch):
    """Component by component in a loop, or all at once."""
    parts, rng = some_mixture(nz, count=6), np.random.default_rng(2)
    z = rng.normal(0, 3, (2, 300, nz))
    kernels = place(keys(2), z, np.zeros((2, 300)), 50.0, 6)

    def results():
        jax.clear_caches()
        precision = np.broadcast_to(np.eye(nz), (2, 6, nz, nz))
        fitted = fit(keys(2), z, np.zeros((2, 300)), kernels, precision, 200)
        return [np.asarray(a) for a in (log_density(parts, z), draw(parts, keys(2), 400), *fitted)]

    sequential = results()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for ours, theirs in zip(sequential, results(), strict=True):
        assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    jax.clear_caches()


@pytest.mark.parametrize("nz", [1, 3, 4])
def test_draws_follow_the_density(nz):
    """Axis by axis against SciPy's draws; the twin, stretched and moved, must be told apart."""
    parts = some_mixture(nz, count=2, datasets=1)
    z = np.asarray(draw(parts, keys(1), 4000))[0]
    share = np.exp(parts.log_weight[0])
    rng = np.random.default_rng(3)
    from_scipy = np.concatenate(
        [
            multivariate_t(parts.mean[0, k], parts.chol[0, k] @ parts.chol[0, k].T, df=degrees(parts.mean.shape[-1]))
            .rvs(round(4000 * share[k]), random_state=rng)
            .reshape(-1, nz)
            for k in range(2)
        ]
    )
    for axis in range(nz):
        assert ks_2samp(z[:, axis], from_scipy[:, axis]).pvalue > 1e-3
        assert ks_2samp(1.2 * z[:, axis] + 0.4, from_scipy[:, axis]).pvalue < 1e-3


def test_components_are_drawn_as_often_as_they_weigh_in_any_run_of_draws():
    log_weight = np.array([[np.log(0.75), np.log(0.25), -np.inf]])
    far = Mixture(log_weight, np.array([[[0.0], [1e6], [1e9]]]), np.ones((1, 3, 1, 1)))
    z = np.asarray(draw(far, keys(1), 1000))
    second = z[0, :, 0] > 1e5
    assert second.sum() == 250
    assert abs(second[:100].sum() - 25) <= 2
    assert z.max() < 1e8


def test_combining_normalises_and_skips_parts_without_weight():
    one, two = some_mixture(2), some_mixture(2)
    dead = two._replace(log_weight=np.full_like(two.log_weight, -np.inf))
    both = combine((1.0, one), (3.0, two))
    assert_allclose(np.exp(both.log_weight).sum(axis=1), 1.0)
    assert_allclose(np.exp(both.log_weight[:, 3:]).sum(axis=1), 0.75)
    assert_allclose(combine((0.2, one), (0.8, dead)).log_weight[:, :3], one.log_weight, atol=1e-12)
    assert np.isneginf(combine((0.5, dead), (0.5, dead)).log_weight).all()


def fitted_to(z: np.ndarray, log_weight: np.ndarray, components: int = 8, hessian: float = 0.0) -> Mixture:
    kernels = place(keys(len(z)), z, log_weight, 50.0, components)
    precision = np.broadcast_to(hessian * np.eye(z.shape[-1]), (*kernels.center.shape, z.shape[-1]))
    return fit(keys(len(z), 1), z, log_weight, kernels, precision, 256)


def test_a_fit_covers_two_modes_and_ignores_unusable_points():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.1, (1, 800, 2)) + np.where(rng.uniform(size=(1, 800, 1)) < 0.3, 5.0, -5.0)
    log_weight = np.zeros((1, 800))
    z[0, :3], log_weight[0, 3:6], log_weight[0, 6:8] = np.nan, np.nan, -np.inf
    z[0, 8], log_weight[0, 8] = 1e9, -np.inf
    parts = fitted_to(z, log_weight)
    high = np.asarray(parts.mean)[0, :, 0] > 0
    share = np.exp(np.asarray(parts.log_weight))[0]
    assert_allclose(share.sum(), 1.0)
    assert 0.2 < share[high].sum() < 0.45
    assert_allclose(np.abs(parts.mean), 5.0, atol=1.0)


def test_known_curvature_makes_kernels_narrow():
    z = np.random.default_rng(0).normal(0, 1, (1, 400, 2))
    log_weight = np.zeros((1, 400))
    wide, narrow = (np.asarray(fitted_to(z, log_weight, hessian=h).chol)[0, :, 0, 0] for h in (0.0, 1e4))
    assert np.median(narrow) < 0.8 * np.median(wide)


def test_a_data_set_without_weight_fits_to_nothing_and_disturbs_no_other():
    z = np.random.default_rng(0).normal(0, 1, (2, 300, 2))
    log_weight = np.zeros((2, 300))
    alone = fitted_to(z, log_weight)
    log_weight[0] = -np.inf
    parts = fitted_to(z, log_weight)
    assert np.isneginf(parts.log_weight[0]).all()
    assert np.isfinite(parts.mean).all()
    assert_array_equal(parts.mean[1], alone.mean[1])


def modes(log_mass: list[float], covariance: np.ndarray) -> Modes:
    z = np.arange(len(log_mass) * 2, dtype=float).reshape(1, -1, 2)
    mass = np.array([log_mass])
    return Modes(z, mass, mass, np.broadcast_to(covariance, (1, len(log_mass), 2, 2)).copy())


def test_modes_weigh_by_their_mass_and_evenly():
    parts = from_modes(modes([0.0, -50.0, -np.inf], np.diag([4.0, 9.0])))
    assert_allclose(np.exp(parts.log_weight), [[0.75, 0.25, 0.0]], atol=1e-12)
    assert_allclose(parts.chol[0, 0], np.diag([2.0, 3.0]))


def test_modes_without_a_covariance_carry_no_weight():
    broken = modes([0.0, 0.0], np.eye(2))
    broken.covariance[0, 0] = -np.eye(2)
    broken.covariance[0, 1, 0, 0] = np.nan
    assert np.isneginf(from_modes(broken).log_weight).all()


def test_a_start_keeps_the_likeliest_prior_draws_with_their_density():
    target = gaussian_target(np.zeros((1, 2)), sd=1.0, log_evidence=0.0)
    z = np.random.default_rng(0).normal(0, 3, (1, 1000, 2))
    z[0, 0] = np.inf
    log_prior = -0.5 * ((z / 3) ** 2).sum(axis=-1) - np.log(2 * np.pi * 9)
    with np.errstate(invalid="ignore"):
        log_likelihood = target.log_density(z, np.arange(1)) - log_prior
    start = from_prior(target, Pool(z, z, np.nan_to_num(log_likelihood, nan=-np.inf)), keep=999)
    evidence = np.exp(start.log_target - start.log_denominator).sum()
    assert_allclose(evidence, 1.0, atol=0.1)
    few = from_prior(target, Pool(z, z, np.nan_to_num(log_likelihood, nan=-np.inf)), keep=300)
    assert few.z.shape == (1, 300, 2)
    assert np.exp(few.log_target - few.log_denominator).sum() > 0.8 * evidence


def test_starts_join_and_only_the_strongest_points_are_kept():
    target = gaussian_target(np.zeros((2, 2)))
    one, two = gaussian_start(target, 2, 2), gaussian_start(target, 2, 2)
    both = join(one._replace(mode_components=some_mixture(2)), two)
    assert both.z.shape == (2, 1200, 2)
    assert both.mode_components is not None
    z, log_target, log_denominator = strongest(both, 10)
    weights = both.log_target - both.log_denominator
    assert_allclose((log_target - log_denominator)[:, -1], np.sort(weights, axis=1)[:, -10])
    padded = strongest(both, 1300)
    assert np.isneginf(padded[1][:, 1200:]).all()
    assert np.isfinite(padded[0]).all()
    assert z.shape == (2, 10, 2)


def test_a_broad_component_leaves_out_what_is_not_finite():
    z = np.random.default_rng(0).normal(0, 2, (1, 5000, 2))
    z[0, 0] = np.inf
    part = defensive_mixture(z, 4.0)
    assert_allclose(part.chol[0, 0] @ part.chol[0, 0].T, 16 * np.eye(2), atol=1.0)


def test_kernels_on_chains_ignore_padding():
    target = gaussian_target(np.zeros((1, 2)))
    z = np.random.default_rng(0).normal(0, 1, (1, 200, 2))
    z[0, 100:] = np.nan
    parts = from_chains(target, z, keys(1))
    assert np.isfinite(np.asarray(log_density(parts, z[:, :100]))).all()


def test_a_first_round_that_gives_the_evidence_of_the_start_is_the_last():
    """Only where it is told to; the twin's start claims another evidence."""
    target = gaussian_target(np.zeros((2, 2)), sd=1.0)
    known = Mixture(np.zeros((2, 1)), np.zeros((2, 1, 2)), np.tile(np.eye(2), (2, 1, 1, 1)))
    start = gaussian_start(target, 2, 2)._replace(mode_components=known)
    early = replace(SMALL, early=True)
    result = adapt(target, start, keys(2), early)
    assert_array_equal(result.rounds, 1)
    assert_allclose(result.log_evidence, 2.0, atol=0.2)
    strange = start._replace(log_denominator=start.log_denominator - np.array([[0.0], [9.0]]))
    assert_array_equal(adapt(target, strange, keys(2), early).rounds, [1, 2])
    assert_array_equal(adapt(target, start, keys(2), SMALL).rounds, 2)


def test_adaptation_finds_the_evidence_and_says_when_it_is_done():
    center = np.array([[3.0, -1.0], [0.0, 0.0], [-2.0, 2.5]])
    target = gaussian_target(center)
    result = adapt(target, gaussian_start(target, 3, 2), keys(3), SMALL)
    assert (result.khat < 0.7).all()
    assert (result.ess >= 150).all()
    assert (result.rounds >= 2).all()
    assert_allclose(result.log_evidence, 2.0, atol=0.15)
    weights = np.exp(result.log_weight) / np.exp(result.log_weight).sum(axis=1, keepdims=True)
    assert_allclose(np.einsum("dn,dnp->dp", weights, result.z), center, atol=0.05)


def test_a_data_set_is_the_same_alone_and_in_any_company():
    center = np.random.default_rng(2).normal(0, 2, (6, 2))
    target = gaussian_target(center)
    start, seeds = gaussian_start(target, 6, 2), keys(6)
    together = adapt(target, start, seeds, SMALL)
    alone = adapt(target, start, seeds, SMALL, members=np.array([4]))
    assert_allclose(alone.z[4], together.z[4], rtol=1e-6)
    assert_allclose(alone.log_weight[4], together.log_weight[4], atol=1e-6)
    assert_array_equal(alone.rounds, [0, 0, 0, 0, together.rounds[4], 0])
    other = adapt(target, start, seeds + np.uint32(1), SMALL)
    assert not np.allclose(other.z[4], together.z[4])


def test_bad_targets_come_back_empty_and_stall_nobody():
    center = np.zeros((3, 2))
    center[1] = np.nan
    plain = gaussian_target(center)

    def log_target(z, positions):
        values = plain.log_density(z, positions)
        return np.where((positions == 2)[:, None] & (z[..., 0] > 0), np.inf, values)

    target = Target(log_target)
    result = adapt(target, gaussian_start(target, 3, 2), keys(3), SMALL)
    assert result.khat[0] < 0.7
    for bad in (1, 2):
        assert np.isposinf(result.khat[bad])
        assert result.ess[bad] == 0.0
        assert np.isnan(result.log_evidence[bad])
        assert np.isneginf(result.log_weight[bad]).all()
        assert result.rounds[bad] <= 2


def growing_target(datasets: int, seen: list[int]) -> Target:
    """The evidence of data set 0 grows twentyfold from call to call; notes how many data sets are asked for."""

    def log_target(z, positions):
        seen.append(len(np.unique(positions)))
        growth = np.where(positions == 0, 3.0 * len(seen), 0.0)
        return gaussian_target(np.zeros((datasets, 2))).log_density(z, positions) + growth[:, None]

    return Target(log_target)


def test_a_round_that_disagrees_with_the_one_before_is_not_trusted():
    target = growing_target(2, [])
    result = adapt(target, gaussian_start(target, 2, 2), keys(2), SMALL)
    assert result.ess[0] >= SMALL.ess
    assert result.rounds[0] == SMALL.rounds
    assert result.rounds[1] < SMALL.rounds


def test_finished_data_sets_take_no_more_work():
    seen: list[int] = []
    target = growing_target(8, seen)
    start = gaussian_start(target, 8, 2)
    seen.clear()
    result = adapt(target, start, keys(8), SMALL)
    assert seen[:2] == [4, 4]
    assert seen[-1] == 1
    assert sum(seen) == result.rounds.sum()


def test_single_precision_is_refused():
    target = gaussian_target(np.zeros((1, 2)))
    start = gaussian_start(target, 1, 2)
    with jax.enable_x64(False), pytest.raises(ChainsweepError, match="float64"):
        adapt(target, start, keys(1), SMALL)


def test_many_parameters_get_few_kernels():
    assert settings_for(5).components > settings_for(30).components
    assert settings_for(30, draws=77).draws == 77


BLACK_BOX = """
import numpyro.distributions as dist

prior = {"u": dist.Normal(0.0, 1.0)}

def log_likelihood(params, x, y):
    if x[0] > 5:
        raise ArithmeticError("no")
    return -0.5 * float(((y - params["u"]) ** 2).sum())
"""


def test_a_black_box_has_no_curvature_and_its_failures_are_named(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(BLACK_BOX)
    config = parse_config({"model": {"file": "model.py"}, "data": {"fields": {"x": "x", "y": "y"}}}, "test")
    fields = {
        "x": np.array([[0.0, 1.0], [9.0, 9.0], [0.0, 1.0]]),
        "y": np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]),
    }
    example = example_observation({name: values[0] for name, values in fields.items()}, {})
    batched = BatchedProblem(
        load_problem(path, config, example), Batch(("a", "b", "c"), fields, {}, np.ones((3, 2), dtype=bool))
    )
    target = target_of(batched)
    assert target.hessian is None
    z = np.zeros((4, 5, 1))
    density = target.log_density(z, np.array([2, 0, 1, 2]))
    assert_allclose(density[[0, 1, 3]], -1.0 - 0.5 * np.log(2 * np.pi))
    assert np.isneginf(density[2]).all()
    assert list(batched.failures) == [1]
    assert "ArithmeticError" in batched.failures[1]
    assert not target.precision(z, np.arange(4)).any()


def test_points_of_all_rounds_weigh_as_many_evidences_as_there_are_rounds_at_most(monkeypatch):
    """The weights that steer the adaptation: each point by the proposals that could have made it, times their draws."""
    seen: list[np.ndarray] = []

    def place_and_note(keys, z, log_weight, *others):
        seen.append(np.exp(log_weight - 2.0).sum(axis=1))
        return place(keys, z, log_weight, *others)

    monkeypatch.setattr("chainsweep.importance.adaptive.place", place_and_note)
    target = gaussian_target(np.zeros((1, 2)), sd=1.0, log_evidence=2.0)
    adapt(target, gaussian_start(target, 1, 2), keys(1), replace(SMALL, rounds=3, khat=-9.0))
    assert len(seen) == 3
    for number, total in enumerate(seen, 1):
        assert 0.7 < total[0] < 1.3 * number
