"""The proposal of a network's weighted draws: narrow networks, whose weights alone would have no variance."""

from __future__ import annotations

import numpy as np
import pytest

from chainsweep.diagnostics.weights import efficiency, ess_lower_bound, psis_khat, weighted_sd
from chainsweep.engines.snpe.proposal import EVERY, FREEDOM, Proposal
from chainsweep.numerics.seeds import Seeds


class Narrow:
    """A network whose draws of each data set are normal, ``sd`` times as wide as the posterior, a unit normal."""

    def __init__(self, sd: float, centre: float = 0.0) -> None:
        self.sd, self.centre = sd, centre

    def draw(self, base, rows=None):
        z = self.centre + self.sd * base
        return z, self.log_density(z, rows)

    def log_density(self, z, rows):
        return -0.5 * (((z - self.centre) / self.sd) ** 2 + np.log(2 * np.pi * self.sd**2)).sum(axis=-1)


def weighted(sd: float, dim: int, datasets: int, draws: int):
    """Draws and log weights of unit normal posteriors."""
    ids = tuple(f"set-{k}" for k in range(datasets))
    proposal = Proposal(Narrow(sd), ids, dim, Seeds(1, "snpe"))
    rng = np.random.default_rng(7)
    base = rng.standard_normal((datasets, draws, dim))
    z, log_q = proposal.draw(base, rng.chisquare(FREEDOM, (datasets, draws)), 0, np.arange(datasets))
    return z, -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=-1) - log_q


@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("sd", [0.9, 0.72, 0.65])
def test_a_narrow_network_claims_the_effective_draws_that_it_has(sd, dim):
    """Alone, networks of 0.72 and 0.65 of the width claim 38 times as many as they have, and infinitely many."""
    _, many = weighted(sd, dim, 40, 20_000)
    weights = np.exp(many)
    true = weights.mean() ** 2 / (weights**2).mean()
    z, log_weight = weighted(sd, dim, 40, 1000)
    khat, _ = psis_khat(log_weight)
    claimed = ess_lower_bound(log_weight, khat) / 1000
    assert 0.8 < np.median(claimed) / true < 1.05
    assert (khat < 0.5).all()
    sds = weighted_sd(np.moveaxis(z, 2, 0), log_weight)
    np.testing.assert_allclose(sds.mean(axis=1), 1.0, atol=0.03)


def test_the_density_is_that_of_the_draws():
    """The mean weight is the evidence, 1, whether the network is too narrow or too wide."""
    for sd in (0.5, 1.0, 3.0):
        _, log_weight = weighted(sd, 2, 20, 4000)
        error = np.exp(log_weight).std() / np.sqrt(log_weight.size)
        assert abs(np.exp(log_weight).mean() - 1.0) < 4 * error < 0.05


def test_one_draw_in_five_is_wide_at_any_offset():
    proposal = Proposal(Narrow(1e-3), ("one",), 2, Seeds(1, "snpe"))
    base, squares = np.ones((1, 20, 2)), np.full((1, 20), float(FREEDOM))
    whole, _ = proposal.draw(base, squares, 0, np.array([0]))
    apart = [
        proposal.draw(base[:, part], squares[:, part], part.start, np.array([0]))[0]
        for part in (slice(0, 7), slice(7, 20))
    ]
    np.testing.assert_array_equal(np.concatenate(apart, axis=1), whole)
    wide = ~np.isclose(whole[0, :, 0], 1e-3, rtol=1e-9)
    assert np.flatnonzero(wide).tolist() == list(range(EVERY - 1, 20, EVERY))


def test_a_network_without_usable_draws_disturbs_no_other_data_set():
    class Broken(Narrow):
        def draw(self, base, rows=None):
            z, log_q = super().draw(base, rows)
            z[0] = np.nan
            return z, log_q

    proposal = Proposal(Broken(0.8), ("broken", "well"), 2, Seeds(1, "snpe"))
    alone = Proposal(Narrow(0.8), ("well",), 2, Seeds(1, "snpe"))
    rng = np.random.default_rng(3)
    base, squares = rng.standard_normal((1, 50, 2)), rng.chisquare(FREEDOM, (1, 50))
    pair = proposal.draw(np.repeat(base, 2, 0), np.repeat(squares, 2, 0), 0, np.arange(2))
    one = alone.draw(base, squares, 0, np.array([0]))
    np.testing.assert_allclose(pair[0][1], one[0][0], rtol=1e-12)
    np.testing.assert_allclose(pair[1][1], one[1][0], rtol=1e-12)


def test_efficiency_falls_by_the_kernel_share_at_most_where_the_network_is_perfect():
    _, log_weight = weighted(1.0, 5, 10, 4000)
    assert efficiency(log_weight).min() > 1 - 1 / EVERY
