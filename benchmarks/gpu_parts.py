"""The parts of ``gpu_check.py``: each a function that measures one thing in a process of its own and returns figures.

A part gets a ``Place``: a scratch folder that all parts share, the sizes to use, and ``keep``, which makes figures
durable before the part has ended.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PARAMETERS = ("l", "m", "s", "a", "b")
SHIFT, SPREAD = 0.3, 0.3
"""A verified posterior is wrong when a mean is off by ``SHIFT`` exact sds, or an sd by the share ``SPREAD``."""
GAUGE = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200")
STOPPED, UNAVAILABLE = 75, 69
WAIT_S = 1800.0
"""The longest wait of a part for what another part makes, where its own time limit does not end it."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the parts' work; ``nuts`` and ``network`` are settings to make it quick, empty for the defaults."""

    references: int
    speeds: tuple[int, ...]
    processor_speed: int
    sweep: int
    engines: tuple[str, ...]
    train_s: float
    weighed: int
    peer: int
    peer_iterations: tuple[int, int]
    resumed_steps: int
    nuts: dict[str, Any] = field(default_factory=dict)
    """Keys of ``[engines.nuts.tuning]``."""
    network: dict[str, Any] = field(default_factory=dict)
    """Keys of ``[engines.snpe.tuning]``."""
    patience_s: float = 5.0
    """The time from a task's first saved state until it is told to stop, where it is not half-way before."""


QUICK_NETWORK = {"hidden": 16, "transforms": 1, "embedding": 8}
SIZES = {
    "quick": Sizes(4, (4,), 4, 4, ("nuts",), 2.0, 4, 4, (50, 50), 10, {"block": 10}, QUICK_NETWORK, 0.2),
    "processor": Sizes(32, (32, 128), 32, 32, ("nuts", "snpe"), 60.0, 200, 32, (500, 1000), 40),
    "gpu": Sizes(64, (1024, 4096, 256, 16384), 256, 1024, ("nuts", "snpe"), 90.0, 500, 1024, (500, 1000), 200),
}
SHARD = 4096
"""Data sets of one call of the engine at most."""


@dataclass(frozen=True)
class Place:
    """The place of a part: all parts share ``scratch``, and ``keep`` makes figures durable at once."""

    scratch: Path
    sizes: Sizes
    keep: Callable[..., None]

    def campaign(self, name: str) -> Path:
        return self.scratch / "campaigns" / name


# What is here


def machine(place: Place) -> dict[str, Any]:
    """Devices, versions, and a matrix product by each framework on the device that it chooses, against NumPy's."""
    import platform

    from chainsweep.packages import versions

    place.keep(
        python=platform.python_version(),
        processor=processor_name(),
        cores=len(os.sched_getaffinity(0)),
        load_before=os.getloadavg()[0],
        versions=versions("numpy", "scipy", "jax", "jaxlib", "numpyro", "torch", "sbi", "zuko", "emcee", "h5py"),
        gpu=gpu_line(),
    )
    figures: dict[str, Any] = {}
    for name, function in (("jax", jax_product), ("torch", torch_product)):
        try:
            figures |= {f"{name}_{key}": value for key, value in function().items()}
        except ImportError as error:
            figures[f"{name}_missing"] = str(error)
        place.keep(**figures)
    return figures


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def gpu_line() -> str | None:
    """Name, driver and memory of the first GPU as its driver tells; None without one."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    if shutil.which(query[0]) is None:
        return None
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def jax_product() -> dict[str, Any]:
    """Largest errors of a product of random matrices, in single and in double precision."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    device = jax.devices()[0]
    exact = product_of(np)
    figures = {"device": f"{device.platform} {device.device_kind}", "limit_gib": memory_limit_gib()}
    for dtype in ("float32", "float64"):
        a, b = (jnp.asarray(part, dtype) for part in factors(np))
        figures[f"{dtype}_error"] = float(np.abs(np.asarray(a @ b, float) - exact).max())
    return figures


def torch_product() -> dict[str, Any]:
    import numpy as np
    import torch

    from chainsweep.machine.devices import torch_device

    device, exact = torch_device(), product_of(np)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu"}
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.as_tensor(part, dtype=dtype, device=device) for part in factors(np))
        error = np.abs((a @ b).cpu().numpy().astype(float) - exact).max()
        figures[f"{str(dtype).removeprefix('torch.')}_error"] = float(error)
    return figures


