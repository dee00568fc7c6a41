"""Which jobs a submission has: splitting at the array limit, packing into the queue, dependencies."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from chainsweep.errors import ConfigError, UnavailableError
from chainsweep.forecast.pilot import Spread
from chainsweep.slurm.job import as_ranges, ranges_read, ranges_text
from chainsweep.slurm.plan import Limits, SubmissionOrder, command, plan_jobs
from chainsweep.slurm.site import Site
from chainsweep.stages.graph import Task

CAMPAIGN = SimpleNamespace(
    hash="0123456789abcdef", paths=SimpleNamespace(logs=Path("/c/logs"), submission=lambda n: Path(f"/c/submit/{n}"))
)
WIDE = Limits(max_array_size=1001, max_jobs=1_000_000)


def tasks(engine: str, count: int, first: int = 0) -> list[Task]:
    return [Task("infer", first + i, engine, i) for i in range(count)]


def order(shards: int, train: bool = True, form: str = "datasets", **options) -> SubmissionOrder:
    missing = {
        "train": [Task("train", 0, "snpe")] if train else [],
        "emcee": tasks("emcee", shards),
        "nuts": tasks("nuts", shards, shards),
        "snpe": tasks("snpe", shards, 2 * shards),
        "merge": [Task("merge", 0)],
        "report": [Task("report", 0)],
    }
    return SubmissionOrder(1, "0123abcdef", missing, Spread(form), **options)


def test_everything_is_wired_by_dependency():
    jobs = {job.kind: job for job in plan_jobs(CAMPAIGN, Site(name="s"), WIDE, order(5))}
    assert jobs["snpe"].after == (jobs["train"].name,)
    assert jobs["emcee"].after == jobs["nuts"].after == ()
    assert set(jobs["merge"].after) == {jobs[kind].name for kind in ("train", "emcee", "nuts", "snpe")}
    assert jobs["report"].after == (jobs["merge"].name,)
    assert jobs["nuts"].tasks == (5, 6, 7, 8, 9)
    assert not jobs["merge"].requeues


def test_training_waits_for_the_simulations_of_a_costly_simulator():
    wanted = order(5)
    missing = {"simulate": [Task("simulate", part, "snpe") for part in range(25)], **wanted.missing}
    jobs = plan_jobs(CAMPAIGN, Site(name="s", max_array_size=11), WIDE, replace(wanted, missing=missing))
    parts = [job for job in jobs if job.kind == "simulate"]
    assert [job.elements for job in parts] == [11, 11, 3]
    assert all(job.is_array and job.requeues and not job.after and not job.gpu for job in parts)
    trained = next(job for job in jobs if job.kind == "train")
    assert trained.after == tuple(job.name for job in parts)
    assert next(job for job in jobs if job.kind == "snpe").after == (trained.name,)
    assert next(job for job in jobs if job.kind == "emcee").after == ()


def test_an_ensemble_is_an_array_and_one_network_is_none():
    wanted = order(5)
    (alone,) = [job for job in plan_jobs(CAMPAIGN, Site(name="s"), WIDE, wanted) if job.kind == "train"]
    assert (alone.is_array, alone.file, alone.tasks) == (False, "train.sbatch", (0,))
    missing = {**wanted.missing, "train": [Task("train", member, "snpe") for member in range(4)]}
    jobs = plan_jobs(CAMPAIGN, Site(name="s"), WIDE, replace(wanted, missing=missing))
    (networks,) = [job for job in jobs if job.kind == "train"]
    assert networks.is_array
    assert (networks.elements, networks.per_element) == (4, 1)
    assert networks.file == "train-0.sbatch"
    assert next(job for job in jobs if job.kind == "snpe").after == (networks.name,)


def test_a_network_that_is_trained_is_waited_for_by_nobody():
    jobs = {job.kind: job for job in plan_jobs(CAMPAIGN, Site(name="s"), WIDE, order(5, train=False))}
    assert "train" not in jobs
    assert jobs["snpe"].after == ()


@pytest.mark.parametrize(("site_limit", "cluster_limit"), [(None, 11), (11, 1001), (500, 11)])
def test_arrays_are_split_at_the_smaller_limit_and_each_part_counts_from_zero(site_limit, cluster_limit):
    limits = Limits(cluster_limit, 100_000)
    jobs = plan_jobs(CAMPAIGN, Site(name="s", max_array_size=site_limit), limits, order(25))
    parts = [job for job in jobs if job.kind == "nuts"]
    assert [job.elements for job in parts] == [11, 11, 3]
    assert [task for job in parts for task in job.tasks] == list(range(25, 50))
    assert len({job.name for job in jobs}) == len(jobs)
    assert len({job.script for job in jobs}) == len(jobs)


def test_never_more_elements_than_the_queue_takes_and_no_task_is_lost():
    for shards, room in itertools.product((1, 7, 100, 391, 3907), (10, 50, 997)):
        case = f"{shards} shards, room for {room}"
        jobs = plan_jobs(CAMPAIGN, Site(name="s", max_submitted=room), WIDE, order(shards))
        assert sum(job.elements for job in jobs) <= room, case
        for number, kind in enumerate(("emcee", "nuts", "snpe")):
            handled = [task for job in jobs if job.kind == kind for task in job.tasks]
            assert handled == list(range(number * shards, (number + 1) * shards)), case


def test_where_there_is_room_each_shard_has_an_element_of_its_own():
    jobs = plan_jobs(CAMPAIGN, Site(name="s"), WIDE, order(300))
    assert {job.kind: job.elements for job in jobs if job.is_array} == {"emcee": 300, "nuts": 300, "snpe": 300}


def test_half_of_the_cluster_s_queue_is_left_to_others():
    jobs = plan_jobs(CAMPAIGN, Site(name="s"), Limits(1001, 200), order(300))
    assert sum(job.elements for job in jobs) <= 100


def test_a_full_queue_is_an_error_and_not_a_flood():
    with pytest.raises(UnavailableError, match="no room"):
        plan_jobs(CAMPAIGN, Site(name="s", max_submitted=20), WIDE, order(5, queued=16))


def test_ranks_share_out_data_sets_or_walkers():
    site = Site(name="s", job={"emcee": {"ranks": 8}})
    over_data = next(job for job in plan_jobs(CAMPAIGN, site, WIDE, order(20)) if job.kind == "emcee")
    assert (over_data.ranks, over_data.per_element, over_data.elements) == (8, 8, 3)
    few = next(job for job in plan_jobs(CAMPAIGN, site, WIDE, order(3)) if job.kind == "emcee")
    assert few.ranks == 3
    walkers = next(job for job in plan_jobs(CAMPAIGN, site, WIDE, order(3, form="walkers")) if job.kind == "emcee")
    assert (walkers.ranks, walkers.per_element, walkers.elements) == (8, 1, 3)


def test_a_walltime_that_the_signal_eats_is_refused():
    with pytest.raises(ConfigError, match="no time to work"):
        plan_jobs(CAMPAIGN, Site(name="s", signal_lead_s=120, job={"walltime_min": 2}), WIDE, order(1))


def test_commands_depend_on_earlier_jobs_and_on_what_is_queued():
    jobs = plan_jobs(CAMPAIGN, Site(name="s"), WIDE, order(2))
    ids = {job.name: str(10 + number) for number, job in enumerate(jobs)}
    merge = next(job for job in jobs if job.kind == "merge")
    assert command(merge, ids, (7,)) == [
        "sbatch",
        "--parsable",
        "--dependency=afterany:7:10:11:12:13",
        "/c/submit/1/merge.sbatch",
    ]


@pytest.mark.parametrize("numbers", [[0], [0, 1, 2], [0, 2, 4], [3, 4, 9, 10, 11, 40]])
def test_ranges_round_trip(numbers):
    assert ranges_read(ranges_text(numbers)) == tuple(numbers)
    assert sum(b - a + 1 for a, b in as_ranges(numbers)) == len(numbers)


def test_packing_is_even():
    jobs = plan_jobs(CAMPAIGN, Site(name="s", max_submitted=33), WIDE, order(100))
    sizes = {job.kind: math.ceil(100 / job.per_element) for job in jobs if job.is_array}
    assert max(sizes.values()) - min(sizes.values()) <= 3
