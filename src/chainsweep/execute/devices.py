"""Which devices this machine has, as each numerical library sees them; asked in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess

NVIDIA_LIST = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; empty without a driver."""
    if shutil.which(NVIDIA_LIST[0]) is None:
        return []
    listed = subprocess.run(NVIDIA_LIST, capture_output=True, text=True, timeout=30, check=False)
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


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
