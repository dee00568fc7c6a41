"""``run`` on a machine with GPUs: one process a GPU takes the tasks of its engines, the others never see one."""

from __future__ import annotations

import re
from collections import defaultdict

from chainsweep.campaign.freeze import init_campaign
from chainsweep.machine.devices import Gpus
from chainsweep.run.local import LocalRun
from tests.conftest import LINE_CONFIG, LINE_MODEL

SAYS_WHERE = """
import os
if "CUDA_VISIBLE_DEVICES" in os.environ:
    print("sees", repr(os.environ["CUDA_VISIBLE_DEVICES"]), "on", os.environ.get("JAX_PLATFORMS"), flush=True)
    raise RuntimeError("this says where a task runs; nothing need be sampled")
"""
TWO_SHARDS = """
[shards]
size = 3
[policy]
engines = ["nuts", "emcee"]
"""


def test_each_gpu_has_a_process_and_the_others_keep_to_the_processor(tmp_path, write_job, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    path = write_job(model=LINE_MODEL + SAYS_WHERE, config=LINE_CONFIG + TWO_SHARDS)
    campaign = init_campaign(path, tmp_path / "sweep")
    ended = LocalRun(campaign, ("nuts", "emcee"), 1, lambda message: None, Gpus(("4", "7"), ("nuts",))).run()
    seen, processes = defaultdict(set), defaultdict(set)
    for task in (failure.task for failure in ended.failed):
        if task.stage == "infer":
            log = campaign.paths.log(task.stage, task.index).read_text()
            seen[task.engine] |= set(re.findall(r"sees \'(.*)\' on (\w+)", log))
            processes[task.engine] |= set(re.findall(r"started by process (\d+)", log))
    assert seen == {"nuts": {("4", "None"), ("7", "None")}, "emcee": {("", "cpu")}}
    assert len(processes["nuts"]) == 2
    assert len(processes["emcee"]) == 1
    assert not processes["nuts"] & processes["emcee"]
