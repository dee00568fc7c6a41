"""Each mutant of the list in turn: do its tests see it? ``python -m tests.mutants [WORD ...]``, or ``make mutants``.

Words choose mutants by their files. Each is planted in a temporary copy of ``src``, and its tests run in a process
that is forked from one that has imported the large libraries. The tests without any mutant run first and must pass.
Exit code 1: fewer than 90 % are killed, or a mutant's text is not in the source, or a run has no result.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from chainsweep.machine.environment import prepare
from tests.mutants import SOURCE, TESTS, Mutant, load, stale

LEAST = 0.9
LIMIT_S = 600.0
LARGE = ("numpy", "scipy.stats", "pandas", "pydantic", "jax", "jax.numpy", "numpyro", "emcee", "torch")
OUTCOMES = {0: "SURVIVES", 1: "killed"}


@dataclass(frozen=True)
class Running:
    """The tests of one mutant, or of none, that run on the copy ``source`` and write to ``log``."""

    mutant: Mutant | None
    source: Path
    log: Path
    began: float


@dataclass(frozen=True)
class Result:
    """The end of a run: a word, its seconds, and the end of what it wrote."""

    mutant: Mutant | None
    word: str
    seconds: float
    told: str


def main(words: Sequence[str], jobs: int) -> int:
    """Try the mutants whose files hold one of ``words``, all without; print a table; return the exit code."""
    began = time.monotonic()
    mutants = [mutant for mutant in load() if not words or any(word in mutant.file for word in words)]
    if not mutants:
        print(f"no file of the list has one of {' '.join(words)} in its name")
        return 1
    if wrong := stale(mutants):
        print("not in the source, so write them again or remove them:", *wrong, sep="\n  ")
        return 1
    import_large()
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / str(number) for number in range(jobs)]
        for copy in copies:
            shutil.copytree(SOURCE, copy)
        (plain,) = tried([None], copies[:1], sorted({test for mutant in mutants for test in mutant.tests}))
        if plain.word != "SURVIVES":
            print(f"without any mutant: expected all tests to pass, got {plain.word}\n{plain.told}")
            return 1
        print(f"all pass    {plain.seconds:5.1f} s  without a mutant", flush=True)
        results = tried(mutants, copies)
    killed = sum(result.word == "killed" for result in results)
    for result in results:
        if result.word != "killed":
            assert result.mutant is not None
            print(f"\n{result.word}: {result.mutant.name}\n  by {' '.join(result.mutant.tests)}")
            print("" if result.word == "SURVIVES" else result.told, end="")
    share = killed / len(results)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = f"{(time.monotonic() - began) / 60:.1f} min, {(used.ru_utime + used.ru_stime) / 60:.1f} of a processor"
    print(f"\n{killed} of {len(results)} mutants killed, {share:.0%}, in {spent}")
    return int(share < LEAST or any(result.word not in OUTCOMES.values() for result in results))


def import_large() -> None:
    """Import what most tests import, once for all processes that are forked from this one."""
    prepare()
    for name in LARGE:
        with suppress(ImportError):
            importlib.import_module(name)


def tried(mutants: Sequence[Mutant | None], copies: Sequence[Path], tests: Sequence[str] = ()) -> list[Result]:
    """Run the tests of each mutant, or ``tests``, as many at a time as there are ``copies``; return the ends."""
    context = multiprocessing.get_context("fork")
    open_ones, free, found = list(mutants), list(copies), []
    running: dict[BaseProcess, Running] = {}
    while open_ones or running:
        while open_ones and free:
            mutant, source = open_ones.pop(0), free.pop()
            if mutant is not None:
                mutant.plant(source)
            now = Running(mutant, source, source.with_suffix(".log"), time.monotonic())
            process = context.Process(target=run_tests, args=(source, mutant.tests if mutant else tests, now.log))
            process.start()
            running[process] = now
        wait([process.sentinel for process in running], timeout=1.0)
        for process, now in list(running.items()):
            seconds = time.monotonic() - now.began
            if process.is_alive() and seconds < LIMIT_S:
                continue
            del running[process]
            result = ended(process, now, seconds)
            if now.mutant is not None:
                shutil.copy2(now.mutant.path(), now.mutant.path(now.source))
                print(f"{result.word:11} {result.seconds:5.1f} s  {now.mutant.name}", flush=True)
            found.append(result)
            free.append(now.source)
    return found


def ended(process: BaseProcess, now: Running, seconds: float) -> Result:
    """Return the result of a process that has ended, or has no time left."""
    word = "no end"
    if process.is_alive():
        process.kill()
        process.join()
    else:
        process.join()
        word = OUTCOMES.get(process.exitcode or 0, f"exit code {process.exitcode}")
    told = now.log.read_text(encoding="utf-8", errors="replace") if now.log.exists() else ""
    return Result(now.mutant, word, seconds, told[-3000:])


def run_tests(source: Path, tests: Sequence[str], log: Path) -> None:
    """Run ``tests`` on the package in ``source``, in this forked process, and end it with pytest's exit code."""
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in [name for name in sys.modules if name.split(".")[0] in ("chainsweep", "tests")]:
        del sys.modules[name]
    # The copies' bytecode is that of the source as it is.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(source))
    os.chdir(TESTS.parent)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plain = ["-q", "-x", "-p", "no:cacheprovider", "--assert=plain"]
    code = pytest.main([*plain, *(f"tests/{test}" for test in tests)])
    import chainsweep

    sys.stdout.flush()
    os._exit(int(code) if source in Path(str(chainsweep.__file__)).parents else 70)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=main.__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="part of the name of a file below src/chainsweep")
    parser.add_argument("--jobs", type=int, default=2, help="processes, 2 by default")
    given = parser.parse_args()
    sys.exit(main(given.words, given.jobs))
