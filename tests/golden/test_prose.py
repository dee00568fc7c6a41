"""Docstrings say what a thing is in a sentence or with a noun; none begins as a clause that hangs in the air."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

CLAUSES = {
    "As",
    "Beside",
    "By",
    "For",
    "From",
    "How",
    "In",
    "Likewise",
    "Of",
    "That",
    "Those",
    "What",
    "When",
    "Where",
    "Whether",
    "Which",
}
"""First words of a docstring that leave its reader to find the subject."""


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring of a file: of modules, classes, functions, constants and fields."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for k, item in enumerate(body if isinstance(body, list) else []):
            if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)):
                continue
            documents = isinstance(body[k - 1], ast.Assign | ast.AnnAssign) if k else not isinstance(node, ast.If)
            if documents and isinstance(item.value.value, str):
                yield item.lineno, item.value.value


def clauses(path: Path) -> list[str]:
    found = [(line, text.split()) for line, text in docstrings(path)]
    return [f"{path}:{line}: {' '.join(words[:8])}" for line, words in found if words and words[0] in CLAUSES]


def test_no_docstring_begins_as_a_clause():
    wrong = [line for path in sorted((ROOT / "src").rglob("*.py")) for line in clauses(path)]
    assert not wrong, "\n".join(wrong)


def test_a_clause_would_be_seen(tmp_path):
    """The twin."""
    path = tmp_path / "module.py"
    path.write_text('"""The module."""\nLIMIT = 3\n"""Of rounds."""\n\n\ndef f():\n    """Whether it is."""\n')
    assert [line.rpartition(": ")[2] for line in clauses(path)] == ["Of rounds.", "Whether it is."]
