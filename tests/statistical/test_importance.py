"""Adaptive importance sampling against answers known by other means.

Linear-Gaussian posteriors in closed form, plain importance sampling from the prior where it is feasible, emcee at the
right mode where it is not, and two runs with different seeds. The twin is a target without its Jacobian.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import emcee
import numpy as np
from numpy.testing import assert_allclose

from chainsweep.campaign.config import parse_config
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.weights import effective_sample_size, normalised_weights
from chainsweep.importance.adaptive import Settings, WeightedDraws, adapt
from chainsweep.importance.modes import prior_pool
from chainsweep.importance.target import Start, Target, from_draws, from_prior, target_of
from chainsweep.model.batched import BatchedProblem, Compiled
from chainsweep.model.load import example_observation, load_problem
from chainsweep.numerics.seeds import Seeds

MODEL = Path(__file__).parents[2] / "jobs" / "gaussian_peak" / "model.py"
SEEDS = Seeds(1, "importance-test")
PARAMETERS = 5
QUICK = Settings(components=128, points=1024, effective=200.0, lanes=16)
"""One shape for all tests here, so that one compilation serves them."""


def peaks(datasets: int, low: tuple, high: tuple, seed: int, noise: float = 1.0) -> Batch:
    """Peaks ``l, m, s, a, b`` with parameters uniform between ``low`` and ``high``, 40 points each."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 1, (datasets, 40)), axis=1)
    y_err = noise * rng.uniform(0.05, 0.25, (datasets, 40))
    height, place, width, level, slope = rng.uniform(low, high, (datasets, PARAMETERS)).T[:, :, None]
    mean = height * np.exp(-((x - place) ** 2) / (2 * width**2)) + level + slope * x
    fields = {"x": x, "y_err": y_err, "y": mean + y_err * rng.standard_normal(x.shape)}
    ids = tuple(f"{seed}-{k:03d}" for k in range(datasets))
    return Batch(ids, fields, {}, np.ones(x.shape, dtype=bool))


def visible(datasets: int, seed: int) -> Batch:
    return peaks(datasets, (0.7, 0.2, 0.05, -1, -1), (1.8, 0.8, 0.2, 1, 1), seed)


def from_broad_prior(datasets: int, seed: int, noise: float = 1.0) -> Batch:
    return peaks(datasets, (-2, -2, 0, -2, -2), (2, 2, 2, 2, 2), seed, noise)


@cache
def compiled(prior: str) -> Compiled:
    config = parse_config(
        {
            "model": {"file": "model.py", "function": prior, "curve": "mu", "x": "x"},
            "data": {"fields": {name: name for name in ("x", "y_err", "y")}},
        },
        "test",
    )
    example = {name: values[0] for name, values in visible(1, 0).fields.items()}
    return Compiled(load_problem(MODEL, config, example_observation(example, {})))


def bound(batch: Batch, prior: str = "broad") -> BatchedProblem:
    return BatchedProblem(compiled(prior).problem, batch, compiled(prior))


def keys(ids: tuple[str, ...], purpose: str) -> np.ndarray:
    return SEEDS.jax_keys(ids, purpose, 1)[:, 0]


def start_of(batched: BatchedProblem, draws: int = 4096) -> Start:
    pool = prior_pool(batched, keys(batched.batch.ids, "prior"), draws)
    return from_prior(target_of(batched), pool)


def run(batched: BatchedProblem, purpose: str = "adapt") -> WeightedDraws:
    return adapt(target_of(batched), start_of(batched), keys(batched.batch.ids, purpose), QUICK)


