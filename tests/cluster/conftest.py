"""One private Slurm for the cluster tests of a test process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.private_slurm import PrivateSlurm, missing_reason


@pytest.fixture(scope="session")
def slurm() -> Iterator[PrivateSlurm]:
    """A running private Slurm with MaxArraySize 101; skips where Slurm is not installed."""
    if reason := missing_reason():
        pytest.skip(reason)
    # Not a folder of tmp_path_factory: a Unix socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, PrivateSlurm(Path(folder)) as running:
        yield running
