"""The forced end of processes that do not end by themselves, with all their descendants."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

from chainsweep.errors import StoppedEarly

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
"""The signals that tell a task to save its state and stop."""
GRACE_SECONDS = 45.0
"""The seconds after the first signal at which running work is killed; the rest of the stop then fits into a minute."""
SECOND_SIGNAL_SECONDS = 1.0
"""A signal that comes less than this after the first is taken for the same one, because launchers signal a process and
then its whole group."""
KEPT = "what it had saved is kept, run again to continue"


def end_tree(pid: int) -> None:
    """Kill the process ``pid`` and all its descendants, even stopped ones and those that ignore signals."""
    _kill(_family(pid))


def end_children() -> None:
    """Kill all descendants of this process."""
    _kill([each for child in _children_of(os.getpid()) for each in _family(child)])


def _family(pid: int) -> list[int]:
    """Return ``pid`` and its descendants; each is stopped before its children are listed, so that none are added."""
    family = [pid]
    for each in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGSTOP)
        family += _children_of(each)
    return family


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(status.rpartition(")")[2].split()[1]) == pid:
            found.append(int(path.parent.name))
    return found


def end_late(what: str, grace_seconds: float = GRACE_SECONDS) -> None:
    """Make this process end with code 75 if it still runs ``grace_seconds`` after a signal of ``STOP_SIGNALS``.

    At a second signal it ends at once. A message that names ``what`` it works on goes to the current standard error.
    The signals must have Python handlers. A call that never releases Python's lock can only be killed from outside.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    arguments = (what, grace_seconds, ours, theirs, os.dup(2))
    threading.Thread(target=_watch, args=arguments, name="end-late", daemon=True).start()


def _watch(what: str, grace_seconds: float, ours: socket.socket, theirs: socket.socket, stderr: int) -> None:
    # ``theirs`` is an argument, so that the socket lives as long as the thread
    first = _next_signal(ours, None)
    began = time.monotonic()
    how = f"had not stopped {grace_seconds:g} s after the signal"
    while (left := began + grace_seconds - time.monotonic()) > 0:
        again = _next_signal(ours, left)
        if again is not None and time.monotonic() - began > SECOND_SIGNAL_SECONDS:
            how = "was told to stop twice"
            break
    assert first is not None
    os.write(stderr, f"{what} {how} and is killed; {KEPT}\n".encode())
    end_children()
    os._exit(StoppedEarly.exit_code)


def _next_signal(ours: socket.socket, seconds: float | None) -> int | None:
    """Return the next signal of ``STOP_SIGNALS``, or None if there is none within ``seconds``."""
    ends = None if seconds is None else time.monotonic() + seconds
    while True:
        ours.settimeout(None if ends is None else max(0.01, ends - time.monotonic()))
        try:
            number = ours.recv(1)[0]
        except TimeoutError:
            return None
        if number in STOP_SIGNALS:
            return number
