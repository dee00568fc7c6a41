"""The wheels for a machine with a GPU and no network: all that is needed, of the versions that the tests have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LIST = ROOT / "benchmarks" / "gpu_bundle.txt"
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
EXTRAS = ("model", "emcee", "nuts", "snpe", "report")


def pins(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}


def expected_there(text: str) -> set[str]:
    """What the list says that the machine has already, and what nothing imports."""
    there = " ".join(re.findall(r"^# there: (.*)$", text, re.MULTILINE)).split()
    return {canonicalize_name(name) for name in [*there, *re.findall(r"^# unused: (\S+)", text, re.MULTILINE)]}


def missing(text: str) -> set[str]:
    """What chainsweep or a wheel of the list requires, and neither the list nor the machine has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for name in EXTRAS for line in project["optional-dependencies"][name]]
    carried = pins(text)
    wanted += [line for name in carried for line in metadata.requires(name) or ()]
    needed = [Requirement(line) for line in wanted]
    required = {canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}
    return required - {"chainsweep"} - set(carried) - expected_there(text)


def test_the_bundle_and_the_machine_have_all_that_is_required():
    assert missing(LIST.read_text()) == set()


@pytest.mark.parametrize("name", ["emcee", "pydantic-core", "nflows", "dill"])
def test_a_wheel_left_out_is_missed(name):
    """The twin: what chainsweep requires itself, and what only a wheel of the list does."""
    assert missing(re.sub(rf"^{name}==.*\n", "", LIST.read_text(), flags=re.MULTILINE)) == {name}


def test_the_versions_are_those_of_the_tests_one_of_each():
    text, tested = LIST.read_text(), pins((ROOT / "constraints.txt").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(pins(text)) == len(lines)
    assert pins(text) == {name: tested[name] for name in pins(text)}
    assert not set(pins(text)) & expected_there(text)


@pytest.fixture
def checkout(tmp_path):
    """A tree with nothing in it but the script, a wheel of one module, and a check that says what it sees."""
    for folder in ("benchmarks", "src", "build/gpu-bundle"):
        (tmp_path / "a tree" / folder).mkdir(parents=True)
    root = tmp_path / "a tree"
    (root / "benchmarks" / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    (root / "benchmarks" / "gpu_check.py").write_text("import sys, carried\nprint(carried.NAME, *sys.argv[1:])\n")
    about = "carried-1.0.dist-info"
    with zipfile.ZipFile(root / "build" / "gpu-bundle" / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "NAME = 'carried'\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return root


def gpu_check(root, *arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    line = ["sh", str(root / "benchmarks" / SCRIPT.name), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "BUNDLE"} | {"PYTHON": sys.executable}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_script_runs_the_check_with_the_wheels_from_anywhere(checkout, tmp_path):
    done = gpu_check(checkout, "--quick", "two words", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "carried --quick two words\n"), done.stderr
    sites = list((checkout / "build").glob("gpu-site-*"))
    again = gpu_check(checkout, "--exec", sys.executable, "-c", "import sys, carried; sys.exit(75)")
    assert again.returncode == 75, again.stderr
    assert list((checkout / "build").glob("gpu-site-*")) == sites


def test_no_wheels_and_wheels_of_another_python_are_told(checkout):
    (wheel,) = (checkout / "build" / "gpu-bundle").iterdir()
    wheel.rename(wheel.with_name("carried-1.0-cp27-cp27m-any.whl"))
    wrong = gpu_check(checkout)
    assert wrong.returncode == 69
    assert "BUNDLE_PYTHON" in wrong.stderr
    assert not list((checkout / "build").glob("gpu-site-*"))
    wheel.with_name("carried-1.0-cp27-cp27m-any.whl").unlink()
    none = gpu_check(checkout)
    assert none.returncode == 69
    assert "make gpu-bundle" in none.stderr
