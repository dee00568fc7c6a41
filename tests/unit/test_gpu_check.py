"""The check of a GPU keeps what it measured, whatever its parts do; the page on GPUs is made from that."""

from __future__ import annotations

import json
import os
import time
from functools import partial

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Part, Record, run_parts


def keeps_then(place, what):
    place.keep(before=7)
    if what == "fails":
        raise ValueError("no such thing")
    time.sleep(60 if what == "hangs" else 0)
    return {"after": 8}


@pytest.fixture
def lines_of(tmp_path, monkeypatch):
    """Run parts of these names in processes of their own, and return their lines by name."""
    listed = [
        Part(what, 20 if what != "hangs" else 10, partial(keeps_then, what=what)) for what in ("well", "fails", "hangs")
    ]
    program = (
        "import sys; from functools import partial; from benchmarks import gpu_check as g; "
        "from tests.unit.test_gpu_check import keeps_then; from pathlib import Path; "
        "w = sys.argv[sys.argv.index('--part') + 1]; "
        "g.parts_of = lambda size: [g.Part(w, 1, partial(keeps_then, what=w))]; "
        "g.measure_here(w, 'quick', Path(sys.argv[sys.argv.index('--scratch') + 1]))"
    )
    script = tmp_path / "parts.py"
    script.write_text(program)
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setenv("PYTHONPATH", str(gpu_check.ROOT), prepend=os.pathsep)

    def run(ends_in_s):
        record = Record(tmp_path / "out")
        run_parts(listed, "quick", tmp_path, record, time.monotonic() + ends_in_s)
        lines = [json.loads(line) for line in record.lines.read_text().splitlines()]
        return {line["part"]: line for line in lines}

    return run


def test_a_part_that_fails_or_hangs_keeps_its_figures_and_stops_no_other(lines_of):
    found = lines_of(ends_in_s=100)
    assert found["well"] | {"seconds": 0, "host_gib": 0} == {
        "part": "well", "ok": True, "error": None, "seconds": 0, "before": 7, "after": 8, "host_gib": 0,
    }  # fmt: skip
    assert not found["fails"]["ok"]
    assert found["fails"]["error"] == "ValueError: no such thing"
    assert found["fails"]["before"] == 7
    assert "time limit" in found["hangs"]["error"]
    assert found["hangs"]["before"] == 7
    assert "after" not in found["hangs"]


def test_parts_whose_time_has_not_come_say_so(lines_of):
    found = lines_of(ends_in_s=1)
    assert [line["error"] for line in found.values()] == ["not begun: the time was up"] * 3


def test_the_most_valuable_parts_come_first_and_names_are_unique():
    for size in gpu_check.parts.SIZES:
        names = [part.name for part in gpu_check.parts_of(size)]
        assert names[0] == "machine"
        assert names[1].startswith("nuts-right")
        assert len(set(names)) == len(names)


def test_results_are_named_after_their_device_and_the_page_is_made_from_them(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "results")
    assert gpu_check.section() == gpu_check.NOTHING
    machine = {
        "part": "machine",
        "ok": True,
        "seconds": 1.0,
        "error": None,
        "cores": 16,
        "processor": "Some CPU @ 2 GHz",
    }
    lines = [
        machine | {"gpu": "NVIDIA H200, 580.1, 143771 MiB", "versions": {"jax": "0.11.2"}},
        {"part": "nuts-speed-1024", "ok": True, "seconds": 12.3, "error": None, "verified_per_second": 123.456},
        {"part": "two-tasks", "ok": False, "seconds": 90.0, "error": "stopped after 90 s, its time limit"},
    ]
    (tmp_path / "gpu-check.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gpu_check.keep_results(tmp_path).name == "gpu-nvidia-h200.json"
    text = gpu_check.section()
    assert "NVIDIA H200" in text
    assert "verified per second 123" in text
    assert "stopped after 90 s" in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu_check.BEGIN}\nold\n{gpu_check.END}\nafter\n")
    gpu_check.write_section(page)
    assert page.read_text() == f"before\n{gpu_check.BEGIN}\n\n{text}\n\n{gpu_check.END}\nafter\n"
    lines[0] = machine | {"gpu": None, "versions": {}}
    (tmp_path / "gpu-check.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gpu_check.keep_results(tmp_path).name == "processor-some-cpu-2-ghz.json"
    assert gpu_check.section() == text, "a processor's figures are no GPU's"


def test_the_page_says_what_was_measured_and_nothing_else():
    page = gpu_check.PAGE.read_text()
    assert page.split(gpu_check.BEGIN)[1].split(gpu_check.END)[0].strip() == gpu_check.section()
