"""The text whose hash was compared is the one that runs: no bytecode next to it, and no text that came after."""

from __future__ import annotations

import importlib.util
import inspect
import linecache
import marshal
import pickle
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.freeze import init_campaign
from chainsweep.errors import CampaignError, ModelError
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.load import load_module
from tests.conftest import LINE_MODEL

OTHER = LINE_MODEL.replace("a + b * x", "a - b * x")
"""A model of the same length with other answers."""


@pytest.fixture
def campaign(write_job, tmp_path) -> Campaign:
    return init_campaign(write_job(), tmp_path / "out")


def plant(path: Path, text: str, kind: str) -> Path:
    """Bytecode of ``text`` that Python would take for that of the file ``path``."""
    target = Path(importlib.util.cache_from_source(str(path)))
    target.parent.mkdir(exist_ok=True)
    code = marshal.dumps(compile(text, str(path), "exec", dont_inherit=True))
    found = path.stat()
    words = {
        "same time and size": (0, int(found.st_mtime), found.st_size),
        "unchecked hash": (1, 0, 0),
        "checked hash": (3, *np.frombuffer(importlib.util.source_hash(path.read_bytes()), "<u4").tolist()),
    }[kind]
    head = b"".join((word & 0xFFFFFFFF).to_bytes(4, "little") for word in words)
    target.write_bytes(importlib.util.MAGIC_NUMBER + head + code)
    return target


def slope(campaign: Campaign) -> float:
    """The curve's slope in units of ``b``: 1 for the model that was frozen, -1 for the other."""
    batched = BatchedProblem(campaign.problem, campaign.batch(0))
    theta = np.zeros((len(batched.batch), 1, 2))
    theta[..., 1] = 1.0
    return float(np.sign(batched.curve(theta)[0, 0, 0] * batched.batch.fields["x"][0, 0]))


@pytest.mark.parametrize("kind", ["same time and size", "unchecked hash", "checked hash"])
def test_planted_bytecode_is_not_run(campaign, kind):
    planted = plant(campaign.paths.model, OTHER, kind)
    before = planted.read_bytes()
    campaign.verify()
    assert slope(campaign) == 1.0
    assert planted.read_bytes() == before


def test_python_itself_would_run_what_is_planted(campaign):
    """The twin."""
    path = campaign.paths.model
    plant(path, "planted = True", "unchecked hash")
    spec = importlib.util.spec_from_file_location("planted_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.planted


def test_loading_leaves_no_bytecode(campaign, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert campaign.problem.names
    assert not (campaign.paths.root / "__pycache__").exists()


def test_init_does_not_try_bytecode_either(write_job, tmp_path):
    path = write_job()
    model = path.parent / "model.py"
    plant(model, "x = 1", "unchecked hash")
    campaign = init_campaign(path, tmp_path / "out")
    assert campaign.paths.model.read_text() == LINE_MODEL
    assert slope(campaign) == 1.0


def test_a_model_exchanged_after_the_check_is_not_run(campaign):
    campaign.verify()
    campaign.paths.model.write_text(OTHER)
    with pytest.raises(CampaignError, match=r"changed since init: model\.py"):
        _ = campaign.problem
    campaign.paths.model.unlink()
    with pytest.raises(CampaignError, match=r"model\.py .*now missing"):
        _ = campaign.problem


def test_lines_source_and_pickles_are_those_of_the_text(tmp_path):
    path = tmp_path / "model.py"
    path.write_bytes("# -*- coding: latin-1 -*-\ndef f(x):\n    return 1 / x  # \u00e9\n".encode("latin-1"))
    source = path.read_bytes()
    path.write_text("something else\n")
    module = load_module(path, source)
    assert inspect.getsource(module.f) == "def f(x):\n    return 1 / x  # \u00e9\n"
    assert pickle.loads(pickle.dumps(module.f)) is module.f
    assert module.__file__ == str(path)
    linecache.checkcache()
    with pytest.raises(ZeroDivisionError) as error:
        module.f(0)
    assert traceback.extract_tb(error.value.__traceback__)[-1].line == "return 1 / x  # \u00e9"


def test_a_text_does_not_inherit_what_the_loader_imports_from_the_future(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("def f(x: 1 + 1): ...\n")
    assert load_module(path).f.__annotations__ == {"x": 2}


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"model\.py: no such model file"):
        load_module(tmp_path / "model.py")