def moments(theta: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = np.einsum("dn,dnp->dp", weights, theta)
    return mean, np.sqrt(np.einsum("dn,dnp->dp", weights, (theta - mean[:, None]) ** 2))


def posterior(batched: BatchedProblem, result: WeightedDraws) -> tuple[np.ndarray, np.ndarray]:
    return moments(batched.constrain(result.z), normalised_weights(result.log_weight))


def sd_error(batched: BatchedProblem, result: WeightedDraws) -> np.ndarray:
    """Relative error of each sd, heavy tails included, ``(dataset, parameter)``."""
    weights = normalised_weights(result.log_weight)[..., None]
    theta = batched.constrain(result.z)
    mean, sd = posterior(batched, result)
    excess = ((theta - mean[:, None]) / sd[:, None]) ** 2 - 1.0
    return 0.5 * np.sqrt((weights**2 * excess**2).sum(axis=1))


def linear_gaussian(datasets: int) -> tuple[Target, Start, np.ndarray, np.ndarray, np.ndarray]:
    """Target, start, and the exact means, covariances and log evidences of correlated Gaussian posteriors.

    Prior N(0, 3^2) on 5 coefficients of 30 data; y ~ N(A theta, 0.5^2).
    """
    rng = np.random.default_rng(11)
    design = rng.normal(size=(datasets, 30, PARAMETERS)) + 2.0 * rng.normal(size=(datasets, 30, 1))
    y = np.einsum("dnp,dp->dn", design, rng.normal(0, 2, (datasets, PARAMETERS))) + 0.5 * rng.normal(
        size=(datasets, 30)
    )
    covariance = np.linalg.inv(np.einsum("dnp,dnq->dpq", design, design) / 0.25 + np.eye(PARAMETERS) / 9.0)
    mean = np.einsum("dpq,dnq,dn->dp", covariance, design, y) / 0.25
    marginal = 9.0 * np.einsum("dnp,dmp->dnm", design, design) + 0.25 * np.eye(30)
    log_det = np.linalg.slogdet(2 * np.pi * marginal)[1]
    evidence = -0.5 * (np.einsum("dn,dnm,dm->d", y, np.linalg.inv(marginal), y) + log_det)

    def log_target(z: np.ndarray, positions: np.ndarray) -> np.ndarray:
        residual = y[positions][:, None] - np.einsum("dnp,dkp->dkn", design[positions], z)
        likelihood = -0.5 * (residual**2).sum(axis=-1) / 0.25 - 30 * np.log(0.5 * np.sqrt(2 * np.pi))
        return likelihood - 0.5 * (z**2).sum(axis=-1) / 9.0 - PARAMETERS * np.log(3 * np.sqrt(2 * np.pi))

    z = rng.normal(0, 3, (datasets, 4000, PARAMETERS))
    log_prior = -0.5 * (z**2).sum(axis=-1) / 9.0 - PARAMETERS * np.log(3 * np.sqrt(2 * np.pi))
    target = Target(log_target)
    return target, from_draws(target, z, log_prior), mean, covariance, evidence


def test_linear_gaussian_evidence_means_and_sds_without_derivatives():
    target, start, mean, covariance, evidence = linear_gaussian(8)
    result = adapt(target, start, keys(tuple("abcdefgh"), "line"), QUICK)
    assert (result.khat < 0.7).all()
    errors = (result.log_evidence - evidence) / result.log_evidence_se
    assert np.abs(errors).max() < 4.0
    assert abs(np.exp(result.log_evidence - evidence).mean() - 1.0) < 0.01 + 3 * 0.02 / np.sqrt(8)
    found_mean, found_sd = moments(result.z, normalised_weights(result.log_weight))
    sd = np.sqrt(np.einsum("dpp->dp", covariance))
    assert np.abs((found_mean - mean) / sd).max() < 4.5 / np.sqrt(result.ess.min())
    assert_allclose(found_sd / sd, 1.0, atol=4.5 / np.sqrt(2 * result.ess.min()))


def prior_importance(batched: BatchedProblem, draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means, sds, effective draws and log evidences by weighing prior draws with their likelihood."""
    theta, log_weight = [], []
    for part in range(4):
        pool = prior_pool(batched, keys(batched.batch.ids, f"brute-{part}"), draws // 4)
        best = np.argsort(-pool.log_likelihood, axis=1)[:, :20_000]
        theta.append(np.take_along_axis(pool.theta, best[..., None], axis=1))
        log_weight.append(np.take_along_axis(pool.log_likelihood, best, axis=1))
    values, weights = np.concatenate(theta, axis=1), np.concatenate(log_weight, axis=1)
    top = weights.max(axis=1)
    evidence = top + np.log(np.exp(weights - top[:, None]).sum(axis=1) / draws)
    return *moments(values, normalised_weights(weights)), effective_sample_size(weights), evidence


def test_weak_data_agree_with_plain_importance_sampling_and_without_jacobian_do_not():
    batched = bound(from_broad_prior(4, seed=21, noise=8.0))
    mean, sd, brute_ess, evidence = prior_importance(batched, 400_000)
    assert brute_ess.min() > 400
    result = run(batched)
    assert (result.khat < 0.7).all()
    error = np.sqrt(1 / result.ess + 1 / brute_ess)[:, None]
    found_mean, found_sd = posterior(batched, result)
    assert (np.abs(found_mean - mean) / sd / error).max() < 4.5
    assert (np.abs(found_sd / sd - 1.0) / error).max() < 4.5
    assert (np.abs(result.log_evidence - evidence) / error[:, 0]).max() < 4.0

    def without_jacobian(z: np.ndarray, positions: np.ndarray) -> np.ndarray:
        part = BatchedProblem(batched.problem, batched.batch.take(positions), batched.compiled)
        return part.log_density(part.constrain(np.clip(z, -30, 30)))

    wrong = Target(without_jacobian)
    start = start_of(batched)
    start = start._replace(log_target=wrong.log_density(start.z, np.arange(4)))
    spoiled = adapt(wrong, start, keys(batched.batch.ids, "adapt"), QUICK)
    bad_mean, bad_sd = posterior(batched, spoiled)
    deviation = np.maximum(np.abs(bad_mean - mean) / sd, np.abs(bad_sd / sd - 1.0)) / error
    assert (deviation.max(axis=1) > 4.5).mean() >= 0.75


def test_visible_peaks_agree_between_seeds_and_with_emcee():
    batched = bound(visible(4, seed=33))
    first, second = run(batched, "first"), run(batched, "second")
    assert (first.khat < 0.7).all()
    mean, sd = posterior(batched, first)
    other_mean, other_sd = posterior(batched, second)
    error = np.sqrt(1 / first.ess + 1 / second.ess)[:, None]
    assert (np.abs(mean - other_mean) / sd / error).max() < 4.5
    assert (np.abs(sd / other_sd - 1.0) / error).max() < 4.5
    assert not np.array_equal(first.z, second.z)
    chain_mean, chain_sd, chain_ess = emcee_from(batched, first, position=0)
    error = np.sqrt(1 / first.ess[0] + 1 / chain_ess)
    assert np.abs((mean[0] - chain_mean) / sd[0]).max() < 4.5 * error
    assert (np.abs(sd[0] / chain_sd - 1.0) < 4.5 * (1 / np.sqrt(chain_ess) + sd_error(batched, first)[0])).all()


def emcee_from(batched: BatchedProblem, result: WeightedDraws, position: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Means, sds and effective draws of an ensemble started on the best draws of ``result``."""
    one = BatchedProblem(batched.problem, batched.batch.take([position]), batched.compiled)
    best = np.argsort(-result.log_weight[position])[:64]
    walkers = one.constrain(result.z[position][None, best])[0]
    sampler = emcee.EnsembleSampler(
        64, PARAMETERS, lambda theta: one.log_density(theta[None])[0], vectorize=True, moves=emcee.moves.DEMove()
    )
    sampler.random_state = np.random.RandomState(4).get_state()
    sampler.run_mcmc(walkers, 1200)
    chain = sampler.get_chain(discard=400)
    tau = emcee.autocorr.integrated_time(chain, quiet=True, tol=0).max()
    flat = chain.reshape(-1, PARAMETERS)
    return flat.mean(axis=0), flat.std(axis=0), len(flat) / tau


def test_hard_data_sets_are_settled_from_prior_draws_alone():
    """The share of data sets with trusted weights: 12 broad ones, half of them faint or off the window."""
    halves = visible(6, seed=41), from_broad_prior(6, seed=42)
    fields = {name: np.concatenate([part.fields[name] for part in halves]) for name in halves[0].fields}
    batch = Batch(halves[0].ids + halves[1].ids, fields, {}, np.ones((12, 40), dtype=bool))
    result = run(bound(batch))
    assert ((result.khat < 0.7) & (result.ess >= 400)).mean() >= 0.8
