"""Parent of every process of one private Slurm, so that none of them outlives the tests.

Run as a script. It is a child subreaper: a daemon, a slurmstepd that detached itself, and a job's process all stay its
descendants. It starts what the JSON lines on its standard input ask for, and when that input ends, or the process that
started it is gone, it kills every descendant and leaves.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.2
_LIBC = ctypes.CDLL(None, use_errno=True)


def parents() -> dict[int, int]:
    """The parent of every process of this machine, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def descendants(root: int) -> list[int]:
    """The children of a process, their children, and so on; parents come before children."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found, front = [], [root]
    while front:
        front = [child for pid in front for child in children.get(pid, [])]
        found += front
    return found


def start(argv: list[str], log: str, environment: dict[str, str]) -> int:
    """Start a daemon in its own process group, killed by the kernel should this process die; its process id."""
    with Path(log).open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            process_group=0,
            preexec_fn=lambda: _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
    return process.pid


def reap() -> None:
    """Collect every child that ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def kill_all() -> None:
    """Kill all descendants until none is left."""
    deadline = time.monotonic() + 20
    while (alive := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.02)


def main() -> None:
    """Serve start requests until the input ends."""
    if _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    owner = os.getppid()
    pending = b""
    try:
        while os.getppid() == owner:
            reap()
            if not select.select([0], [], [], POLL_S)[0]:
                continue
            if not (chunk := os.read(0, 65536)):
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                print(start(request["argv"], request["log"], request["environment"]), flush=True)
    finally:
        kill_all()


if __name__ == "__main__":
    main()
