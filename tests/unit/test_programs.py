"""The cache of compiled programs: one for all campaigns, bounded, and usable whatever the disk is like."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from chainsweep.errors import UsageError
from chainsweep.machine import compiling, doctor, programs
from chainsweep.machine.compiling import CompileClock
from chainsweep.machine.programs import LIMIT_GIB, ProgramFolder, cache_limit, cache_root, program_folder, prune

COMPILE = """
import json, os, sys
from chainsweep.machine.environment import prepare
prepare()
from chainsweep.machine.compiling import watch
clock = watch()
import jax
for power in map(int, sys.argv[1:]):
    jax.jit(lambda x: x**power @ x)(jax.numpy.ones(8))
folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
print(json.dumps({**clock.now().header(), "folder": folder, "held": len(os.listdir(folder)) if folder else 0}))
"""
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "CHAINSWEEP_", "XDG_"))}


def start(cache: Path, *powers: int, **variables: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-W", "error", "-c", COMPILE, *map(str, powers or (3,))]
    environment = CLEAN | {"CHAINSWEEP_CACHE": str(cache)} | variables
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> tuple[dict, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out), err


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*-cache"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A cache that one process has filled, and what that process compiled."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    first, err = said(start(cache))
    assert err == ""
    return cache, first


def test_the_keys_hold_no_path(filled, tmp_path):
    """A copy of the cache serves as the original does, and the settings of another path do not change that."""
    cache, first = filled
    assert first["cache_hits"] == 0
    assert first["programs"] == len(entries(cache)) > 0
    assert first["compile_seconds"] > 0
    assert first["load_seconds"] == 0
    assert first["trace_seconds"] > 0
    shutil.copytree(cache, tmp_path / "copy")
    again, _ = said(start(tmp_path / "copy"))
    assert again["cache_hits"] == again["programs"] == first["programs"]
    assert again["load_seconds"] > 0
    assert {path.name for path in entries(tmp_path / "copy")} == {path.name for path in entries(cache)}


def test_jax_left_alone_puts_the_path_into_the_key(filled, tmp_path):
    """The twin: what ``prepare`` sets is needed by JAX before 0.11, or the test above does not look."""
    shutil.copytree(filled[0], tmp_path / "copy")
    alone = {"JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "xla_gpu_per_fusion_autotune_cache_dir"}
    again, _ = said(start(tmp_path / "copy", **alone))
    assert again["cache_hits"] == (0 if jax.__version_info__ < (0, 11) else again["programs"])


def test_two_processes_at_once(tmp_path):
    both = [start(tmp_path, 3, 4), start(tmp_path, 3, 4)]
    for process in both:
        found, err = said(process)
        assert err == ""
    assert len(entries(tmp_path)) <= found["programs"]
    assert not list(tmp_path.rglob("*.new"))
    after, _ = said(start(tmp_path, 3, 4))
    assert after["cache_hits"] == after["programs"]


def test_an_entry_that_was_cut_off_is_compiled_again_and_mended(filled, tmp_path):
    shutil.copytree(filled[0], tmp_path / "copy")
    for path in entries(tmp_path / "copy"):
        os.truncate(path, path.stat().st_size // 2)
    line = [sys.executable, "-c", COMPILE, "3"]  # JAX warns
    environment = CLEAN | {"CHAINSWEEP_CACHE": str(tmp_path / "copy")}
    broken = subprocess.run(line, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(broken.stdout)["cache_hits"] == 0
    assert "Error reading persistent compilation cache" in broken.stderr
    mended, err = said(start(tmp_path / "copy"))
    assert mended["cache_hits"] == mended["programs"]
    assert err == ""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_read_only_folder_is_read_and_a_temporary_one_is_written(filled, mounted):
    cache, first = filled
    shutil.copytree(cache, mounted / "cache")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    found, err = said(start(mounted / "cache", 3, 5))
    assert found["cache_hits"] >= first["programs"]
    assert found["held"] == found["programs"] > found["cache_hits"]
    assert err.count("\n") == 1
    assert "cannot be written (Read-only file system)" in err
    assert "CHAINSWEEP_CACHE" in err
    assert not Path(found["folder"]).exists()


def test_a_full_disk_is_read_and_a_temporary_folder_is_written(filled, mounted):
    cache, first = filled
    shutil.copytree(cache, mounted / "cache")
    (mounted / "cache" / ".pruned").unlink()
    subprocess.run(["dd", "if=/dev/zero", f"of={mounted / 'rest'}", "bs=4096"], capture_output=True, check=False)
    assert shutil.disk_usage(mounted).free == 0
    found, err = said(start(mounted / "cache", 3, 5))
    assert found["cache_hits"] >= first["programs"]
    assert found["held"] == found["programs"]
    assert err.count("\n") == 1
    assert "cannot be written (No space left on device)" in err
    assert not Path(found["folder"]).exists()


def test_a_disk_that_fills_up_on_the_way_stops_the_keeping_and_nothing_else(mounted):
    heard: list[str] = []
    folder = ProgramFolder(mounted / "cache", heard.append)
    folder.put("small", bytes(100))
    folder.put("large", bytes(5 * 2**20))
    folder.put("late", bytes(100))
    assert [path.name for path in (mounted / "cache").iterdir()] == ["small-cache"]
    assert folder.get("small") == bytes(100)
    assert folder.get("large") is None
    assert len(heard) == 1
    assert "No space left" in heard[0]


def test_without_a_temporary_folder_nothing_is_kept(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(programs.tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left")))
    heard: list[str] = []
    assert program_folder({"CHAINSWEEP_CACHE": str(blocked)}, heard.append) is None
    assert len(heard) == 1
    assert "Not a directory" in heard[0]
    assert "not kept" in heard[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_programs_of_another_user_are_not_run(filled, tmp_path, monkeypatch):
    shutil.copytree(filled[0], tmp_path / "theirs")
    (folder,) = (tmp_path / "theirs" / "programs").iterdir()
    os.chown(folder, 12345, 12345)
    monkeypatch.setattr(programs.atexit, "register", lambda *_: None)
    heard: list[str] = []
    private = program_folder({"CHAINSWEEP_CACHE": str(tmp_path / "theirs")}, heard.append)
    assert private is not None
    assert not list(private.iterdir())
    private.rmdir()
    assert "another user" in heard[0]


def fill(folder: Path, ages: range, size: int = 100) -> None:
    for age in ages:
        path = folder / f"program{age}-cache"
        path.write_bytes(bytes(size))
        os.utime(path, (time.time() - age * 1000, time.time() - age * 1000))


def test_what_was_used_last_is_kept(tmp_path):
    """Over all processors and jaxlibs together: those of old ones are never used again."""
    old, new = tmp_path / "programs" / "old", tmp_path / "programs" / "new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    fill(old, range(5, 10))
    fill(new, range(5))
    left = new / ".7-ab.new"
    left.touch()
    os.utime(left, (0, 0))
    (new / ".8-cd.new").touch()
    prune(tmp_path, 350)
    assert sorted(path.name for path in entries(tmp_path)) == ["program0-cache", "program1-cache", "program2-cache"]
    assert sorted(path.name for path in new.glob(".*")) == [".8-cd.new"]
    fill(new, range(5))
    prune(tmp_path, 350)
    assert len(entries(tmp_path)) == 5, "the size is looked at once an hour"
    os.utime(tmp_path / ".pruned", (0, 0))
    prune(tmp_path, 350)
    assert len(entries(tmp_path)) == 3


def test_a_hit_counts_as_use(tmp_path):
    fill(tmp_path, range(100, 102))
    ProgramFolder(tmp_path).get("program101")
    newest = max(entries(tmp_path), key=lambda path: path.stat().st_mtime)
    assert newest.name == "program101-cache"


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_root({}) == Path("/home/someone/.cache/chainsweep")
    assert cache_root({"XDG_CACHE_HOME": "/x", "CHAINSWEEP_CACHE": ""}) == Path("/x/chainsweep")
    assert cache_root({"XDG_CACHE_HOME": "relative"}) == Path("/home/someone/.cache/chainsweep")
    assert cache_root({"XDG_CACHE_HOME": "/x", "CHAINSWEEP_CACHE": "/c"}) == Path("/c")


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan"])
def test_a_size_that_is_none_is_refused(text):
    assert cache_limit({}) == LIMIT_GIB * 2**30
    assert cache_limit({"CHAINSWEEP_CACHE_GIB": "0.5"}) == 2**29
    with pytest.raises(UsageError, match="positive number of GiB"):
        cache_limit({"CHAINSWEEP_CACHE_GIB": text})


def test_programs_of_another_processor_lie_elsewhere(tmp_path, monkeypatch):
    here = programs.machine()
    other = tmp_path / "cpuinfo"
    text = Path("/proc/cpuinfo").read_text()
    other.write_text(text.split("\n\n")[0])
    monkeypatch.setattr(programs, "CPU_DESCRIPTION", other)
    assert programs.machine() == here, "the number of cores does not matter"
    other.write_text(text.replace("flags\t\t:", "flags\t\t: more").replace("Features\t:", "Features\t: more"))
    assert programs.machine() != here


def test_a_jax_that_is_built_otherwise_keeps_its_own_cache(monkeypatch):
    compilation_cache = pytest.importorskip("jax._src.compilation_cache")
    monkeypatch.delattr(compilation_cache, "get_file_cache")
    compiling._keep_whole_programs()
    assert not hasattr(compilation_cache, "get_file_cache")


def test_doctor_tries_whether_one_process_finds_what_another_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINSWEEP_CACHE", str(tmp_path))
    found = doctor.compiled_programs()
    assert (found.state, found.what) == ("ok", "compiled programs")
    assert f"kept in {tmp_path}, 0 MiB of at most {LIMIT_GIB:g} GiB" in found.found
    assert not list(tmp_path.iterdir())


def test_doctor_says_so_where_it_finds_nothing():
    """The twin."""
    state, words = doctor.judged_cache(3, 0, "/cache")
    assert state == "broken"
    assert "0 of 3 found; jax-ml/jax#38445" in words


def test_nested_events_are_counted_once(monkeypatch):
    """Tracing calls tracing, and constants are compiled on the way; JAX times each as a whole."""
    clock, now = CompileClock(), 0.0
    monkeypatch.setattr(compiling, "time", SimpleNamespace(perf_counter=lambda: now))
    events = [
        (3.0, "/jax/core/compile/jaxpr_trace_duration", 1.0),
        (5.0, "/jax/compilation_cache/cache_retrieval_time_sec", 1.0),
        (6.0, "/jax/core/compile/backend_compile_duration", 2.5),
        (10.0, "/jax/core/compile/jaxpr_trace_duration", 10.0),
        (18.0, "/jax/core/compile/backend_compile_duration", 7.0),
        (18.5, "/jax/some/other_duration", 100.0),
    ]
    for now, event, seconds in events:  # noqa: B007
        clock.listen(event, seconds)
    found = clock.now()
    assert (found.programs, found.cache_hits) == (2, 1)
    assert (found.trace_seconds, found.load_seconds, found.compile_seconds) == (7.5, 2.5, 7.0)
    assert found.seconds == 17.0
    assert (found - found).programs == 0
