"""The bucket planner against every possible split of small cases."""

import itertools

import numpy as np
import pytest

from chainsweep.data.buckets import WIDTH_COSTS, padded_widths, plan_buckets


def padding(lengths, buckets):
    return sum(int((bucket.width - np.asarray(lengths)[bucket.positions]).sum()) for bucket in buckets)


def least_padding(lengths, max_buckets):
    """Every choice of widths, the largest length always among them."""
    distinct = sorted(set(lengths))
    best = None
    for extra in range(min(max_buckets, len(distinct))):
        for widths in itertools.combinations(distinct[:-1], extra):
            allowed = [*widths, distinct[-1]]
            total = sum(min(width for width in allowed if width >= n) - n for n in lengths)
            best = total if best is None else min(best, total)
    return best


def test_padding_is_the_least_possible():
    for seed, max_buckets in itertools.product(range(40), (1, 2, 3, 4, 6)):
        case = f"seed {seed}, at most {max_buckets} buckets"
        rng = np.random.default_rng(seed)
        high = int(rng.integers(4, 60))
        lengths = rng.integers(3, high, size=int(rng.integers(1, 25))) ** (1 + seed % 2)
        buckets = plan_buckets(lengths, max_buckets)
        assert len(buckets) <= max_buckets, case
        assert padding(lengths, buckets) == least_padding(lengths.tolist(), max_buckets), case
        assert sorted(np.concatenate([b.positions for b in buckets]).tolist()) == list(range(len(lengths))), case
        assert all((lengths[b.positions] <= b.width).all() and b.width in lengths for b in buckets), case
        widths = [b.width for b in buckets]
        assert widths == sorted(set(widths)), case
        assert all((np.diff(b.positions) > 0).all() for b in buckets), case


def test_without_padding_each_length_has_its_bucket():
    buckets = plan_buckets([5, 3, 9, 3, 7], max_buckets=2, paddable=False)
    assert [(b.width, b.positions.tolist()) for b in buckets] == [(3, [1, 3]), (5, [0]), (7, [4]), (9, [2])]


def test_one_length_one_bucket_and_nothing_none():
    assert [(b.width, b.positions.tolist()) for b in plan_buckets([4, 4], 4)] == [(4, [0, 1])]
    assert plan_buckets([], 4) == []
    with pytest.raises(ValueError, match="at least 1, got 0"):
        plan_buckets([1, 2], 0)


def test_many_lengths_are_planned_exactly():
    lengths = np.repeat(np.arange(1, 4001), 3)
    buckets = plan_buckets(lengths, 4)
    # evenly spread lengths are cut into equal runs
    assert [b.width for b in buckets] == [1000, 2000, 3000, 4000]
    assert padding(lengths, buckets) == 3 * 4 * sum(range(1000))


def test_few_data_sets_share_a_width_and_many_have_their_own():
    """Each choice of widths, counted out: padding in data sets of the mean length, and the price of a width."""
    rng = np.random.default_rng(5)
    shared = set()
    for datasets in (4, 60, 400, 20_000):
        buckets = plan_buckets(rng.choice([25, 29, 45, 121], datasets, p=[0.5, 0.3, 0.1, 0.1]), 4)
        widths, counts = [b.width for b in buckets], [b.positions.size for b in buckets]
        mean = np.average(widths, weights=counts)
        prices = {}
        for extra in range(len(widths)):
            for chosen in itertools.combinations(widths[:-1], extra):
                padded = [min(w for w in (*chosen, widths[-1]) if w >= width) for width in widths]
                padding = sum(n * (to - width) for n, to, width in zip(counts, padded, widths, strict=True)) / mean
                prices[tuple(padded)] = padding + WIDTH_COSTS * (extra + 1)
        found = tuple(padded_widths(buckets))
        assert prices[found] == pytest.approx(min(prices.values()))
        shared.add(len(set(found)))
    assert {1, 4} <= shared
    assert padded_widths([]) == []
