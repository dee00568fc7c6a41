"""What a model file reads is frozen with it by its hash: tables, helper modules, whenever they are read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.freeze import init_campaign
from chainsweep.errors import CampaignError
from chainsweep.model import reads as module
from chainsweep.model.reads import file_hash, file_hash_once
from tests.conftest import LINE_MODEL


def model_with(top: str, term: str, inside: str = "") -> str:
    """The model of a line with ``term`` in its curve, ``top`` before the function and ``inside`` in it."""
    body = LINE_MODEL.replace("b * x)", f"b * x + {term})")
    return f"import numpy as np\n{top}\n" + body.replace(
        "    mu =", f"    {inside}\n    mu =" if inside else "    mu ="
    )


@pytest.fixture
def reads(write_job, tmp_path, monkeypatch):
    """A function that makes a campaign of a model that reads ``table.npy`` or ``cs_helper.py`` of its folder."""
    monkeypatch.syspath_prepend(str(tmp_path / "job"))
    monkeypatch.delitem(sys.modules, "cs_helper", raising=False)

    def make(model: str, name: str = "sweep") -> tuple[Campaign, Path]:
        config = write_job(model=model.replace("TABLE", str(tmp_path / "job" / "table.npy")))
        np.save(tmp_path / "job" / "table.npy", np.array([0.5]))
        (tmp_path / "job" / "cs_helper.py").write_text("SHIFT = 0.5\n")
        return init_campaign(config, tmp_path / name), tmp_path / "job"

    yield make
    sys.modules.pop("cs_helper", None)


WAYS = {
    "a table at the top": ("T = np.load('TABLE')", "T[0]", "", "table.npy"),
    "a table in the function": ("", "float(np.load('TABLE')[0])", "", "table.npy"),
    "a table through open": (
        "with open('TABLE', 'rb') as handle:\n    T = len(handle.read())",
        "0 * T",
        "",
        "table.npy",
    ),
    "a helper module": ("import cs_helper", "cs_helper.SHIFT", "", "cs_helper.py"),
    "a helper module in the function": ("", "cs_helper.SHIFT", "import cs_helper", "cs_helper.py"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_model_reads_may_not_change(reads, way):
    top, term, inside, name = WAYS[way]
    sweep, folder = reads(model_with(top, term, inside))
    assert [Path(path).name for path in sweep.resolved["reads"]] == [name]
    sweep.verify()
    np.save(folder / "table.npy", np.array([5.0]))
    (folder / "cs_helper.py").write_text("SHIFT = 5.0\n")
    with pytest.raises(CampaignError, match=f"{name}, which the model reads"):
        sweep.verify()


def test_a_model_that_reads_nothing_records_nothing(reads):
    sweep, _ = reads(LINE_MODEL)
    assert "reads" not in sweep.resolved


def test_where_a_table_lies_is_no_part_of_the_campaign(reads, tmp_path):
    text = model_with("import os\nT = np.load(os.environ['CS_FILE'])", "T[0]")
    hashes = []
    for number, value in enumerate((0.5, 0.5, 5.0)):
        np.save(tmp_path / f"{number}.npy", np.array([value]))
        os.environ["CS_FILE"] = str(tmp_path / f"{number}.npy")
        hashes.append(reads(text, f"sweep{number}")[0].hash)
    del os.environ["CS_FILE"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_table_that_is_not_on_this_machine_is_left_to_the_model(reads):
    sweep, folder = reads(model_with("T = np.load('TABLE')", "T[0]"))
    (folder / "table.npy").unlink()
    sweep.verify()


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "file_hash", lambda path: asked.append(path) or file_hash(path))
    path = tmp_path / "data.h5"
    path.write_bytes(b"one")
    first = {file_hash_once(path) for _ in range(3)}
    assert (first, len(asked)) == ({file_hash(path)}, 1)
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").replace(path)
    assert file_hash_once(path) == file_hash(path) not in first
    assert len(asked) == 2
    path.unlink()
    assert file_hash_once(path) == "missing"
