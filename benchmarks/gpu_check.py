"""A check of this package on a GPU: is it right, how fast, does it survive. One command, one line of JSON a part.

    make gpu-check                                   # after make install, on a machine with a GPU: 8 minutes
    sh benchmarks/gpu_check.sh --out DIR             # the same from a bundle of wheels (make gpu-bundle), without a net
    python benchmarks/gpu_check.py --quick           # tiny sizes: a minute on two cores, with a GPU or without
    python benchmarks/gpu_check.py --only snpe two-tasks
    python benchmarks/gpu_check.py --keep            # keep what is in build/gpu-check in benchmarks/results
    python benchmarks/gpu_check.py --section         # make the section of docs/performance.md from what is kept

Each part is a process of its own with its own time limit, and its line in ``gpu-check.jsonl`` is on disk before the
next begins: whatever comes later, what was measured stays. A part that fails or overruns says so in its line, with the
figures that it had by then. Parts of the processor run next to those of the device where there are cores to spare. What
a part prints is in ``gpu-check.log``. The exit code is 1 when a part failed, and 0 else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu_parts as parts  # noqa: E402 (the folder of the project comes first)
from chainsweep.machine.environment import prepare  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
MINUTES = {"gpu": 8.0, "processor": 45.0, "quick": 20.0}
LEAST_S = 10.0
"""With less time left a part is not begun."""
PATIENCE = {"gpu": 1.0, "processor": 8.0, "quick": 1.0}
"""Time limits of the parts are those of a GPU, times this."""
SPARE_CORES = 2
"""Cores from which on parts of the processor run next to those of the device."""


@dataclass(frozen=True)
class Part:
    """A measurement: its time limit, and whether it is of the processor, whatever device there is.

    Parts ``beside`` go one after the other, while the others do.
    """

    name: str
    limit_s: float
    measure: Callable[[parts.Place], dict[str, Any]]
    on_processor: bool = False
    beside: bool = False


def parts_of(size: str) -> list[Part]:
    """The parts at these sizes, the most valuable first."""
    return quick_parts() if size == "quick" else whole_parts(parts.SIZES[size])


def quick_parts() -> list[Part]:
    """Return a part of each kind, on the least that shows that it works; two cores share them."""
    straight = "references-float64"
    return [
        Part("machine", 120, parts.machine),
        Part("nuts-right-float64", 300, partial(parts.nuts_right, precision="float64", name=straight)),
        Part("nuts-resumed", 300, partial(parts.nuts_resumed, straight=straight)),
        Part("sweep", 300, partial(parts.sweep, begun=straight)),
        Part("snpe", 300, partial(parts.snpe, mixed=False), beside=True),
        Part("snpe-resumed", 300, parts.snpe_resumed, beside=True),
    ]


def whole_parts(sizes: parts.Sizes) -> list[Part]:
    """Every part."""
    first, *others = sizes.speeds
    float32, float64 = "references-float32", "references-float64"
    processor = "references-processor"
    return [
        Part("machine", 60, parts.machine),
        Part("nuts-right-float32", 150, partial(parts.nuts_right, precision="float32", name=float32)),
        speed(first),
        Part("snpe", 210, partial(parts.snpe, mixed=False)),
        Part("sweep", 150, parts.sweep),
        Part("nuts-resumed", 120, partial(parts.nuts_resumed, straight=float32)),
        Part("two-tasks", 90, parts.two_tasks),
        Part("snpe-resumed", 90, parts.snpe_resumed),
        Part("nuts-right-float64", 120, partial(parts.nuts_right, precision="float64", name=float64)),
        Part("nuts-agrees-float32", 60, partial(parts.nuts_agrees, name=float32, processor=processor)),
        Part("nuts-agrees-float64", 60, partial(parts.nuts_agrees, name=float64, processor=processor)),
        Part("snpe-mixed-precision", 210, partial(parts.snpe, mixed=True)),
        *(speed(count) for count in others[:1]),
        Part("numpyro-vmapped", 120, parts.nuts_peer),
        *(speed(others[0], share) for share in (0.5, 2.0) if others),
        *(speed(count) for count in others[1:]),
        Part("snpe-batch-4096", 210, partial(parts.snpe, mixed=False, batch=4096)),
        *(
            Part(f"processor-{name}", limit, measure, on_processor=True, beside=True)
            for name, limit, measure in (
                ("nuts-right", 300, partial(parts.nuts_right, precision="float64", name=processor)),
                ("nuts-speed", 300, partial(parts.nuts_speed, datasets=sizes.processor_speed)),
                ("snpe", 210, partial(parts.snpe, mixed=False, device="cpu")),
            )
        ),
    ]


def speed(datasets: int, lanes_share: float = 1.0) -> Part:
    """NUTS on this many visible peaks."""
    named = {1.0: "", 0.5: "-half-lanes", 2.0: "-double-lanes"}[lanes_share]
    limit = 60 + 0.1 * datasets
    return Part(
        f"nuts-speed-{datasets}{named}", limit, partial(parts.nuts_speed, datasets=datasets, lanes_share=lanes_share)
    )


class Record:
    """The lines of the parts, on disk as soon as they are known."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines, self.log = folder / "gpu-check.jsonl", folder / "gpu-check.log"
        for path in (self.lines, self.log):
            path.write_bytes(b"")
        self.lock = threading.Lock()
        self.found: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any], printed: str) -> None:
        """Write one part's line and what it printed."""
        with self.lock:
            self.found.append(line)
            for path, text in ((self.lines, json.dumps(line) + "\n"), (self.log, f"== {line['part']}\n{printed}\n")):
                with path.open("a", encoding="utf-8") as handle:
                    handle.write(text)
                    handle.flush()
                    os.fsync(handle.fileno())
            print(summary(line), flush=True)


