"""Which devices this machine has, as each numerical library sees them; asked in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess

from chainsweep.errors import UnavailableError

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
