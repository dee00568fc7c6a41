"""The table of quick tests names tests that exist, and among them what a quick run must not lack."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TESTS
from tests.selection import FOLDERS, QUICK, SLOW, begins, marks_of

TWINS = {
    "emcee": ("unit/test_emcee_moves.py", "test_a_wrong_factor_is_caught"),
    "nuts": ("statistical/test_nuts_exact.py", "test_a_mixture_whose_density_is_not_that_of_its_draws_is_seen"),
    "each engine in a campaign": ("contract/test_campaign.py", "test_a_wrong_posterior_would_be_seen"),
    "MPI": ("contract/test_mpi.py", "test_other_bits_would_be_seen"),
    "Slurm": ("unit/test_slurm_submit.py", "test_a_second_submit_while_jobs_wait_sends_nothing"),
}
"""What must fail, by what it guards."""


def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("place", QUICK)
def test_what_the_table_names_exists(place):
    if place in FOLDERS:
        assert list((TESTS / place).glob("test_*.py"))
        assert QUICK[place] == ()
    else:
        assert functions(place).issuperset(name.partition("[")[0] for name in QUICK[place])


@pytest.mark.parametrize("file", SLOW)
def test_what_is_called_slow_exists_and_is_not_quick(file):
    assert functions(file).issuperset(SLOW[file])
    for name in SLOW[file]:
        assert "quick" not in marks_of(file, name)


@pytest.mark.parametrize("guarded", TWINS)
def test_a_twin_that_must_fail_is_quick(guarded):
    file, name = TWINS[guarded]
    assert name in functions(file)
    assert "quick" in marks_of(file, name)


def test_marks_follow_the_folder_and_the_table():
    assert marks_of("unit/test_config.py", "test_any") == ["unit", "quick"]
    assert marks_of("unit/test_pilot.py", "test_a_real_pilot_times_every_kind_and_touches_nothing_else") == ["unit"]
    assert marks_of("contract/test_mpi.py", "test_other_bits_would_be_seen") == ["contract", "mpi", "quick"]
    ranks = "test_any_number_of_ranks_gives_the_bits_of_one_process"
    assert marks_of("contract/test_mpi.py", f"{ranks}[datasets-3]") == ["contract", "mpi", "quick"]
    assert marks_of("contract/test_mpi.py", f"{ranks}[walkers-4]") == ["contract", "mpi"]
    assert marks_of("contract/test_mpi.py", "test_any") == ["contract", "mpi"]
    assert marks_of("cluster/test_images.py", "test_any") == ["cluster", "images"]
    with pytest.raises(ValueError, match=r"tests/elsewhere/test_a\.py: expected .* unit, golden"):
        marks_of("elsewhere/test_a.py", "test_any")


def test_this_test_has_its_marks(request):
    assert {"unit", "quick"} <= {mark.name for mark in request.node.iter_markers()}


def test_every_file_has_its_turn_and_long_ones_come_first():
    files = [path.relative_to(TESTS).as_posix() for path in TESTS.glob("*/test_*.py")]
    order = sorted(files, key=begins)
    assert order[0] == "contract/test_campaign.py"
    assert order.index("cluster/test_faults.py") < order.index("statistical/test_nuts.py")
    assert begins("unit/test_config.py") < begins("cluster/test_faults.py")


def test_make_runs_the_quick_ones_the_others_or_all_and_ci_runs_none_twice():
    chosen = {}
    for target in ("test", "test-rest", "test-all"):
        line = ["make", "--dry-run", target]
        shown = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (words,) = (shlex.split(text) for text in shown.splitlines() if "-m pytest" in text)
        chosen[target] = words[words.index("pytest") + 1 :]
        assert f"--junitxml=build/tests-{target}.xml" in words
    assert [words[words.index("-m") + 1] if "-m" in words else "" for words in chosen.values()] == [
        "quick",
        "not quick",
        "",
    ]
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [text for text in ci if re.match(r"(TESTS_END_AT=.* )?make ", text)] == [
        "make check",
        "make bench-truth-quick",
        "TESTS_END_AT=$((began + 4500)) make test-rest",
    ]


def test_no_test_begins_after_the_end_of_a_limited_run():
    """A test that is not begun is named; without a limit, or before it, the same test runs."""
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"{__file__}::test_this_test_has_its_marks",
    ]
    for end, words in (("0", "NOT RUN, the time of this run was over: tests/unit/test_selection.py::"), ("inf", "")):
        environment = {**os.environ, "TESTS_END_AT": end}
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        assert ("1 skipped" in done.stdout, words in done.stdout) == (end == "0", True), done.stdout
        assert done.returncode == 0
