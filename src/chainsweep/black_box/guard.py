"""A process that calls a user's functions for its parent, so that the parent survives their crashes and can end them.

``python -m chainsweep.black_box.guard ROOT FD COUNT_FD`` loads the campaign's model and answers calls that come through
the connection ``FD`` until it closes. The memory behind ``COUNT_FD`` holds the number of calls of the user's function
that it has begun, so that the parent can see which call does not end.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import ChainsweepError
from chainsweep.machine.ending import end_children, end_tree
from chainsweep.model.host import HostAnswer, HostCall, answer

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
"""The signals that a launcher sends to every process of a job. The child blocks them; its parent decides."""
LOOK_SECONDS = 0.5
"""Seconds after which a parent looks again whether a call has ended. Only time between two looks counts towards the
limit of a call, because a job may be suspended."""
COUNT = struct.Struct("q")


class GuardDied(Exception):
    """The child died during a call; the message says how."""


class GuardOverran(Exception):
    """The child was ended because the call for ``row`` took longer than its limit."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class Guard:
    """The parent's end of a guard process.

    Raises
    ------
    ChainsweepError
        The child did not come up, so no data set is to blame.
    """

    def __init__(self, root: Path) -> None:
        ours, theirs = Pipe()
        self._pipe: Connection = ours
        count = os.memfd_create("calls")
        os.ftruncate(count, COUNT.size)
        self._begun = mmap.mmap(count, COUNT.size)
        line = [sys.executable, "-m", __name__, str(root), str(theirs.fileno()), str(count)]
        # A blocked signal stays blocked in the child, from its first instruction on.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(line, pass_fds=(theirs.fileno(), count))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            theirs.close()
            os.close(count)
        try:
            self._pipe.recv()
        except (EOFError, OSError) as error:
            raise ChainsweepError(f"a guard process ended before its first call ({self._ending()})") from error

    def answer(self, call: HostCall, limit_s: float | None = None) -> HostAnswer:
        """Return the child's answer; no call of the user's function may take longer than ``limit_s``.

        Raises
        ------
        GuardDied
            The child died during the call.
        GuardOverran
            A call took too long, and the child was ended.
        """
        before = self._count()
        try:
            self._pipe.send(call)
            if limit_s is not None and not self._ready(limit_s):
                row = max(0, self._count() - before - 1)
                self.close()
                raise GuardOverran(row)
            reply: HostAnswer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise GuardDied(self._ending()) from error
        return reply

    def close(self) -> None:
        """End the child and all processes that it started."""
        self._pipe.close()
        end_tree(self._process.pid)
        self._process.wait()

    def _ready(self, limit_s: float) -> bool:
        """Return True if the child answers or ends before a call takes longer than ``limit_s``."""
        seen, left = self._count(), limit_s
        while not self._pipe.poll(look := min(left, LOOK_SECONDS)):
            left -= look
            if self._count() != seen:
                seen, left = self._count(), limit_s
            elif left <= 0.0:
                return False
        return True

    def _count(self) -> int:
        return int(COUNT.unpack_from(self._begun)[0])

    def _ending(self) -> str:
        self._pipe.close()
        code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main(root: str, descriptor: str, count_descriptor: str) -> None:
    """Answer calls until the parent closes the connection."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    pipe: Connection = Connection(int(descriptor))
    memory, count = mmap.mmap(int(count_descriptor), COUNT.size), 0

    def begins() -> None:
        nonlocal count
        count += 1
        COUNT.pack_into(memory, 0, count)

    problem = Campaign(Path(root)).problem
    pipe.send("ready")
    while True:
        try:
            call = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(problem, call, begins))


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even during a call that does not return."""
    while os.getppid() == parent:
        time.sleep(1.0)
    end_children()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
