"""A process that calls a user's likelihood in place of its parent, which survives the child's death.

``python -m chainsweep.execute.guard ROOT FD`` loads the campaign's model and answers calls that come through the
connection ``FD`` until it closes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from chainsweep.campaign import Campaign
from chainsweep.errors import ChainsweepError
from chainsweep.model.host import HostAnswer, HostCall, answer

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
"""What a launcher sends to every process of a job; the parent decides what follows."""


class GuardDied(Exception):
    """The child died over a call; the message says how."""


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
        line = [sys.executable, "-m", __name__, str(root), str(theirs.fileno())]
        # A blocked signal stays blocked in the child, from its first instruction on.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(line, pass_fds=(theirs.fileno(),))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            theirs.close()
        try:
            self._pipe.recv()
        except (EOFError, OSError) as error:
            raise ChainsweepError(f"a guard process ended before its first call ({self._ending()})") from error

    def answer(self, call: HostCall) -> HostAnswer:
        """The child's answer.

        Raises
        ------
        GuardDied
            The child died over it.
        """
        try:
            self._pipe.send(call)
            reply: HostAnswer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise GuardDied(self._ending()) from error
        return reply

    def close(self) -> None:
        """End the child."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    def _ending(self) -> str:
        self._pipe.close()
        code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main(root: str, descriptor: str) -> None:
    """Answer calls until the parent closes the connection."""
    pipe: Connection = Connection(int(descriptor))
    problem = Campaign(Path(root)).problem
    pipe.send("ready")
    while True:
        try:
            call = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(problem, call))


if __name__ == "__main__":
    main(*sys.argv[1:])
