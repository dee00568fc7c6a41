"""Imports go one way, and the package needs none of the engines' libraries to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import chainsweep

SOURCE = Path(chainsweep.__file__).parent

# A room may import from itself, and from the rooms that its line names.
ALLOWED = {
    "errors": set(),
    "packages": {"errors"},
    "publish": {"errors"},
    "folder": {"errors", "publish"},
    "config": {"errors"},
    "site": {"errors", "config"},
    "data": {"errors", "config", "packages", "publish"},
    "model": {"errors", "config", "data"},
    "diagnostics": {"errors", "config"},
    "engines": {"errors", "config", "data", "model", "diagnostics"},
    "store": {"errors", "packages", "publish"},
    "report": {"errors", "config", "packages", "publish", "diagnostics"},
    "campaign": {"errors", "config", "packages", "data", "model", "store"},
    "freeze": {"errors", "config", "packages", "data", "model", "engines", "store", "campaign", "folder"},
    "api": {"errors", "campaign", "store"},
    "execute": {
        "errors",
        "config",
        "packages",
        "publish",
        "data",
        "model",
        "diagnostics",
        "engines",
        "store",
        "report",
        "campaign",
    },
    "slurm": {"errors", "config", "site", "packages", "publish", "store", "campaign", "folder", "execute"},
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


def test_a_backward_import_is_seen(tmp_path):
    """The twin."""
    path = tmp_path / "backward.py"
    path.write_text("from chainsweep.cli import main\nimport chainsweep.execute.tasks\n")
    assert imports_of(path) == {"cli", "execute"}


def test_importing_the_package_loads_no_engine_library():
    program = (
        "import sys, chainsweep, chainsweep.cli, chainsweep.campaign, chainsweep.store.merged, "
        "chainsweep.execute.status\n"
        "heavy = {'jax', 'numpyro', 'torch', 'sbi', 'emcee', 'mpi4py', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["injob", "worker", "pilot", "tasks", "local", "doctor"])
def test_a_process_tells_jax_its_settings_before_it_imports_it(module):
    """``environment.prepare`` comes after these imports, and JAX reads its settings when it is imported."""
    program = f"import sys, chainsweep.execute.{module}; print({{'jax', 'numpyro', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_simulations_are_made_without_torch():
    """A simulator's own image need not have it."""
    program = "import sys, chainsweep.execute.simulate, chainsweep.engines.snpe_bank; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modules_are_of_a_readable_size():
    large = {
        str(path.relative_to(SOURCE)): count
        for path in SOURCE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert not large
