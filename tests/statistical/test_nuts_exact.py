"""The NUTS engine against known answers: a bad global proposal, a funnel, stored references, calibration."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from chainsweep.campaign.config import parse_config
from chainsweep.config.sections import VerdictSection
from chainsweep.data.collection import Batch
from chainsweep.diagnostics.convergence import ess_bulk
from chainsweep.engines.nuts import engine as nuts
from chainsweep.engines.nuts.kernels import Place, after_independence_steps, proposed, stepped_within
from chainsweep.engines.nuts.settings import NutsSettings
from chainsweep.importance.mixture_density import Mixture, prepared
from chainsweep.model.load import example_observation, load_problem
from chainsweep.model.problem import Problem
from chainsweep.numerics.seeds import Seeds
from chainsweep.tasks.attempt import ProgressSink
from tests.conftest import ROOT
from tests.engine_settings import changed
from tests.statistical.calibration import problem_of, rank_pvalues, scale_and_place, simulated
from tests.statistical.references import peaks
from tests.statistical.test_references import SOME, batch_of

QUIET = ProgressSink(lambda *_: None)


def run(problem, batch, settings):
    ends = {"limits": VerdictSection(), "sink": QUIET, "resume": None, "deadline": lambda: False}
    return nuts.run(problem, batch, settings, Seeds(3, "nuts"), **ends).chains


# --- independence steps alone


def skewed(w):
    """Minus the log of a density whose second coordinate is normal around a curve of the first, a gamma variable."""
    return -(2.0 * w[0] - jnp.exp(w[0])) + 0.5 * ((w[1] - w[0] ** 2) / 0.4) ** 2


def exact_draws(rng, count):
    first = np.log(rng.gamma(2.0, size=count))
    return np.stack([first, first**2 + 0.4 * rng.standard_normal(count)], axis=1)


def after_rounds(mixture, rounds=60, chains=4000, only_local=False):
    """Return exact draws, and their places after ``rounds`` of steps, which are exact draws if the steps are exact.

    Each round is a step in the scale of a component and two independence steps; with ``only_local`` the step alone.
    """
    start = exact_draws(np.random.default_rng(5), chains)

    def step(here, key):
        for_step, for_proposals = jax.random.split(key)
        here = stepped_within(skewed, mixture, here, for_step)
        if only_local:
            return here, None
        w = after_independence_steps(here, proposed(skewed, mixture, for_proposals, (2,)))
        return Place(w, skewed(w), mixture.parts(w)), None

    @jax.jit
    @jax.vmap
    def walk(w, key):
        here = Place(w, skewed(w), mixture.parts(w))
        return jax.lax.scan(step, here, jax.random.split(key, rounds))[0].w

    return start, np.asarray(walk(start, jax.random.split(jax.random.key(1), chains)))


def poor_mixture():
    """Three components that are off, too wide or too narrow, and of uneven weight."""
    mean = np.array([[[0.0, 0.5], [1.0, 2.0], [-1.5, 1.0]]])
    chol = np.stack([0.5 * np.eye(2), 1.2 * np.eye(2), np.array([[0.9, 0.0], [-0.8, 0.7]])])[None]
    mixture = Mixture(np.log([[0.5, 0.2, 0.3]]), mean, chol)
    return jax.tree.map(lambda array: jnp.asarray(array[0]), jax.vmap(prepared)(mixture))


def shift(start, end):
    """Largest change of a mean of the coordinates and their squares, in its errors."""
    both = [np.concatenate([w, w**2], axis=1) for w in (start, end)]
    error = np.sqrt(sum(part.var(axis=0) / len(part) for part in both))
    return np.abs((both[1].mean(axis=0) - both[0].mean(axis=0)) / error).max()


def test_independence_steps_with_a_poor_mixture_leave_the_density_as_it_is():
    start, end = after_rounds(poor_mixture())
    assert (start != end).any(axis=1).mean() > 0.99
    assert shift(start, end) < 4


def test_steps_in_the_scale_of_a_component_leave_the_density_as_it_is():
    """The independence steps do not follow here, which would hide a wrong acceptance ratio."""
    start, end = after_rounds(poor_mixture(), only_local=True)
    assert (start != end).any(axis=1).mean() > 0.99
    assert shift(start, end) < 4


def test_a_mixture_whose_density_is_not_that_of_its_draws_is_seen():
    """The twin: heights that do not fit the weights that components are drawn with."""
    mixture = poor_mixture()
    start, end = after_rounds(mixture._replace(height=mixture.height * jnp.array([1.0, 3.0, 1.0])))
    assert shift(start, end) > 6


# --- known posteriors


def funnel(x, y=None):
    v = numpyro.sample("v", dist.Normal(0, 1.5))
    numpyro.sample("u", dist.Normal(0, jnp.exp(v / 2)).expand([3]).to_event(1))
    numpyro.sample("obs", dist.Normal(0.0 * x, 1.0), obs=y)


def test_a_funnel_has_its_moments():
    """Data that say nothing: the posterior is the prior, ``v ~ N(0, 1.5)`` and ``u ~ N(0, exp(v / 2))``."""
    batch = Batch(("one", "two"), {"x": np.zeros((2, 4)), "y": np.zeros((2, 4))}, {}, np.ones((2, 4), bool))
    chains = run(problem_of(funnel, 4), batch, NutsSettings())
    for row, length in enumerate(chains.n_draws):
        v, u = chains.theta[row, :, :length, 0], chains.theta[row, :, :length, 1:]
        for draws, exact in ((v, 0.0), (v**2, 1.5**2), (np.abs(u[..., 0]) ** 0.5, None)):
            if exact is None:
                exact = np.exp(1.5**2 / 2 / 16) * stats.norm.expect(lambda t: np.abs(t) ** 0.5)
            error = draws.std() / np.sqrt(ess_bulk(draws))
            assert abs(draws.mean() - exact) < 4 * error
            assert error < 0.2


def test_references_are_met_by_what_passes_its_diagnostics():
    data, reference = peaks.load()
    batch = batch_of(data, SOME)
    fields = {name: values[0] for name, values in batch.fields.items()}
    table = {"file": "model.py", "function": "broad", "observed": ["y"]}
    config = parse_config({"model": table, "data": {"fields": {n: n for n in fields}}}, "test")
    problem = load_problem(ROOT / "jobs" / "gaussian_peak" / "model.py", config, example_observation(fields, {}))
    settings = changed(config.engines.nuts, attempts=2)
    chains = run(problem, batch, settings)
    judged = 0
    for row, k in enumerate(SOME):
        draws = chains.theta[row, :, : chains.n_draws[row]]
        series = np.moveaxis(draws, -1, 0)
        ess = ess_bulk(series)
        if ess.min() < 400 or np.nansum(chains.sample_stats["diverging"][row]):
            continue
        judged += 1
        shift = np.abs(draws.mean(axis=(0, 1)) - reference.mean[k]) / reference.sd[k]
        assert np.all(shift < 5 / np.sqrt(ess) + 5 / np.sqrt(reference.ess[k]))
        np.testing.assert_allclose(draws.std(axis=(0, 1)), reference.sd[k], rtol=0.25)
        other = reference.mean[SOME[(row + 1) % len(SOME)]]
        assert np.abs(draws.mean(axis=(0, 1)) - other).max() > 5 * reference.sd[k].min() / np.sqrt(ess.min())
    assert judged >= 4


# --- calibration


class WithoutJacobian(Problem):
    """The planted error: the unconstrained density lacks its Jacobian."""

    def potential(self, z, obs):
        theta = self.constrain(z, obs)
        return -self.log_density(theta, obs)


def pvalues(kind, datasets=500):
    batch, truth = simulated(datasets)
    settings = changed(NutsSettings(), prior_draws=256, descents=4, draws=300, attempts=1)
    return rank_pvalues(run(problem_of(scale_and_place, kind=kind), batch, settings), truth)


def test_five_hundred_data_sets_are_calibrated():
    assert pvalues(Problem).min() > 0.005


def test_a_missing_jacobian_is_caught_by_calibration():
    assert pvalues(WithoutJacobian, datasets=64).min() < 1e-6


@pytest.mark.parametrize("algorithm", ["nuts", "hmc"])
def test_without_independence_steps_the_posterior_is_the_same(algorithm):
    """Plain NumPyro kernels, for those who want them."""
    rng = np.random.default_rng(2)
    y = 0.3 + 0.5 * rng.standard_normal((2, 20))
    batch = Batch(("a", "b"), {"x": np.zeros_like(y), "y": y}, {}, np.ones(y.shape, bool))
    problem = problem_of(scale_and_place, 20)
    plain = run(problem, batch, changed(NutsSettings(), jumps=0, algorithm=algorithm, attempts=1))
    jumping = run(problem, batch, changed(NutsSettings(), algorithm=algorithm, attempts=1))
    for column in range(2):
        for row in range(2):
            one = plain.theta[row, :, : plain.n_draws[row], column]
            two = jumping.theta[row, :, : jumping.n_draws[row], column]
            error = np.hypot(*(d.std() / np.sqrt(ess_bulk(d)) for d in (one, two)))
            assert abs(one.mean() - two.mean()) < 4 * error
            assert not np.array_equal(one[:, :50], two[:, :50])
