"""Write ``docs/settings.md``: every key of ``campaign.toml``, from the docstrings and types of its tables.

    make settings

A test compares the page with what this writes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from chainsweep.campaign.config import CampaignConfig
from chainsweep.config.toml import Section

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Every key of `campaign.toml`, written by `make settings` from the classes that read it. How a campaign is made is told
in [campaign.md](campaign.md). Only `[model]` and `[data]` must be there; an unknown key is an error that
names the valid ones.
"""
TUNING = ".tuning"
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}", "multiple_of": "a multiple of {}"}
TYPES = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}


def page() -> str:
    """The text of the page."""
    texts = {name: table(name, kind) for name, kind in tables(CampaignConfig)}
    tuning = [text for name, text in texts.items() if name.endswith(TUNING)]
    return "".join([HEAD, *(text for text in texts.values() if text not in tuning), "\n## Tuning\n", *tuning])


def tables(kind: type[Section], within: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The tables of a configuration, by name, in order."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            if any(not _is_section(each.annotation) for each in inner.model_fields.values()):
                yield within + name, inner
            yield from tables(inner, f"{within}{name}.")


def table(name: str, kind: type[Section]) -> str:
    """A table of the file as one of the page; its first sentence is what the class says of itself."""
    about = " ".join((inspect.getdoc(kind) or "").partition(": ")[2].replace("``", "`").split())
    rows, meanings = [], docstrings(kind)
    for key, field in kind.model_fields.items():
        if _is_section(field.annotation):
            continue
        bounds = list(field.metadata)
        given = Annotated[(field.annotation, *bounds)] if bounds else field.annotation
        default = "needed" if field.is_required() else _toml(field.default)
        rows.append(f"| `{key}` | {_cell(told(given))} | {_cell(default)} | {_cell(meanings[key])} |\n")
    level = "###" if name.endswith(TUNING) else "##"
    head = f"\n{level} `[{name}]`\n\n{about[:1].upper()}{about[1:]}\n\n"
    return head + "| key | value | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def docstrings(kind: type[Section]) -> dict[str, str]:
    """The docstring of each key of a table, in Markdown.

    Raises
    ------
    KeyError
        A key has none.
    """
    found = {}
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    for line, after in zip(node.body, node.body[1:], strict=False):
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(said, str):
            found[line.target.id] = " ".join(said.replace("``", "`").split())
    return found


def told(kind: Any) -> str:
    """The values that a key takes, in words."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *metadata = get_args(kind)
        limits = [limit for item in metadata for limit in _limits(item)]
        return told(inner) + ("" if not limits else f" {' '.join(limits)}")
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(told(part) for part in get_args(kind) if part is not NoneType)
    if origin is list:
        return f"list: {told(get_args(kind)[0])}"
    if origin is dict:
        return f"table of {' = '.join(told(part) for part in get_args(kind))}"
    return TYPES[kind]


def _limits(item: Any) -> Iterator[str]:
    for part in getattr(item, "metadata", None) or [item]:
        for name, words in BOUNDS.items():
            if (limit := getattr(part, name, None)) is not None:
                yield words.format("2^63" if limit == 2**63 else f"{limit:g}")


def _toml(value: Any) -> str:
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | dict):
        text = ", ".join(f'"{item}"' for item in value)
        return f"`[{text}]`" if isinstance(value, list) else "`{}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
