"""A GPU that is full or has failed is said as such, with exit code 69; no data set is blamed for it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from chainsweep.data.collection import Batch
from chainsweep.engines.entry import Library
from chainsweep.errors import UnavailableError
from chainsweep.machine import devices
from chainsweep.stages.infer import sample_by_halves

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes."
BROKEN = "INTERNAL: CUDA error: Failed to launch kernel: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


OutOfMemoryError.__module__ = "torch"


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_jax_platform", lambda: "gpu")


def test_a_full_gpu_says_what_to_do(on_gpu):
    fault = devices.device_fault(jax.errors.JaxRuntimeError(FULL))
    assert isinstance(fault, UnavailableError)
    assert fault.exit_code == 69
    assert "memory" in str(fault)
    assert "lanes" in str(fault)
    assert "1234 bytes" in str(fault)
    assert "memory" in str(devices.device_fault(OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))


def test_a_failed_gpu_is_no_lack_of_memory(on_gpu):
    fault = str(devices.device_fault(jax.errors.JaxRuntimeError(BROKEN)))
    assert "failed" in fault
    assert "lanes" not in fault
    assert "ILLEGAL_ADDRESS" in fault


def test_other_errors_are_left_alone(on_gpu):
    for error in (ValueError(FULL), RuntimeError(BROKEN), jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes")):
        assert devices.device_fault(error) is None
    with pytest.raises(ValueError, match="mine"), devices.device_faults():
        raise ValueError("mine")


def test_on_a_processor_memory_is_the_host_s(monkeypatch):
    monkeypatch.setattr(devices, "_jax_platform", lambda: "cpu")
    assert devices.device_fault(jax.errors.JaxRuntimeError(FULL)) is None


def test_a_batch_is_not_halved_for_the_device_s_sake(on_gpu):
    tried = []

    def run(batch, sink, resume):
        tried.append(len(batch))
        raise jax.errors.JaxRuntimeError(FULL)

    batch = Batch(tuple("abcdefgh"), {"y": np.zeros((8, 3))}, {}, np.ones((8, 3), bool))
    with pytest.raises(UnavailableError, match="memory"):
        sample_by_halves(run, batch, None, None, None)
    assert tried == [8]


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "gpu_names", lambda: ["A", "B"])
    monkeypatch.setattr(devices, "CUDA_BUILDS", {Library.JAX: lambda: True, Library.TORCH: lambda: False})


def test_gpus_are_those_that_this_process_may_use(two_gpus, monkeypatch):
    assert devices.gpus_here() == devices.Gpus(("0", "1"), ("nuts",))
    for chosen, names in (("1", ("1",)), ("3, 5", ("3", "5")), ("GPU-8f2c", ("GPU-8f2c",))):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert devices.gpus_here().names == names
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert devices.gpus_here() == devices.Gpus()


def test_gpus_without_a_cuda_build_serve_nobody(two_gpus, monkeypatch):
    assert "for nuts" in devices.describe_device(devices.gpus_here())
    monkeypatch.setattr(devices, "CUDA_BUILDS", {Library.JAX: lambda: False, Library.TORCH: lambda: False})
    assert devices.gpus_here() == devices.Gpus()
    assert "no CUDA build" in devices.describe_device(devices.gpus_here())


def test_builds_are_told_without_importing_them(monkeypatch):
    monkeypatch.setattr(devices, "versions", lambda name: {"torch": "2.13.0+cpu"})
    assert not devices.CUDA_BUILDS[Library.TORCH]()
    monkeypatch.setattr(devices, "versions", lambda name: {"torch": "2.11.0+cu130"})
    assert devices.CUDA_BUILDS[Library.TORCH]()
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(devices.util, "find_spec", lambda name: object() if name == "jax_cuda13_plugin" else None)
    assert devices.CUDA_BUILDS[Library.JAX]()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not devices.CUDA_BUILDS[Library.JAX]()
