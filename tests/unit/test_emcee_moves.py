"""Moves: equal to a serial loop and to emcee's own, invariant for known targets, groups apart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import emcee
import numpy as np
import pytest
from emcee.model import Model
from scipy.special import ndtri

from chainsweep.engines.emcee.moves import (
    GAMMA0,
    MOVES,
    SNOOKER_RANGE,
    DEMove,
    GroupMove,
    GroupStreams,
    ScheduledMove,
    SnookerMove,
    StretchMove,
    distinct_triples,
    ordered_pairs,
)

COVARIANCE = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, -0.3], [0.0, -0.3, 0.5]])
PRECISION = np.linalg.inv(COVARIANCE)


def correlated(theta: np.ndarray) -> np.ndarray:
    return -0.5 * np.einsum("ni,ij,nj->n", theta, PRECISION, theta)


def draw_correlated(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.multivariate_normal(np.zeros(3), COVARIANCE, size=n)


def hard_edged(theta: np.ndarray) -> np.ndarray:
    """Uniform on [0, 1] times exponential."""
    inside = (theta[:, 0] >= 0) & (theta[:, 0] <= 1) & (theta[:, 1] >= 0)
    return np.where(inside, -theta[:, 1], -np.inf)


def draw_hard_edged(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.column_stack([rng.uniform(size=n), rng.exponential(size=n)])


def moments(x: np.ndarray) -> np.ndarray:
    """First moments, then second ones."""
    products = x[..., :, None] * x[..., None, :]
    return np.concatenate([x, products.reshape(*x.shape[:-1], -1)], axis=-1)


# log density, exact draws, exact moments
TARGETS = {
    "correlated": (correlated, draw_correlated, np.concatenate([np.zeros(3), COVARIANCE.ravel()])),
    "hard_edged": (hard_edged, draw_hard_edged, np.array([1 / 2, 1, 1 / 3, 1 / 2, 1 / 2, 2])),
}


class WrongStretch(StretchMove):
    """The exponent d instead of d - 1, which is the commonest mistake."""

    def get_proposal(self, sample, complement):
        points, factors = super().get_proposal(sample, complement)
        return points, factors * sample.shape[-1] / (sample.shape[-1] - 1)


class WrongSnooker(SnookerMove):
    """Half the factor."""

    def get_proposal(self, sample, complement):
        points, factors = super().get_proposal(sample, complement)
        return points, 0.5 * factors


def model_of(log_density: Callable[[np.ndarray], np.ndarray], random: object = None) -> Model:
    return Model(log_density, lambda q: (log_density(q), None), map, random)


def steps(move: GroupMove, log_density: Callable, theta: np.ndarray, n: int) -> list[np.ndarray]:
    state = emcee.State(theta.copy(), log_prob=log_density(theta))
    chain = []
    for step in range(n):
        move.randomness.seek(step)
        state, _ = move.propose(model_of(log_density), state)
        chain.append(state.coords.copy())
    return chain


def worst_z(move_type: type[GroupMove], target: str, groups: int = 300, walkers: int = 12, n: int = 30) -> float:
    """Largest deviation, in Monte-Carlo errors, of first and second moments of chains begun in the target.

    Groups are independent, so the scatter of their averages is the Monte-Carlo error.
    """
    log_density, draw, known = TARGETS[target]
    theta = draw(np.random.default_rng(5), groups * walkers)
    move = move_type(GroupStreams(range(groups), walkers), walkers)
    chain = np.array(steps(move, log_density, theta, n)[10:]).reshape(n - 10, groups, walkers, -1)
    averages = moments(chain).mean(axis=(0, 2))
    return float(np.max(np.abs(averages.mean(axis=0) - known) / (averages.std(axis=0, ddof=1) / groups**0.5)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MOVES)
def test_moves_leave_the_target_invariant(name, target):
    assert worst_z(MOVES[name], target) < 4.0


@pytest.mark.parametrize("move", [WrongStretch, WrongSnooker])
@pytest.mark.parametrize("target", TARGETS)
def test_a_wrong_factor_is_caught(move, target):
    assert worst_z(move, target) > 8.0


def serial_step(name: str, numbers: np.ndarray, theta: np.ndarray, log_prob: np.ndarray) -> None:
    """One step of one group by plain loops over walkers; ``numbers`` are its uniforms ``(walker, k)``."""
    walkers, ndim = theta.shape
    order = np.argsort(numbers[:, 0])
    halves = [list(order[: walkers // 2]), list(order[walkers // 2 :])]
    row = 0
    for moving, resting in (halves, halves[::-1]):
        old = theta.copy()
        for walker in moving:
            s, (_, first, second, accept) = old[walker], numbers[row]
            row += 1
            others = len(resting)
            if name == "stretch":
                z = np.square(first + 1.0) / 2.0
                c = old[resting[int(second * others)]]
                q, factor = c - (c - s) * z, (ndim - 1) * np.log(z)
            elif name == "de":
                i, j = ordered_pairs(others)[int(first * others * (others - 1))]
                gamma = GAMMA0 / np.sqrt(2 * ndim) * (1.0 + 1e-5 * ndtri(second))
                q, factor = s + gamma * (old[resting[j]] - old[resting[i]]), 0.0
            else:
                number = np.array(int(first * others * (others - 1) * (others - 2)))
                c, z1, z2 = (old[resting[int(i)]] for i in distinct_triples(number, others))
                gamma = SNOOKER_RANGE[0] + (SNOOKER_RANGE[1] - SNOOKER_RANGE[0]) * second
                direction = (s - c) / np.linalg.norm(s - c)
                q = s + gamma * direction * (direction @ (z1 - z2))
                factor = (ndim - 1) * np.log(np.linalg.norm(q - c) / np.linalg.norm(s - c))
            density = correlated(q[None])[0]
            if factor + density - log_prob[walker] > np.log1p(-accept):
                theta[walker], log_prob[walker] = q, density


@pytest.mark.parametrize("name", MOVES)
def test_one_group_equals_a_serial_loop(name):
    walkers, n = 10, 60
    start = draw_correlated(np.random.default_rng(1), walkers)
    streams = GroupStreams([77], walkers)
    chain = steps(MOVES[name](streams, walkers), correlated, start, n)
    for step in range(n):
        theta = (chain[step - 1] if step else start).copy()
        streams.seek(step)
        serial_step(name, streams._step[0], theta, correlated(theta))
        if name == "snooker":  # its sums run in another order
            np.testing.assert_allclose(chain[step], theta, rtol=1e-12, atol=1e-12)
        else:
            np.testing.assert_array_equal(chain[step], theta)
    assert not np.array_equal(chain[-1], start)


class FromRandomState:
    """emcee's own random numbers, for one group."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)

    def order(self, walkers):
        labels = np.arange(walkers) % 2
        self.random.shuffle(labels)
        return np.argsort(labels, kind="stable")[None]

    def uniform(self, n):
        return self.random.rand(n)[None]

    def index(self, high, n):
        return self.random.randint(high, size=n)[None]

    def normal(self, n):
        return self.random.randn(n)[None]

    def log_uniform(self, n):
        return np.log(self.random.rand(n))[None]