def factors(np: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((256, 256)), rng.standard_normal((256, 256))


def product_of(np: Any) -> Any:
    a, b = factors(np)
    return a @ b


def memory_limit_gib() -> float | None:
    import jax

    figures = jax.local_devices()[0].memory_stats()
    return figures["bytes_limit"] / 2**30 if figures and "bytes_limit" in figures else None


# Campaigns from the command line

CAMPAIGN = """
[campaign]
name = "{name}"
seed = 1

[model]
file = "model.py"
function = "{function}"
observed = ["y"]
curve = "mu"
x = "x"

[data]
source = "data.npz"
fields = {{ x = "x", y = "y", y_err = "y_err" }}

[policy]
engines = [{engines}]

[shards]
size = {shard}
"""


def frozen(place: Place, name: str, kind: str, datasets: int, shard: int, settings: dict[str, dict[str, Any]]) -> Path:
    """A campaign of peaks of a kind, made again, through ``chainsweep init``."""
    import numpy as np

    from benchmarks import nuts as bench

    folder, job = place.campaign(name), place.scratch / "jobs" / name
    shutil.rmtree(folder, ignore_errors=True)
    job.mkdir(parents=True, exist_ok=True)
    batch = peaks_of(kind, datasets)
    np.savez(job / "data.npz", id=np.array(batch.ids), **batch.fields)
    shutil.copy(bench.ROOT / "jobs" / "gaussian_peak" / "model.py", job)
    function = "narrow" if kind == "narrow" else "broad"
    engines = ", ".join(f'"{engine}"' for engine in settings)
    text = CAMPAIGN.format(name="gpu_check", function=function, engines=engines, shard=shard)
    for engine, values in settings.items():
        text += f"\n[engines.{engine}]\n" + "".join(f"{key} = {toml_value(v)}\n" for key, v in values.items())
    (job / "campaign.toml").write_text(text)
    run_well(command("init", str(job / "campaign.toml"), "--out", str(folder)))
    return folder


def copied(folder: Path) -> Path:
    """The same campaign in another folder, before anything is done in it."""
    other = folder.with_name(f"{folder.name}-stopped")
    shutil.rmtree(other, ignore_errors=True)
    return Path(shutil.copytree(folder, other))


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def peaks_of(kind: str, datasets: int) -> Any:
    """Peaks as ``benchmarks/nuts.py`` makes them; ``references`` have exact posteriors, and are half visible peaks."""
    import numpy as np

    from benchmarks import nuts as bench

    if kind != "references":
        return bench.peaks(kind, datasets)
    from chainsweep.data.collection import Batch
    from tests.statistical.references import peaks as stored

    data, _ = stored.load()
    fields = {"x": data.x[:datasets], "y_err": data.y_err[:datasets], "y": data.y[:datasets]}
    return Batch(tuple(f"reference-{k:02d}" for k in range(datasets)), fields, {}, np.ones(fields["x"].shape, bool))


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "chainsweep", *words]


def run_well(words: Sequence[str]) -> None:
    """Run a command that must end well; what it prints goes to this part's log."""
    subprocess.run(words, check=True)


def nuts_settings(place: Place, precision: str) -> dict[str, Any]:
    return {"precision": precision, "tuning": place.sizes.nuts}


def summary_of(folder: Path, engine: str = "nuts", shard: int = 0) -> dict[str, Any]:
    from chainsweep.campaign.campaign import Campaign
    from chainsweep.store.shard import read_header, read_summary

    path = Campaign(folder).paths.shard(engine, shard)
    return read_summary(path) | {"provenance": read_header(path).provenance}


def means_and_sds(summary: dict[str, Any]) -> tuple[Any, Any]:
    """``(dataset, parameter)`` each."""
    import numpy as np

    return tuple(np.stack([summary[f"{what}_{p}"] for p in PARAMETERS], axis=1) for what in ("mean", "sd"))