def summary(line: dict[str, Any]) -> str:
    told = "ok" if line["ok"] else f"FAILED: {line['error']}"
    return f"{line['part']:28s} {line['seconds']:7.1f} s  {told}"


def run_parts(listed: Sequence[Part], size: str, scratch: Path, record: Record, ends_at: float) -> None:
    """Run parts one after the other; one whose time has not come by ``ends_at`` says that."""
    for part in listed:
        left = ends_at - time.monotonic()
        if left < LEAST_S:
            line = {"part": part.name, "ok": False, "seconds": 0.0, "error": "not begun: the time was up"}
            record.add(line, "")
            continue
        record.add(*run_part(part, size, scratch, min(PATIENCE[size] * part.limit_s, left)))


def run_part(part: Part, size: str, scratch: Path, limit_s: float) -> tuple[dict[str, Any], str]:
    """Run a part in a process of its own; return its line, and what it printed."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    if part.on_processor:
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if size != "quick":
        # An empty cache, which the parts share: what compiling costs is seen.
        environment["CHAINSWEEP_CACHE"] = str(scratch / "cache")
    prepare(environment)
    answers, printed = scratch / f"{part.name}.json", scratch / f"{part.name}.log"
    words = [sys.executable, __file__, "--part", part.name, "--size", size, "--scratch", str(scratch)]
    began, error = time.perf_counter(), None
    with printed.open("wb") as handle:
        process = subprocess.Popen(
            words, env=environment, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            error = f"stopped after {limit_s:.0f} s, its time limit"
            code = None
        finally:
            end_group(process)
    text = printed.read_text(errors="replace")
    if code:
        error = text.strip().splitlines()[-1] if text.strip() else f"exit code {code}"
    figures = json.loads(answers.read_text()) if answers.exists() else {}
    line = {"part": part.name, "ok": error is None, "seconds": round(time.perf_counter() - began, 2), "error": error}
    return line | figures, text[-20_000:]


def end_group(process: subprocess.Popen) -> None:
    """Nothing that a part started outlives it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure_here(name: str, size: str, scratch: Path) -> None:
    """A part, in this process; its figures so far are in its file at any time."""
    answers, kept = scratch / f"{name}.json", {}

    def keep(**figures: Any) -> None:
        kept.update(figures)
        answers.with_suffix(".new").write_text(json.dumps(kept))
        answers.with_suffix(".new").replace(answers)

    part = next(part for part in parts_of(size) if part.name == name)
    keep(**part.measure(parts.Place(scratch, parts.SIZES[size], keep)))
    keep(host_gib=round(parts.peak_host_gib(), 3))


