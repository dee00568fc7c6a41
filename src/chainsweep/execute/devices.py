"""Which devices this machine has, as each numerical library sees them; asked in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from chainsweep.errors import UnavailableError

TORCH_FAULTS = ("OutOfMemoryError", "AcceleratorError")
JAX_FAULTS = ("JaxRuntimeError", "XlaRuntimeError")
JAX_FAULT_WORDS = ("RESOURCE_EXHAUSTED", "CUDA", "cuBLAS", "cuDNN", "cuSolver")
MEMORY_FULL = (
    "the memory of the GPU does not suffice",
    "see with nvidia-smi whether another process holds it; else take fewer [engines.nuts] lanes, or smaller [shards]",
)
DEVICE_FAILED = ("the GPU failed", "see its health with nvidia-smi, and run this again, elsewhere if it happens twice")
NVIDIA_LIST = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; empty without a driver."""
    if shutil.which(NVIDIA_LIST[0]) is None:
        return []
    listed = subprocess.run(NVIDIA_LIST, capture_output=True, text=True, timeout=30, check=False)
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def use_device(device: str | None, engine: str | None) -> None:
    """Hold this process to the ``gpu`` or the ``cpu``; None leaves the choice to the libraries.

    Raises
    ------
    UnavailableError
        A GPU is wanted, and the library that the engine computes with sees none.
    """
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if device != "gpu":
        return
    seen = torch_device() if engine == "snpe" else _jax_platform()
    if seen not in ("cuda", "gpu"):
        library = "torch" if engine == "snpe" else "JAX"
        raise UnavailableError(
            f"expected a GPU for {engine}, {library} sees only {seen}; check the job's GPU request, the driver "
            '(--nv of an image) and the CUDA build of the package, or set device = "cpu" in the site file'
        )


def device_fault(error: BaseException) -> UnavailableError | None:
    """Return the error to raise in place of ``error`` where that says that a GPU is full or has failed, else None.

    No data set is to blame then, and smaller parts of a batch would meet the same.
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
    """The device that torch trains on: ``cuda`` where it sees one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_device() -> str:
    """One phrase: the GPUs, or the cores of this process."""
    names = gpu_names()
    if names:
        return f"{len(names)} GPU ({names[0]})"
    return f"no GPU, {len(os.sched_getaffinity(0))} CPU cores"
