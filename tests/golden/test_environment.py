"""The table of environment variables in ``docs/cluster.md`` is that of the source and of the templates."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import chainsweep
from tests.conftest import ROOT

PREFIXES = "CHAINSWEEP|XDG|JAX|XLA|CUDA|SLURM|MPIR|MPI4PY|FI|OMP|OPENBLAS|MKL|TF"
NAME = re.compile(rf"(?:{PREFIXES})_[A-Z0-9_]+|NPROC|PYTHONNOUSERSITE")
OF_THE_JOB = {"SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"}
"""The variables by which a script knows which job it is."""


def used() -> set[str]:
    found: set[str] = set()
    for path in Path(chainsweep.__file__).parent.rglob("*.py"):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        found |= {text for text in texts if isinstance(text, str) and NAME.fullmatch(text)}
    for path in (ROOT / "slurm").glob("*.j2"):
        found |= {word for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text()) if NAME.fullmatch(word)}
    return found - OF_THE_JOB


def listed(page: str) -> set[str]:
    table = page.partition("## Environment variables")[2]
    return {name for row in table.splitlines() if row.startswith("| `") for name in re.findall(NAME, row.split("|")[1])}


def test_every_variable_is_in_the_table_and_no_other():
    assert listed((ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")) == used()


def test_a_variable_that_is_not_listed_is_seen():
    """The twin."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").replace("`NPROC`, ", "")
    assert used() - listed(page) == {"NPROC"}