@pytest.mark.parametrize(("move", "reference"), [(StretchMove, emcee.moves.StretchMove), (DEMove, emcee.moves.DEMove)])
def test_with_its_random_state_the_move_is_emcees_bit_for_bit(move, reference):
    theta = draw_correlated(np.random.default_rng(2), 12)
    mine = emcee.State(theta.copy(), log_prob=correlated(theta))
    theirs = emcee.State(theta.copy(), log_prob=correlated(theta))
    ours, random, original = move(FromRandomState(9), 12), np.random.RandomState(9), reference()
    for _ in range(50):
        mine, accepted = ours.propose(model_of(correlated), mine)
        theirs, expected = original.propose(model_of(correlated, random), theirs)
        np.testing.assert_array_equal(mine.coords, theirs.coords)
        np.testing.assert_array_equal(mine.log_prob, theirs.log_prob)
        np.testing.assert_array_equal(accepted, expected)


def test_a_group_depends_on_its_own_key_only():
    walkers, keys = 8, [3, 14, 15]
    theta = draw_correlated(np.random.default_rng(3), len(keys) * walkers)
    weights = {"stretch": 1.0, "de": 1.0, "snooker": 1.0}

    def final(groups: list[int], shift: float = 0.0) -> np.ndarray:
        move = ScheduledMove(weights, GroupStreams([keys[g] for g in groups], walkers), schedule_key=1, period=100)
        points = np.concatenate([theta[g * walkers : (g + 1) * walkers] for g in groups])
        points[walkers:] += shift
        state = emcee.State(points, log_prob=correlated(points))
        for _ in range(70):
            state, _ = move.propose(model_of(correlated), state)
        return state.coords[:walkers]

    alone = final([1])
    np.testing.assert_allclose(final([1, 0, 2]), alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(final([1, 0, 2]), final([1, 0, 2], shift=0.5))
    assert not np.allclose(final([0]), alone)


def test_streams_seek_anywhere():
    forward, jumping = GroupStreams([1, 2], 6), GroupStreams([1, 2], 6)
    seen = {}
    for step in range(120):
        forward.seek(step)
        seen[step] = (forward.order(6).copy(), forward.uniform(3).copy(), forward.log_uniform(3).copy())
    for step in (119, 3, 50, 49, 0, 100):
        jumping.seek(step)
        np.testing.assert_array_equal(jumping.order(6), seen[step][0])
        np.testing.assert_array_equal(jumping.uniform(3), seen[step][1])
        np.testing.assert_array_equal(jumping.log_uniform(3), seen[step][2])
    assert not np.array_equal(seen[0][1], seen[50][1])


def test_the_schedule_follows_its_weights_and_not_their_order():
    streams = GroupStreams([0], 8)
    move = ScheduledMove({"stretch": 1.0, "de": 3.0}, streams, schedule_key=4, period=500)
    turned = ScheduledMove({"de": 3.0, "stretch": 1.0}, streams, schedule_key=4, period=500)
    chosen = [type(move.choose(step)) for step in range(4000)]
    assert chosen == [type(turned.choose(step)) for step in range(4000)]
    assert [sum(c is DEMove for c in chosen[first : first + 500]) for first in range(0, 4000, 500)] == [375] * 8
    assert len({tuple(chosen[first : first + 500]) for first in range(0, 4000, 500)}) == 1
    assert chosen[:375] != [DEMove] * 375
    rare = ScheduledMove({"de": 1.0, "snooker": 1e-9}, streams, schedule_key=4, period=100)
    assert sum(type(rare.choose(step)) is SnookerMove for step in range(100)) == 1


def test_groups_may_be_at_steps_of_their_own():
    walkers, theta = 8, draw_correlated(np.random.default_rng(9), 16)
    weights = {"stretch": 1.0, "de": 1.0, "snooker": 1.0}

    def moved(keys: list[int], begun: list[int], points: np.ndarray) -> np.ndarray:
        move = ScheduledMove(weights, GroupStreams(keys, walkers), schedule_key=1, period=100)
        move.steps = np.array(begun)
        state = emcee.State(points.copy(), log_prob=correlated(points))
        for _ in range(70):
            state, _ = move.propose(model_of(correlated), state)
        return state.coords

    both = moved([3, 5], [200, 0], theta)
    np.testing.assert_allclose(both[:walkers], moved([3], [200], theta[:walkers]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(both[walkers:], moved([5], [0], theta[walkers:]), rtol=1e-9, atol=1e-12)
    assert not np.allclose(moved([5], [100], theta[walkers:]), both[walkers:])


def test_triples_are_all_ordered_triples_once():
    triples = np.column_stack(distinct_triples(np.arange(5 * 4 * 3), 5))
    assert sorted(map(tuple, triples.tolist())) == sorted(permutations(range(5), 3))


def test_walkers_on_one_point_are_refused_quietly():
    theta = np.ones((8, 3))
    for name in MOVES:
        chain = steps(MOVES[name](GroupStreams([1], 8), 8), correlated, theta, 5)
        np.testing.assert_allclose(chain[-1], theta)
