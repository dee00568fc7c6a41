"""The check of a GPU, in small, on whatever is here: every part does what it is for."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.gpu_check import ROOT, parts_of


def test_the_quick_check_goes_well(tmp_path):
    script = ROOT / "benchmarks" / "gpu_check.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    found = {line["part"]: line for line in map(json.loads, (tmp_path / "gpu-check.jsonl").read_text().splitlines())}
    assert done.returncode == 0, (done.stdout, (tmp_path / "gpu-check.log").read_text())
    assert set(found) == {part.name for part in parts_of("quick")}
    right, resumed, sweep = found["nuts-right-float64"], found["nuts-resumed"], found["sweep"]
    assert sum(right["verdicts"].values()) == right["datasets"] == 4
    assert right["verdicts"] == {"converged": 4}
    assert right["wrong"] == 0
    assert resumed["same_verdicts"]
    assert resumed["bit_equal_draws"]
    assert sweep["engines"]["nuts"]["converged"] == 4
    assert found["snpe"]["held_out_loss"] < 10
    assert found["snpe-resumed"]["as_it_is_resumed_bit_equal"]
