"""The cases of the truth bench: each family, or each variant of it, with data sets and the text of a model file."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

FAMILIES = Path(__file__).with_name("families")
SEED = 20261129
COUNTED = """

_uncounted, _counts = log_likelihood, os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@wraps(_uncounted)
def log_likelihood(params, **fields):
    os.write(_counts, zlib.crc32(np.asarray(fields["y"], float).tobytes()).to_bytes(4, "little"))
    return _uncounted(params, **fields)
"""
"""The end of a black box's model file: each call of the likelihood appends four bytes that tell the data set."""


def family_names() -> list[str]:
    """The names of the files of ``families/``."""
    return sorted(path.stem for path in FAMILIES.glob("*.py") if path.stem != "__init__")


def variants(family: str) -> Mapping[str, Mapping[str, object]]:
    """The variants of a family, by name: constants of its file, and their values."""
    found: Mapping[str, Mapping[str, object]] = getattr(
        import_module(f"benchmarks.truth.families.{family}"), "VARIANTS", {}
    )
    return found


def case_names() -> list[str]:
    """The names of all cases: ``funnel``, or ``regression[12]`` of a family with variants."""
    return [
        name for family in family_names() for name in ([f"{family}[{key}]" for key in variants(family)] or [family])
    ]


def text_of(name: str) -> str:
    """The text of a case's model file: the family's, with the constants of the variant.

    Raises
    ------
    ValueError
        A constant of the variant has no line, or several, that it could replace.
    """
    family, _, key = name.rstrip("]").partition("[")
    lines = (FAMILIES / f"{family}.py").read_text(encoding="utf-8").splitlines()
    for constant, value in variants(family)[key].items() if key else ():
        found = [place for place, line in enumerate(lines) if line.startswith(f"{constant} = ")]
        if len(found) != 1:
            raise ValueError(f"{family}.py: {len(found)} lines begin with '{constant} = ', expected one")
        lines[found[0]] = f"{constant} = {value!r}"
    return "\n".join([*lines, ""])


def counted(text: str, path: Path) -> str:
    """The text of a black box's model file that notes in ``path`` each call of its likelihood."""
    head, _, tail = text.partition('"""\n\n')
    return f'{head}"""\n\nimport os\nimport zlib\nfrom functools import wraps\n\n{tail}' + COUNTED.format(
        path=str(path)
    )


def calls(path: Path, sets: list[dict[str, np.ndarray]]) -> list[int]:
    """The number of noted calls of the likelihood of each data set."""
    noted = np.fromfile(path, "<u4") if path.exists() else np.zeros(0, "<u4")
    return [int(np.sum(noted == zlib.crc32(np.asarray(each["y"], float).tobytes()))) for each in sets]


@cache
def load(name: str) -> ModuleType:
    """The module of a case, made of its model file's text."""
    text = text_of(name)
    module = ModuleType(f"truth_{name}")
    module.__file__ = str(FAMILIES / f"{name.partition('[')[0]}.py")
    sys.modules[module.__name__] = module
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def datasets_of(name: str, count: int) -> list[dict[str, np.ndarray]]:
    """The fields of the data sets, the same for every number of them."""
    return [load(name).dataset(np.random.default_rng([SEED, *name.encode(), number])) for number in range(count)]
