"""The use of MPI in all of chainsweep: the ranks of a job, messages that are awaited without spinning, and a job's end.

A process uses MPI only if it was started as ``python -m mpi4py -m chainsweep ...``. A job with several ranks ends in
one of two ways: all ranks agree and leave (``leave``), or one rank ends all at once (``abort``).
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chainsweep.errors import ChainsweepError, UnavailableError
from chainsweep.packages import versions
from chainsweep.run.mpi.lifeline import Lifeline, Listener, connect

SPIN_SECONDS = 0.0005
"""The seconds for which a message is awaited with a busy processor; longer and longer sleeps follow."""
LONGEST_SLEEP = 0.001
IDLE_SECONDS = 2.0
IDLE_SLEEP = 0.02
"""The seconds between two looks of a rank that has waited for ``IDLE_SECONDS``."""
ABORT_SECONDS = 5.0
"""The seconds after which a rank exits by itself if MPI does not carry out its abort."""
LEAVE_SECONDS = 20.0
STANDARD_ERROR = 2
START_SECONDS = 180.0
"""The seconds within which MPI must have started; otherwise the process ends, instead of waiting for its walltime."""
UNWATCHED_SECONDS = 1.0
"""The seconds that rank 0 gives the other ranks to end first, where it cannot see them end."""


class Link:
    """The messages between the ranks: pickled objects over a separate communicator, polled with sleeps.

    It has the methods that ``schwimmbad.MPIPool`` asks of a communicator.
    """

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.size: int = communicator.Get_size()
        self.rank: int = communicator.Get_rank()

    def Get_size(self) -> int:
        """Return the number of ranks."""
        return self.size

    def Get_rank(self) -> int:
        """Return the number of this rank."""
        return self.rank

    def Iprobe(self, source: int, tag: int, status: Any = None) -> bool:
        """Return True if a message waits; sleep shortly if none does, because callers ask in a loop."""
        found: bool = self._communicator.Iprobe(source=source, tag=tag, status=status)
        if not found:
            time.sleep(SPIN_SECONDS)
        return found

    def Probe(self, source: int, tag: int, status: Any = None) -> None:
        """Return when a message waits."""
        wait_until(lambda: self._communicator.Iprobe(source=source, tag=tag, status=status))

    def waiting(self, tag: int) -> bool:
        """Return True if a message with ``tag`` waits."""
        found: bool = self._communicator.Iprobe(tag=tag)
        return found

    def recv(self, source: int | None = None, tag: int | None = None, status: Any = None) -> Any:
        """Return the next message, by default from any rank and with any tag."""
        wanted = {name: value for name, value in (("source", source), ("tag", tag)) if value is not None}
        found: list[Any] = []

        def matched() -> bool:
            # a matched probe, so that two threads of a rank never take each other's message
            message = self._communicator.improbe(**wanted, status=status)
            if message is not None:
                found.append(message)
            return bool(found)

        wait_until(matched)
        return found[0].recv()

    def send(self, value: Any, dest: int, tag: int = 0) -> None:
        """Send ``value``, and return when the caller may change it."""
        request = self._communicator.isend(value, dest=dest, tag=tag)
        wait_until(lambda: request.test()[0])

    ssend = send

    def barrier(self) -> None:
        """Return when every rank has called this method."""
        wait_until(self._communicator.Ibarrier().Test)


def wait_until(ready: Callable[[], bool]) -> None:
    """Poll ``ready``, frequently at first so that short waits stay short, then rarely so that long waits are cheap."""
    began, pause = time.monotonic(), 0.0
    while not ready():
        waited = time.monotonic() - began
        if waited > SPIN_SECONDS:
            pause = IDLE_SLEEP if waited > IDLE_SECONDS else min(LONGEST_SLEEP, waited / 10)
        time.sleep(pause)


@dataclass(frozen=True)
class Ranks:
    """The processes of this job; ``link`` is None if there is only this process."""

    size: int = 1
    rank: int = 0
    link: Link | None = None
    lifeline: Lifeline | None = None

    def check_size(self, expected: int | None, environment: Mapping[str, str]) -> None:
        """Compare the number of ranks with ``expected``; to be called before any file is read or written.

        Raises
        ------
        UnavailableError
            Another number of ranks was started, because the launch line does not fit this MPI.
        """
        asked = {"--ranks": expected, "SLURM_NTASKS": environment.get("SLURM_NTASKS")}
        for source, value in asked.items():
            if value is not None and int(value) != self.size:
                raise UnavailableError(
                    f"expected {value} MPI ranks ({source}), got {self.size}: the launch line does not fit this MPI. "
                    "Start it as 'python -m mpi4py -m chainsweep task ...' and choose the --mpi of srun that it "
                    "speaks (srun --mpi=list shows them; the site's key is mpi_launch)"
                )

    @contextmanager
    def together(self) -> Iterator[None]:
        """End all ranks, with the error's exit code, at any error in this context; a single process raises it."""
        try:
            yield
        except BaseException as error:
            if self.size == 1:
                raise
            if isinstance(error, ChainsweepError):
                print(f"rank {self.rank}: error: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
            self.abort(error.exit_code if isinstance(error, ChainsweepError) else ChainsweepError.exit_code)

    def leave(self, code: int) -> None:
        """End all ranks as agreed: every rank calls it, and the job's exit code is ``code``.

        Rank 0 ends last and is the only one to exit with ``code``, so that a launcher that kills the others at the
        first bad exit finds none left. A single process returns, and its caller exits.

        Raises
        ------
        SystemExit
            Always, where there are several ranks: MPICH signs off from its launcher in the C library's ``exit``, so
            ``os._exit`` would count as a crash.
        """
        if "mpi4py" not in sys.modules:
            return
        from mpi4py import MPI

        if self.link is None:
            # without it, mpi4py's runner would call MPI_Abort for any exit code but 0
            MPI.Finalize()
            return
        self.link.barrier()
        if self.lifeline is not None:
            self.lifeline.goodbye()
        MPI.Finalize()
        sys.stdout.flush()
        sys.stderr.flush()
        _exit_later(code if self.rank == 0 else 0, LEAVE_SECONDS)
        if self.rank == 0:
            if self.lifeline is not None:
                self.lifeline.wait_until_gone(LEAVE_SECONDS / 2)
            else:
                time.sleep(UNWATCHED_SECONDS)
        sys.exit(code if self.rank == 0 else 0)

    def abort(self, code: int) -> None:
        """End all ranks now; never returns, and never exits with 0."""
        _abort(code or ChainsweepError.exit_code, self.link is not None)


def _abort(code: int, with_mpi: bool) -> None:
    _exit_later(code, ABORT_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    if with_mpi:
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(code)
    os._exit(code)


def _exit_later(code: int, seconds: float) -> None:
    """End this process after ``seconds``, even if something hangs in its exit."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def start_mpi() -> Any:
    """Initialise MPI within ``START_SECONDS``, or end the process; return mpi4py's module ``MPI``.

    MPICH's UCX transport sends each rank's address in a message of 4 KB that holds arbitrary bytes of memory. In a
    process that has worked before, that passes the 1,024 characters that Slurm's PMI reads, and all ranks wait for
    ever (pmodels/mpich#6924): 15 of 16 starts of 4 ranks here. Addresses of the OFI transport have 16 bytes.
    """
    if versions("mpich") and "MPI4PY_LIBMPI" not in os.environ:
        os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
        os.environ.setdefault("FI_PROVIDER", "tcp")
    # not a Python thread, because MPI's start may keep the interpreter's lock
    faulthandler.dump_traceback_later(START_SECONDS, exit=True, file=STANDARD_ERROR)
    from mpi4py import MPI

    faulthandler.cancel_dump_traceback_later()
    return MPI


def ranks() -> Ranks:
    """Return the ranks of this job: one rank without MPI, unless the process was started under mpi4py."""
    if "mpi4py" not in sys.modules:
        return Ranks()
    world = start_mpi().COMM_WORLD
    if world.Get_size() == 1:
        return Ranks()
    return Ranks(world.Get_size(), world.Get_rank(), Link(world.Dup()))


def watched(alone: Ranks) -> Ranks:
    """Return the ranks with a lifeline: when one dies, all end with exit code 70. Every rank calls it."""
    if alone.link is None:
        return alone
    peers = _connected(alone.link)
    if len(peers) < (alone.size - 1 if alone.rank == 0 else 1):
        print(f"rank {alone.rank}: not every rank can be reached; the launcher alone watches over them", flush=True)
    if not peers:
        return alone

    def on_death(peer: int) -> None:
        print(f"rank {alone.rank}: rank {peer} died; all ranks end", file=sys.stderr)
        _abort(ChainsweepError.exit_code, with_mpi=alone.rank == 0)

    return Ranks(alone.size, alone.rank, alone.link, Lifeline(peers, on_death))


def _connected(link: Link) -> dict[int, socket.socket]:
    if link.rank == 0:
        listener = Listener(secrets.token_hex(16))
        for rank in range(1, link.size):
            link.send((listener.address, socket.gethostname()), rank)
        return listener.accept(link.size - 1)
    address, host = link.recv(source=0, tag=0)
    connection = connect(address, link.rank, same_host=host == socket.gethostname())
    return {} if connection is None else {0: connection}
