"""A whole Slurm of its own in one folder: munged, slurmctld and four slurmd, for tests that run real jobs.

Partitions: `main` (default), `urgent` (same nodes; preempts `main` by requeueing, no grace) and `gpu` (the last node,
which has two fake GPUs). Nothing of it outlives the process that started it: see `supervisor`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.cluster.slurm_conf import NODES, Limits, gres_conf, hold_free_ports, slurm_conf
from tests.cluster.supervisor import descendants

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
REQUEUE_DELAY_S, SETTLE_S = 120, 4
SUPERVISOR = Path(__file__).with_name("supervisor.py")
FINISHED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
)
# A Unix socket's path holds 107 characters; the longest is <folder>/spool/n1/n1_<job>.<step>.
LONGEST_FOLDER = 107 - len("/spool/n1/n1_1234567.4294967291")


class SlurmError(RuntimeError):
    """A private Slurm did not do what was asked; the message ends with its daemons' last log lines."""


def missing_reason() -> str | None:
    """Why no private Slurm can run here, or None when it can."""
    missing = [name for name in NEEDED if _program(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm munge)"
    if os.geteuid() != 0:
        return "a private Slurm needs root"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class PrivateSlurm:
    """Start with `with PrivateSlurm(folder) as slurm:` or `start()` and `close()`."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder.resolve()
        if len(os.fsencode(self.folder)) > LONGEST_FOLDER or not str(self.folder).isprintable() or " " in str(folder):
            raise ValueError(f"{self.folder}: expected a path of at most {LONGEST_FOLDER} bytes without spaces")
        self.limits = limits or Limits()
        self.daemons: dict[str, int] = {}
        self._held: dict[int, socket.socket] = {}
        self._supervisor: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> PrivateSlurm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = 60) -> None:
        """Start all daemons and return when every node is idle."""
        try:
            self._write_files()
            self._start_supervisor()
            self._start_munged()
            self._start_controller()
            for name in NODES:
                self.start_slurmd(name)
            self.wait_until(self._all_idle, timeout_s, "all nodes idle")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill every daemon, step and job of this Slurm, and wait until they are gone."""
        if self._supervisor is not None:
            for pipe in (self._supervisor.stdin, self._supervisor.stdout):
                if pipe is not None:
                    pipe.close()
            self._supervisor.wait(timeout=30)
            self._supervisor = None
        for held in self._held.values():
            held.close()
        self._held = {}

    def restart_controller(self, down_s: float = 0, kill: bool = False, timeout_s: float = 60) -> None:
        """Stop slurmctld, leave it down for a while, start it again and wait until it answers.

        With `kill` it ends by SIGKILL, and then has forgotten what was submitted in its last five seconds.
        """
        self.stop_daemon("slurmctld", signal.SIGKILL if kill else signal.SIGTERM)
        time.sleep(down_s)
        self._start_controller(timeout_s)

    def stop_daemon(self, name: str, with_signal: signal.Signals = signal.SIGTERM, timeout_s: float = 30) -> None:
        """End `munged`, `slurmctld` or `slurmd-<node>`; steps that a slurmd started go on."""
        pid = self.daemons.pop(name)
        os.kill(pid, with_signal)
        self.wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout_s, f"{name} (process {pid}) stopped")

    def start_slurmd(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._start(f"slurmd-{node}", ["slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"]])

    # --- nodes --------------------------------------------------------------------------------------------------

    def node_down(self, node: str) -> None:
        """Set a node down until `node_up`: its jobs are requeued, and a live slurmd kills their processes."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def node_cut(self, node: str) -> None:
        """Set a node down as a network cut does: its slurmd is gone, its tasks run on, their jobs are requeued.

        A batch script whose `srun` runs there sees that end with `Node failure`.
        """
        self.stop_daemon(f"slurmd-{node}", signal.SIGKILL)
        self.node_down(node)

    def node_freeze(self, node: str) -> None:
        """Set a node down and stop (SIGSTOP) all its processes, so that nothing there can be told of the requeue."""
        frozen: set[int] = set()
        while fresh := set(self.node_processes(node)) - frozen:
            self._signal(fresh, signal.SIGSTOP)
            frozen |= fresh
        self.node_down(node)

    def thaw_tasks(self, node: str) -> list[int]:
        """Let the tasks and scripts of a frozen node go on, its slurmd and slurmstepds not; the process ids."""
        tasks = [pid for pid in self.node_processes(node) if not _is_daemon(pid)]
        self._signal(tasks, signal.SIGCONT)
        return tasks

    def node_up(self, node: str, timeout_s: float = 60) -> None:
        """Bring a node back, whatever was done to it, and wait until it takes jobs; stale tasks there are killed."""
        self._signal(self.node_processes(node), signal.SIGCONT)
        if f"slurmd-{node}" not in self.daemons:
            self.start_slurmd(node)

        def up() -> bool:
            state = self.node_states()[node]
            if "down" in state or "drain" in state:
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            return state in ("idle", "mixed", "allocated")

        self.wait_until(up, timeout_s, f"{node} up")

    @contextmanager
    def nothing_starts(self) -> Iterator[None]:
        """Within it jobs are accepted and wait: every node is drained."""
        nodes = f"nodename={','.join(NODES)}"
        self.run("scontrol", "update", nodes, "state=drain", "reason=nothing starts")
        try:
            yield
        finally:
            self.run("scontrol", "update", nodes, "state=resume")

    def node_states(self) -> dict[str, str]:
        """The state of every node as sinfo names it, such as `idle`, `mixed` or `down*`."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").stdout.splitlines()
        return dict(line.split() for line in lines)

    def node_processes(self, node: str) -> list[int]:
        """The process ids of a node: its slurmd, the slurmstepds it started, and their jobs' processes."""
        if self._supervisor is None:
            return []
        mark = f"PRIVATE_SLURM_NODE={node}".encode()
        found: set[int] = set()
        for pid in descendants(self._supervisor.pid):
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in environ:
                found |= {pid, *descendants(pid)}
        return sorted(found)

    # --- jobs ---------------------------------------------------------------------------------------------------

    def run(
        self, *argv: str, timeout_s: float = 60, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a Slurm command (or any other) against this Slurm and capture what it says."""
        try:
            done = subprocess.run(
                [_program(argv[0]) or argv[0], *argv[1:]],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=self._clean_environment() | options.pop("env", {}),
                **options,
            )
        except subprocess.TimeoutExpired as error:
            raise self._error(f"{' '.join(argv)} took over {timeout_s} s") from error
        if check and done.returncode:
            raise self._error(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def sbatch(self, *arguments: str, script: str | None = None, **options: Any) -> int:
        """Submit a job (the script's text, or `--wrap` or a file among the arguments) and return its id."""
        done = self.run("sbatch", "--parsable", *arguments, input=script, **options)
        return int(done.stdout.split(";")[0])

    def squeue_states(self, *jobs: int) -> dict[str, str]:
        """The state of every job that the controller remembers; array elements as `<job>_<index>`."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %F %T").stdout.splitlines()
        rows = [line.split() for line in lines]
        return {job: state for job, array, state in rows if not jobs or int(array) in jobs}

    def job(self, job: int | str) -> dict[str, str]:
        """All that `scontrol show job` says of one job or array element."""
        text = self.run("scontrol", "-o", "show", "job", str(job)).stdout
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def hasten_requeues(self, *jobs: int) -> None:
        """Start requeued jobs now; Slurm would have each wait for two minutes.

        Not within `SETTLE_S` of the requeue: the old attempt's slurmstepd may still hold what the new one needs.
        """
        lines = self.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %F %r %S").stdout.splitlines()
        for job, array, reason, start in (line.split(maxsplit=3) for line in lines):
            if reason != "BeginTime" or (jobs and int(array) not in jobs):
                continue
            waits_s = (datetime.fromisoformat(start) - datetime.now()).total_seconds()
            if waits_s < REQUEUE_DELAY_S - SETTLE_S:
                self.run("scontrol", "update", f"jobid={job}", "StartTime=now", check=False)

    def hasten_limit(self, job: int | str, in_s: int) -> None:
        """Have a running job reach its time limit so many seconds from now.

        The controller looks every 30 s, so the warning of `--signal` and the limit itself come up to 30 s late.
        """
        self.run("scontrol", "update", f"jobid={job}", f"EndTime=now+{in_s}")

    def wait_until(
        self, predicate: Callable[[], Any], timeout_s: float = 60, what: str = "condition", every_s: float = 0.1
    ) -> Any:
        """Wait for a true value of the predicate and return it; fails with the daemons' last log lines."""
        deadline = time.monotonic() + timeout_s
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise self._error(f"not within {timeout_s} s: {what}")
            time.sleep(every_s)
        return value

    def wait_for_jobs(self, *jobs: int, timeout_s: float = 120, hasten: bool = True) -> dict[str, str]:
        """Wait until these jobs (all, when none is named) have ended and return their last states.

        Requeued jobs are started at once unless `hasten` is false.
        """
        states: dict[str, str] = {}

        def ended() -> bool:
            if hasten:
                self.hasten_requeues(*jobs)
            states.clear()
            states.update(self.squeue_states(*jobs))
            return set(states.values()) <= FINISHED

        try:
            self.wait_until(ended, timeout_s, "jobs ended")
        except SlurmError as error:
            raise SlurmError(f"{states}\n{error}") from None
        return states

    # --- inside -------------------------------------------------------------------------------------------------

    def logs(self, lines: int = 15) -> str:
        """The last lines of every daemon's log, or of what a daemon printed when it wrote no log."""
        folder = self.folder / "log"
        tails = []
        for path in sorted(folder.glob("*.log")) or sorted(folder.glob("*.out")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            tails.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(tails)

    @staticmethod
    def _signal(pids: Iterable[int], with_signal: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, with_signal)

    def _error(self, message: str) -> SlurmError:
        queue = ""
        with suppress(subprocess.TimeoutExpired):
            queue = subprocess.run(
                ["squeue", "-r", "-t", "all"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=20,
                env=self._clean_environment(),
            ).stdout
        return SlurmError(f"{message}\n--- squeue\n{queue}\n{self.logs()}")

    def _clean_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "PMI"))}
        return {**kept, **self.environment}

    def _write_files(self) -> None:
        for name in ("spool", "state", "log", "dev"):
            (self.folder / name).mkdir(parents=True)
        self._held = hold_free_ports(len(NODES) + 1)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        for index in range(self.limits.gpus):
            os.mknod(self.folder / "dev" / f"gpu{index}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self.folder / "slurm.conf").write_text(slurm_conf(self.folder, list(self._held), self.limits))
        (self.folder / "gres.conf").write_text(gres_conf(self.folder, self.limits))

    def _start_supervisor(self) -> None:
        self._supervisor = subprocess.Popen(
            [sys.executable, str(SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._clean_environment(),
            start_new_session=True,
        )

    def _start(self, name: str, argv: Sequence[str]) -> None:
        if self._supervisor is None or self._supervisor.stdin is None or self._supervisor.stdout is None:
            raise SlurmError("this private Slurm is not running")
        request = {
            "argv": [_program(argv[0]), *argv[1:]],
            "log": str(self.folder / "log" / f"{name}.out"),
            "environment": {"PRIVATE_SLURM_NODE": name.removeprefix("slurmd-")},
        }
        self._supervisor.stdin.write(json.dumps(request) + "\n")
        self._supervisor.stdin.flush()
        self.daemons[name] = int(self._supervisor.stdout.readline())

    def _start_munged(self) -> None:
        paths = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in paths.items()]
        log = f"--log-file={self.folder}/log/munged.log"
        self._start("munged", ["munged", "--foreground", "--force", *options, log])
        self.wait_until((self.folder / "munge.socket").exists, 20, "munged's socket")

    def _start_controller(self, timeout_s: float = 60) -> None:
        self._start("slurmctld", ["slurmctld", "-D", "-f", self.environment["SLURM_CONF"]])
        self.wait_until(self._answers, timeout_s, "slurmctld answers")

    def _answers(self) -> bool:
        return "UP" in self.run("scontrol", "ping", check=False).stdout

    def _all_idle(self) -> bool:
        states = self.node_states()
        return len(states) == len(NODES) and set(states.values()) == {"idle"}


def _is_daemon(pid: int) -> bool:
    """Whether a process is a slurmd or slurmstepd (Debian calls the programs `slurmd-wlm` and so on)."""
    try:
        return Path(f"/proc/{pid}/exe").resolve().name.startswith(("slurmd", "slurmstepd"))
    except OSError:
        return False