def verdict_counts(summary: dict[str, Any]) -> dict[str, int]:
    import numpy as np

    names, counts = np.unique(summary["verdict"].astype(str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


# NUTS: is it right, does it resume


def nuts_right(place: Place, precision: str, name: str) -> dict[str, Any]:
    """The reference data sets through one task, against their exact posteriors."""
    import numpy as np

    from tests.statistical.references import peaks as stored

    count = place.sizes.references
    folder = frozen(place, name, "references", count, count, {"nuts": nuts_settings(place, precision)})
    copied(folder)
    began = time.perf_counter()
    run_well(command("task", str(folder), "infer", "0"))
    seconds = time.perf_counter() - began
    summary, (_, exact) = summary_of(folder), stored.load()
    mean, sd = means_and_sds(summary)
    shift = np.abs((mean - exact.mean[:count]) / exact.sd[:count]).max(axis=1)
    spread = np.abs(sd / exact.sd[:count] - 1).max(axis=1)
    verified = summary["verdict"].astype(str) == "converged"
    off = (shift > SHIFT) | (spread > SPREAD)
    return {
        "datasets": count,
        "task_seconds": seconds,
        "verdicts": verdict_counts(summary),
        "wrong": int((verified & off).sum()),
        "worst_shift_sd": worst(shift, verified),
        "worst_spread": worst(spread, verified),
        "visible_verified": int(verified[: stored.DATASETS // 2].sum()),
        "broad_verified": int(verified[stored.DATASETS // 2 :].sum()),
        "bits": sorted({int(b) for b in summary["precision_bits"] if np.isfinite(b)}),
        "moved_to_float64": int((summary["precision_bits"] == 64).sum()) if precision == "float32" else None,
        "device": summary["provenance"]["device"],
        "compile_seconds": summary["provenance"]["compile_seconds"],
    }


def worst(values: Any, chosen: Any) -> float | None:
    return float(values[chosen].max()) if chosen.any() else None


def nuts_resumed(place: Place, straight: str) -> dict[str, Any]:
    """The same campaign, stopped by a signal half-way and begun again: verdicts, and whether draws are bit-equal."""
    count, whole = place.sizes.references, wait_for_shard(place.campaign(straight))
    folder = place.campaign(f"{straight}-stopped")
    words = command("task", str(folder), "infer", "0")
    process = subprocess.Popen(words)
    done = wait_until_half(folder, process, place.sizes.patience_s)
    process.send_signal(signal.SIGUSR2)
    code = process.wait()
    if code != STOPPED:
        raise RuntimeError(f"told to stop after {done} of {count} data sets, the task ended with {code}, not {STOPPED}")
    place.keep(stopped_after=done, datasets=count)
    run_well(words)
    first, second = summary_of(place.campaign(straight)), summary_of(folder)
    equal, largest = compared(whole, shard_path(folder))
    return {
        "same_verdicts": bool((first["verdict"] == second["verdict"]).all()),
        "bit_equal_draws": equal,
        "largest_difference": largest,
        "attempts": sorted({int(a) for a in second["attempt"]}),
    }


def shard_path(folder: Path, shard: int = 0) -> Path:
    from chainsweep.campaign.campaign import Campaign

    return Path(Campaign(folder).paths.shard("nuts", shard))


def wait_for_shard(folder: Path) -> Path:
    """The shard that another part publishes."""
    began = time.monotonic()
    while time.monotonic() - began < WAIT_S:
        if (folder / "resolved.json").exists() and shard_path(folder).exists():
            return shard_path(folder)
        time.sleep(0.5)
    raise RuntimeError(f"{folder.name}: no shard after {WAIT_S:g} s; the part that makes it failed, or has not run")


def wait_until_half(folder: Path, process: subprocess.Popen, patience_s: float) -> int:
    """Data sets that have left by the time when a state is saved and half of them have, or ``patience_s`` on."""
    import re

    from chainsweep.campaign.campaign import Campaign
    from chainsweep.campaign.paths import TaskFiles

    log, state, saved = Campaign(folder).paths.log("infer", 0), TaskFiles(shard_path(folder)).state, 0.0
    while process.poll() is None:
        told = re.findall(r"^(\d+) of (\d+) ", log.read_text(), re.MULTILINE) if log.exists() else []
        done, total = map(int, told[-1]) if told else (0, 1)
        if state.exists():
            saved = saved or time.monotonic()
            if 2 * done >= total or time.monotonic() - saved > patience_s:
                return done
        time.sleep(0.02)
    raise RuntimeError(f"the task ended with {process.returncode} before it could be stopped half-way")


def compared(first: Path, second: Path) -> tuple[bool, float]:
    """Return whether all draws and their figures are equal, bit by bit, and the largest difference of a draw."""
    import numpy as np

    from chainsweep.store.shard import read_shard

    one, other = read_shard(first), read_shard(second)
    equal, largest = True, 0.0
    for group in ("posterior", "sample_stats"):
        ours, theirs = getattr(one, group), getattr(other, group)
        for name in ours:
            a, b = np.asarray(ours[name]), np.asarray(theirs[name])
            if a.shape != b.shape:
                return False, float("inf")
            equal = equal and a.tobytes() == b.tobytes()
            largest = max(largest, float(np.nanmax(np.abs(a - b), initial=0.0))) if group == "posterior" else largest
    return equal, largest


def nuts_agrees(place: Place, name: str, processor: str) -> dict[str, Any]:
    """Two runs of the same seeds, on the device and on a processor: verdicts, and how far means and sds are apart."""
    import numpy as np

    for folder in (name, processor):
        wait_for_shard(place.campaign(folder))
    here, there = (summary_of(place.campaign(folder)) for folder in (name, processor))
    (mean, sd), (mean_there, sd_there) = means_and_sds(here), means_and_sds(there)
    both = (here["verdict"].astype(str) == "converged") & (there["verdict"].astype(str) == "converged")
    return {
        "devices": [here["provenance"]["device"], there["provenance"]["device"]],
        "both_verified": int(both.sum()),
        "other_verdicts": int((here["verdict"] != there["verdict"]).sum()),
        "worst_shift_sd": worst(np.abs((mean - mean_there) / sd_there).max(axis=1), both),
        "worst_spread": worst(np.abs(sd / sd_there - 1).max(axis=1), both),
    }


# NUTS: how fast


def nuts_speed(place: Place, datasets: int, lanes_share: float = 1.0) -> dict[str, Any]:
    """Visible peaks through this engine, judged as a campaign judges; ``lanes_share`` times the lanes of ``auto``."""
    from dataclasses import asdict

    from benchmarks import nuts as bench

    lanes = max(1, int(automatic_lanes(datasets) * lanes_share))
    more = {"tuning": place.sizes.nuts | {"lanes": lanes}}
    with gauged() as device:
        row = bench.measure("e", "visible", datasets, min(datasets, SHARD), None, more)
    return rates(row) | asdict(row) | {"lanes": lanes} | device


def automatic_lanes(datasets: int) -> int:
    """The lanes that ``auto`` takes for this many visible peaks on this device."""
    from benchmarks import nuts as bench
    from chainsweep.engines.nuts.attempts import lanes_of
    from chainsweep.engines.nuts.settings import NutsSettings

    return lanes_of(bench.model("visible"), bench.peaks("visible", min(datasets, SHARD)), NutsSettings())


def nuts_peer(place: Place) -> dict[str, Any]:
    """NumPyro's NUTS vmapped over chains and data sets, as row (c) of ``benchmarks/nuts.py``."""
    from dataclasses import asdict

    from benchmarks import nuts as bench

    warmup, draws = place.sizes.peer_iterations
    with gauged() as device:
        row = bench.measure(
            "c", "visible", place.sizes.peer, place.sizes.peer, None, {"warmup": warmup, "draws": draws}
        )
    return rates(row) | asdict(row) | device


def rates(row: Any) -> dict[str, float]:
    return {"verified_per_second": row.rate, "gradients_per_second": row.gradients / row.seconds}


@contextmanager
def gauged() -> Iterator[dict[str, Any]]:
    """Figures of the device meanwhile, complete at the end.

    ``device_busy`` is the share of time with a kernel on it, ``device_gib`` the most memory that JAX held, None on a
    processor; ``host_cpu_share`` counts the cores that this process kept busy.
    """
    figures: dict[str, Any] = {"device_busy": None, "device_gib": None}
    samples: list[float] = []
    gauge = None
    if gpu_line() is not None:
        gauge = subprocess.Popen(GAUGE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=read_gauge, args=(gauge, samples), daemon=True).start()
    began, cpu = time.perf_counter(), time.process_time()
    try:
        yield figures
    finally:
        if gauge is not None:
            gauge.kill()
            figures["device_busy"] = sum(samples) / len(samples) / 100 if samples else None
    figures["host_cpu_share"] = (time.process_time() - cpu) / (time.perf_counter() - began)
    if "jax" in sys.modules:
        stats = sys.modules["jax"].local_devices()[0].memory_stats()
        figures["device_gib"] = stats["peak_bytes_in_use"] / 2**30 if stats else None


def read_gauge(gauge: subprocess.Popen, samples: list[float]) -> None:
    assert gauge.stdout is not None
    for line in gauge.stdout:
        busy = line.split(",")[0].strip()
        if busy.isdigit():
            samples.append(float(busy))


# SNPE


def snpe(place: Place, mixed: bool, device: str | None = None, batch: int | None = None) -> dict[str, Any]:
    """Train on the worked example for a fixed time, then draw and weigh data sets that training never saw."""
    import numpy as np

    from benchmarks import nuts as bench
    from benchmarks import snpe as bench_snpe
    from chainsweep.config.sections import VerdictSection
    from chainsweep.engines.base import Inputs
    from chainsweep.engines.snpe import engine
    from chainsweep.engines.snpe.network import Network
    from chainsweep.engines.snpe.settings import SnpeSettings
    from chainsweep.machine.devices import torch_device
    from chainsweep.numerics.seeds import Seeds

    device = device or torch_device()
    problem, notes = bench.model("narrow"), bench_snpe.Notes()
    tuning = place.sizes.network | {"mixed_precision": mixed} | ({} if batch is None else {"batch": batch})
    settings = SnpeSettings(train_minutes=place.sizes.train_s / 60, train_steps=10**6, tuning=tuning)
    ends = {"sink": notes, "resume": None, "deadline": lambda: False}
    with gauged() as busy:
        began = time.perf_counter()
        designs = bench_snpe.made("narrow", bench_snpe.DESIGNS, 1).batch
        trained = engine.train(problem, designs, settings, 1, device=device, **ends)
        seconds = time.perf_counter() - began
    history = trained.history
    trained_for, simulations = float(history["seconds"][-1]), int(history["simulations"][-1])
    place.keep(
        device=device,
        batch=settings.tuning.batch,
        train_seconds=seconds,
        steps=int(history["step"][-1]),
        simulations=simulations,
        simulations_per_second=simulations / trained_for,
        training_device_busy=busy["device_busy"],
        torch_gib=torch_gib(device),
        loss_by_seconds=np.stack([history["seconds"], history["validation_loss"]], axis=1).round(3).tolist(),
    )
    fresh = bench_snpe.made("narrow", place.sizes.weighed, 2)
    network = Network(problem, trained, fresh.batch, trained.sampler(device))
    loss = bench_snpe.loss_of(problem, network, fresh.batch, fresh.truth)
    rate = draws_per_second(network, len(fresh.batch))
    place.keep(held_out_loss=float(loss.mean()), draws_per_second=rate)
    began = time.perf_counter()
    ends |= {"limits": VerdictSection(), "inputs": Inputs(trained=trained, device=device)}
    chains = engine.run(problem, fresh.batch, settings, Seeds(1, "snpe"), **ends).chains
    seconds, info = time.perf_counter() - began, chains.info
    return {
        "weighed": len(fresh.batch),
        "weighed_per_second": len(fresh.batch) / seconds,
        "network_khat_good": float((info["proposal_khat"] < 0.7).mean()),
        "network_efficiency_median": float(np.nanmedian(info["proposal_efficiency"])),
        "good": float(((info["khat"] < 0.7) & (info["ess"] > 400)).mean()),
    }


def snpe_resumed(place: Place) -> dict[str, Any]:
    """Training stopped half-way and begun again, against the same without a stop: whether its state is bit-equal.

    Once as it is, and on a GPU with torch's deterministic algorithms, which some of its steps may need for that.
    """
    import torch

    from chainsweep.machine.devices import torch_device

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    steps = place.sizes.resumed_steps
    ways = {"as_it_is": False} | ({"deterministic": True} if torch_device() == "cuda" else {})
    for name, deterministic in ways.items():
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        began = time.perf_counter()
        whole = trained_for(place, steps, None)
        seconds = time.perf_counter() - began
        again, stopped = trained_for(place, steps, None), trained_for(place, steps, steps // 2)
        equal = {"again": same_bits(whole, again), "resumed": same_bits(whole, stopped)}
        place.keep(**{f"{name}_{what}_bit_equal": same for what, same in equal.items()}, **{f"{name}_seconds": seconds})
    return {"steps": steps}


def trained_for(place: Place, steps: int, stop_at: int | None) -> dict[str, Any]:
    """The state after some steps of training on the worked example: weights, moments, history."""
    from benchmarks import nuts as bench
    from benchmarks import snpe as bench_snpe
    from chainsweep.engines.snpe import engine
    from chainsweep.engines.snpe.settings import SnpeSettings
    from chainsweep.machine.devices import torch_device

    problem, designs = bench.model("narrow"), bench_snpe.made("narrow", 64, 1).batch
    settings, sink = SnpeSettings(train_steps=10_000, tuning=place.sizes.network), Kept()
    done, state = 0, None
    for until in (stop_at, steps) if stop_at else (steps,):
        ends = {"resume": state, "deadline": after(until - done), "sink": sink}
        assert engine.train(problem, designs, settings, 1, device=torch_device(), **ends) is None
        done, state = until, sink.state
    return {name: values for name, values in state.items() if name != "progress/seconds"}


def after(steps: int) -> Callable[[], bool]:
    """A deadline that comes after some steps: it is asked before each."""
    asked = itertools.count()
    return lambda: next(asked) >= steps


class Kept:
    """A sink that keeps the last state in memory."""

    state: Any = None

    def checkpoint(self, state: Any) -> None:
        self.state = state

    def progress(self, done: int, total: int, note: str = "") -> None:
        print(f"{done} of {total} {note}", flush=True)


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def torch_gib(device: str) -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def draws_per_second(network: Any, datasets: int) -> float:
    """Draws of the network alone, the second time, when nothing is set up any more."""
    import numpy as np

    base = np.random.default_rng(0).standard_normal((datasets, 1000, len(PARAMETERS)))
    network.draw(base[:, :100])
    began = time.perf_counter()
    network.draw(base)
    return base.shape[0] * base.shape[1] / (time.perf_counter() - began)


# Whole runs


def sweep(place: Place, begun: str | None = None) -> dict[str, Any]:
    """``chainsweep run`` of peaks with NUTS and, under the narrow prior, SNPE, from the command line to the report.

    Or of the campaign ``begun`` by another part, whose tasks are done: then it merges, judges and reports.
    """
    import json

    given = {"nuts": place.sizes.nuts, "snpe": place.sizes.network}
    settings = {engine: {"tuning": given[engine]} for engine in place.sizes.engines}
    kind = "narrow" if "snpe" in place.sizes.engines else "visible"
    if begun is None:
        folder = frozen(place, "sweep", kind, place.sizes.sweep, min(place.sizes.sweep, 1024), settings)
    else:
        folder = wait_for_shard(place.campaign(begun)).parents[2]
    began = time.perf_counter()
    run_well(command("run", str(folder), "--uncalibrated"))
    seconds = time.perf_counter() - began
    status = json.loads(subprocess.check_output(command("status", str(folder), "--json"), text=True))
    page = folder / "report" / "index.html"
    if not page.exists():
        raise RuntimeError("the run ended well and left no report")
    return {
        "datasets": place.sizes.sweep,
        "run_seconds": seconds,
        "engines": status["engines"],
        "report_mib": page.stat().st_size / 2**20,
        "devices": {e: summary_of(folder, e)["provenance"]["device"] for e in place.sizes.engines},
    }


def two_tasks(place: Place) -> dict[str, Any]:
    """Two tasks on one device at once: each ends right, or with exit 69 and the reason; then what is missing."""
    count = place.sizes.references
    folder = frozen(place, "two", "visible", 2 * count, count, {"nuts": {"tuning": place.sizes.nuts}})
    words = [command("task", str(folder), "infer", str(k)) for k in range(2)]
    logs = [place.scratch / f"two-{k}.log" for k in range(2)]
    processes = []
    for line, log in zip(words, logs, strict=True):
        with log.open("w") as handle:
            processes.append(subprocess.Popen(line, stdout=handle, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in processes]
    said = [log.read_text().strip().splitlines()[-1:] for log in logs]
    place.keep(exit_codes=codes, said=said)
    if not set(codes) <= {0, UNAVAILABLE}:
        raise RuntimeError(f"two tasks at once ended with {codes}, expected 0 or {UNAVAILABLE} of each")
    for line, code in zip(words, codes, strict=True):
        if code:
            run_well(line)
    return {"verdicts": [verdict_counts(summary_of(folder, shard=k)) for k in range(2)]}


def peak_host_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
