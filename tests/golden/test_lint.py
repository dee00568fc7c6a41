"""What is text until it runs somewhere else: image definitions, lock files, shell scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"
DEFINITIONS = sorted(CONTAINERS.glob("*.def"))
LOCKS = sorted((CONTAINERS / "locks").glob("*.txt"))
SECTIONS = {"arguments", "files", "post", "environment", "runscript", "test", "help"}
# Paths full of odd characters are the point of the golden files; functions that a trap calls look unreachable.
NO_FAULT = "SC2016,SC2317,SC2034"


def sections(path: Path) -> dict[str, str]:
    parts = re.split(r"^%(\w+)$", path.read_text(), flags=re.MULTILINE)
    return {"header": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(), flags=re.MULTILINE))


def shellcheck(text: str, shell: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("not installed: shellcheck")
    line = ["shellcheck", f"--shell={shell}", f"--exclude={NO_FAULT}", "-"]
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_a_definition_is_whole_and_its_base_is_pinned(path):
    found = sections(path)
    assert set(found) == SECTIONS | {"header"}
    assert re.findall(r"^(\w+): (.*)$", found["header"], flags=re.MULTILINE) == [
        ("Bootstrap", "{{ BOOTSTRAP }}"),
        ("From", "{{ FROM }}"),
    ]
    arguments = dict(re.findall(r"^    (\w+)=(.+)$", found["arguments"], flags=re.MULTILINE))
    assert arguments["BOOTSTRAP"] == "docker"
    assert re.fullmatch(r"debian:bookworm-slim@sha256:[0-9a-f]{64}", arguments["FROM"])
    assert arguments["LOCK"] == path.stem
    used = set(re.findall(r"\{\{ (\w+) \}\}", path.read_text()))
    assert used == set(arguments)
    for source in re.findall(r"^    (\S+) \S+$", found["files"].replace("{{ LOCK }}", path.stem), flags=re.MULTILINE):
        assert source.startswith("build/") or (ROOT / source).exists(), source
    for name in ("post", "runscript", "test"):
        shellcheck(re.sub(r"\{\{ \w+ \}\}", "x", found[name]), "sh")


def test_definitions_differ_only_in_what_is_their_own():
    shared = [{name: sections(path)[name] for name in ("post", "environment", "runscript")} for path in DEFINITIONS]
    assert shared[0] == shared[1] == shared[2]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_is_hashed_and_agrees_with_the_constraints(path):
    found, wanted = pins(path), pins(ROOT / "constraints.txt")
    assert len(found) > 20
    entries = re.split(r"\n(?=\S)", path.read_text().split("\n", 2)[2])
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)
    different = {
        name: (version, wanted[name])
        for name, version in found.items()
        if name in wanted and version.removesuffix("+cpu") != wanted[name]
    }
    assert different == {}
    assert not re.search(r"https?://|file:|--find-links|--index", path.read_text())


SCRIPTS = [*sorted(CONTAINERS.glob("*.sh")), *sorted((ROOT / "benchmarks").glob("*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts(path):
    text = path.read_text()
    shellcheck(text, "bash" if "bash" in text.splitlines()[0] else "sh")


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.sbatch")), ids=lambda path: path.stem)
def test_rendered_scripts(path):
    shellcheck(path.read_text(), "bash")
