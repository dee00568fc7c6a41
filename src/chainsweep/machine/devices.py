"""The devices of this machine, and the choice of the device that a process computes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util

from chainsweep.engines.entry import Library
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import UnavailableError
from chainsweep.packages import versions

TORCH_FAULTS = ("OutOfMemoryError", "AcceleratorError")
JAX_FAULTS = ("JaxRuntimeError", "XlaRuntimeError")
JAX_FAULT_WORDS = ("RESOURCE_EXHAUSTED", "CUDA", "cuBLAS", "cuDNN", "cuSolver")
MEMORY_FULL = (
    "the memory of the GPU does not suffice",
    "see with nvidia-smi whether another process holds it; "
    "else take fewer lanes in the [engines.*.tuning] that has them, or smaller [shards]",
)
DEVICE_FAILED = ("the GPU failed", "see its health with nvidia-smi, and run this again, elsewhere if it happens twice")
NVIDIA_LIST = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs that the driver lists; empty without a driver."""
    if shutil.which(NVIDIA_LIST[0]) is None:
        return []
    listed = subprocess.run(NVIDIA_LIST, capture_output=True, text=True, timeout=30, check=False)
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


@dataclass(frozen=True)
class Gpus:
    """The GPUs for ``run``: their ``names`` in ``CUDA_VISIBLE_DEVICES``, and the ``engines`` that use them."""

    names: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()


def gpus_here() -> Gpus:
    """Return the GPUs that this process may use, for the engines whose library here is a CUDA build."""
    count, chosen = len(gpu_names()), os.environ.get("CUDA_VISIBLE_DEVICES")
    words = map(str, range(count)) if chosen is None else (word.strip() for word in chosen.split(","))
    names = tuple(word for word in words if word and word != "-1") if count else ()
    engines = tuple(name for name, each in ENGINES.items() if each.uses_gpu and CUDA_BUILDS[each.library]())
    return Gpus(names, engines) if names and engines else Gpus()


def hold_to(gpu: str | None, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let this process see only the GPU of this name, or with None no GPU.

    To be called before a numerical library is imported.
    """
    environment["CUDA_VISIBLE_DEVICES"] = gpu or ""
    if gpu is None:
        environment["JAX_PLATFORMS"] = "cpu"


def _jax_has_cuda() -> bool:
    wanted = os.environ.get("JAX_PLATFORMS", "")
    plugins = (f"jax_cuda{version}_plugin" for version in CUDA_VERSIONS)
    return wanted != "cpu" and any(util.find_spec(plugin) is not None for plugin in plugins)


def _torch_has_cuda() -> bool:
    version = versions("torch").get("torch", "+cpu")
    return not version.endswith("+cpu")


CUDA_VERSIONS = (12, 13)
CUDA_BUILDS = {Library.JAX: _jax_has_cuda, Library.TORCH: _torch_has_cuda}
"""The functions that return True if the library is a build for GPUs, without importing it."""


def use_device(device: str | None, engine: str | None) -> None:
    """Restrict this process to the ``gpu`` or the ``cpu``; None leaves the choice to the libraries.

    Raises
    ------
    UnavailableError
        A GPU is wanted, and the library that the engine computes with sees none.
    """
    if device == "cpu":
        hold_to(None)
    if device != "gpu" or engine is None:
        return
    library = ENGINES[engine].library
    seen = torch_device() if library is Library.TORCH else _jax_platform()
    if seen not in ("cuda", "gpu"):
        raise UnavailableError(
            f"expected a GPU for {engine}, {library} sees only {seen}; check the job's GPU request, the driver "
            '(--nv of an image) and the CUDA build of the package, or set device = "cpu" in the site file'
        )


def device_fault(error: BaseException) -> UnavailableError | None:
    """Return the error to raise in place of ``error`` if that says that a GPU is full or has failed, else None.

    No data set is the cause then, and smaller parts of a batch would fail in the same way.
    """
    kind, text = type(error), str(error)
    of_torch = kind.__module__.split(".")[0] == "torch" and kind.__name__ in TORCH_FAULTS
    of_jax = kind.__name__ in JAX_FAULTS and any(word in text for word in JAX_FAULT_WORDS) and _jax_platform() == "gpu"
    if not (of_torch or of_jax):
        return None
    full = kind.__name__ == "OutOfMemoryError" or "RESOURCE_EXHAUSTED" in text
    what, advice = MEMORY_FULL if full else DEVICE_FAILED
    return UnavailableError(f"{what}; {advice}. It said: {text.splitlines()[0] if text else kind.__name__}")


@contextmanager
def device_faults() -> Iterator[None]:
    """Raise ``device_fault`` in place of an error that has one."""
    try:
        yield
    except Exception as error:
        fault = device_fault(error)
        if fault is None:
            raise
        raise fault from error


def _jax_platform() -> str:
    import jax

    return str(jax.devices()[0].platform)


def torch_device() -> str:
    """Return the device that torch trains on: ``cuda`` if torch sees a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_device(gpus: Gpus | None = None) -> str:
    """Return a phrase on the GPUs and the engines that use ``gpus``, or on the cores of this process."""
    names = gpu_names()
    if names:
        used = "" if gpus is None else f" for {', '.join(gpus.engines)}" if gpus.engines else ", no CUDA build for it"
        return f"{len(names)} GPU ({names[0]}){used}"
    return f"no GPU, {len(os.sched_getaffinity(0))} CPU cores"