def check(options: argparse.Namespace) -> int:
    """Run the parts; the exit code."""
    size = "quick" if options.quick else "gpu" if parts.gpu_line() else "processor"
    listed = [part for part in parts_of(size) if not options.only or part.name in options.only]
    unknown = set(options.only or ()) - {part.name for part in listed}
    if unknown:
        raise SystemExit(f"no such parts: {', '.join(sorted(unknown))}; there are {names_of(size)}")
    record, ends_at = Record(options.out), time.monotonic() + 60 * (options.minutes or MINUTES[size])
    aside, ahead = ([part for part in listed if part.beside is beside] for beside in (True, False))
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        run = partial(run_parts, size=size, scratch=Path(folder), record=record, ends_at=ends_at)
        beside = len(os.sched_getaffinity(0)) >= SPARE_CORES
        helper = threading.Thread(target=run, args=(aside,), daemon=True)
        if beside:
            helper.start()
        run(ahead if beside else [*aside, *ahead])
        if beside:
            helper.join()
    failed = [line["part"] for line in record.found if not line["ok"]]
    print(f"{len(record.found) - len(failed)} of {len(record.found)} parts went well: {record.lines}")
    return 1 if failed else 0


def names_of(size: str) -> str:
    return ", ".join(part.name for part in parts_of(size))


# Results that are kept, and the section of the documentation that is made from them


def keep_results(out: Path) -> Path:
    """Copy the lines of a check to ``benchmarks/results``, named after the device that they are of."""
    lines = [json.loads(line) for line in (out / "gpu-check.jsonl").read_text().splitlines()]
    there = next(line for line in lines if line["part"] == "machine")
    kind = f"gpu-{there['gpu'].split(',')[0]}" if there.get("gpu") else f"processor-{there['processor']}"
    name = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "parts": lines}, indent=1) + "\n")
    return path


BEGIN, END = "<!-- made by benchmarks/gpu_check.py --section -->", "<!-- end -->"
NOTHING = "No GPU has been measured yet: every figure on this page is of processors."


def section() -> str:
    """Return the text of docs/performance.md on GPUs: a table for each kept result, or that there is none."""
    kept = sorted(RESULTS.glob("gpu-*.json"))
    return "\n\n".join(table(json.loads(path.read_text())) for path in kept) or NOTHING


def table(result: dict[str, Any]) -> str:
    """Return a device's parts as a table of all their figures, each as it was measured."""
    there = next(line for line in result["parts"] if line["part"] == "machine")
    versions = ", ".join(f"{name} {version}" for name, version in there["versions"].items())
    head = [f"**{there['gpu']}**, {there['cores']} cores of {there['processor']}; {result['date']}; {versions}.", ""]
    rows = ["| part | seconds | ended | figures |", "|---|---:|---|---|"]
    for line in result["parts"]:
        if line["part"] != "machine":
            told = "well" if line["ok"] else str(line["error"]).replace("|", "/")
            rows.append(f"| {line['part']} | {line['seconds']:.0f} | {told} | {figures_of(line)} |")
    return "\n".join([*head, *rows])


def figures_of(line: dict[str, Any]) -> str:
    shown = {key: value for key, value in line.items() if key not in ("part", "ok", "seconds", "error", "name", "said")}
    return "; ".join(
        f"{key.replace('_', ' ')} {number(v)}" for key, v in shown.items() if not isinstance(v, list | None)
    )


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {number(v)}" for key, v in value.items())
    return str(value)


def write_section(page: Path = PAGE) -> None:
    """Put the section between its two marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{section()}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts")
    parser.add_argument("--minutes", type=float, help=f"end by then; default: {MINUTES}")
    parser.add_argument("--keep", action="store_true", help="keep what is in --out as a result of the project")
    parser.add_argument("--section", action="store_true", help="rewrite the section of docs/performance.md")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=list(parts.SIZES), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measure_here(options.part, options.size, options.scratch)
    elif options.keep:
        print(keep_results(options.out))
    elif options.section:
        write_section()
    else:
        raise SystemExit(check(options))


if __name__ == "__main__":
    main()
