"""Imports go one way, and the package needs none of the engines' libraries to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import chainsweep
from chainsweep.engines.registry import ENGINES

SOURCE = Path(chainsweep.__file__).parent

# A room may import from itself, and from the rooms that its line names.
BASE = {"errors", "packages", "publish", "config", "numerics"}
MATHS = {"model", "diagnostics", "importance", "engines"}
ALLOWED = {
    "errors": set(),
    "packages": {"errors"},
    "publish": {"errors"},
    "config": {"errors"},
    "numerics": {"errors"},
    "data": BASE,
    "diagnostics": {"errors", "config", "numerics"},
    "model": {"errors", "config", "numerics", "data"},
    "importance": {"errors", "numerics", "model", "diagnostics"},
    "engines": {"errors", "config", "numerics", "data", "model", "diagnostics", "importance"},
    "store": {"errors", "packages", "publish", "numerics"},
    "campaign": BASE | {"data", "model", "engines", "store"},
    "api": {"errors", "campaign", "store"},
    "verdicts": MATHS | {"errors", "config", "numerics"},
    "report": BASE | {"diagnostics", "engines", "campaign", "verdicts"},
    "machine": {"errors", "packages", "engines"},
    "tasks": BASE | {"store", "engines", "campaign", "verdicts"},
    "black_box": BASE | {"model", "campaign", "machine", "tasks"},
    "stages": BASE | MATHS | {"data", "store", "campaign", "report", "machine", "verdicts", "tasks", "black_box"},
    "forecast": BASE | MATHS | {"data", "campaign", "machine", "tasks", "black_box", "stages"},
    "run": BASE | MATHS | {"campaign", "machine", "tasks", "black_box", "stages"},
    "slurm": BASE | {"engines", "store", "campaign", "machine", "tasks", "stages", "forecast", "run"},
}
ONLY_TOP = {"cli", "__init__", "__main__"}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("chainsweep"):
            found.add(room_of(node.module))
        elif isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names if alias.name.startswith("chainsweep.")}
    return found


def test_imports_go_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE)
        room = relative.parts[0].removesuffix(".py")
        if room in ONLY_TOP:
            continue
        assert room in ALLOWED, f"{relative}: a new room needs a line in this test"
        wrong += [f"{relative} imports {name}" for name in imports_of(path) - {room} - ALLOWED[room]]
    assert not wrong


def modules() -> dict[str, Path]:
    """The files of the package by the names of their modules."""
    names = {path: (SOURCE.name, *path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def modules_imported(text: str, known: Collection[str]) -> set[str]:
    """The modules of the package that a program imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{each.name}") in known else node.module for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found & set(known)


def test_modules_import_one_another_in_no_circle():
    """Imports within functions, and for types only, count too."""
    files = modules()
    TopologicalSorter({name: modules_imported(path.read_text(), files) for name, path in files.items()}).prepare()


def test_a_circle_is_seen():
    """The twin."""
    texts = {"a.b": "def late():\n    from a import c", "a.c": "import a.b"}
    with pytest.raises(CycleError):
        TopologicalSorter({name: modules_imported(text, texts) for name, text in texts.items()}).prepare()


def test_a_backward_import_is_seen(tmp_path):
    """The twin."""
    path = tmp_path / "backward.py"
    path.write_text("from chainsweep.cli import main\nimport chainsweep.stages.graph\n")
    assert imports_of(path) == {"cli", "stages"}


def named_engines(text: str) -> set[str]:
    """The engines whose names are strings of a program, docstrings aside."""
    return {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)} & set(ENGINES)


def test_no_module_but_its_family_and_the_registry_names_an_engine():
    """The keys of older versions are the engines', and emcee's is a format of files too."""
    families = {f"engines/{name}/" for name in ENGINES}
    allowed = {"engines/registry.py", "config/old_keys.py", "store/export.py"}
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE).as_posix()
        if relative not in allowed and not any(relative.startswith(family) for family in families):
            assert not named_engines(path.read_text()), relative


def test_a_name_of_an_engine_is_seen():
    """The twin."""
    assert named_engines('"""On nuts."""\nif engine == "nuts":\n    pass\n') == {"nuts"}


def test_importing_the_package_loads_no_engine_library():
    program = (
        "import sys, chainsweep, chainsweep.cli, chainsweep.campaign.campaign, chainsweep.store.merged, "
        "chainsweep.stages.status\n"
        "heavy = {'jax', 'numpyro', 'torch', 'sbi', 'emcee', 'mpi4py', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["run.in_job", "run.worker", "forecast.pilot", "stages.graph", "run.local", "machine.doctor"]
)
def test_a_process_tells_jax_its_settings_before_it_imports_it(module):
    """``environment.prepare`` comes after these imports, and JAX reads its settings when it is imported."""
    program = f"import sys, chainsweep.{module}; print({{'jax', 'numpyro', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_simulations_are_made_without_torch():
    """A simulator's own image need not have it."""
    program = "import sys, chainsweep.stages.simulate, chainsweep.engines.snpe.bank; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modules_are_of_a_readable_size():
    large = {
        str(path.relative_to(SOURCE)): count
        for path in SOURCE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert not large
