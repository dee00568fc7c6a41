"""The configuration of a private Slurm: its nodes, partitions, limits and ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
GPU_NODE = "n4"


@dataclass(frozen=True)
class Limits:
    """What a test may want to have otherwise."""

    max_array_size: int = 101
    max_job_count: int = 10_000
    min_job_age_s: int = 600
    kill_wait_s: int = 2
    cpus_per_node: int = 4
    gpus: int = 2


def slurm_conf(folder: Path, ports: Sequence[int], limits: Limits) -> str:
    """The text of slurm.conf; the first port is the controller's, the others the nodes'."""
    controller, *nodes = ports
    host = socket.gethostname().split(".")[0]
    lines = [
        "ClusterName=private",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd-%n.log",
        "SlurmctldDebug=info",
        "SlurmdDebug=info",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "SlurmdParameters=config_overrides",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "JobAcctGatherParams=OverMemoryKill",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "JobRequeue=1",
        # A node that a test set down stays down: with 2, an answer that is still on its way would bring it back.
        "ReturnToService=1",
        f"MaxArraySize={limits.max_array_size}",
        f"MaxJobCount={limits.max_job_count}",
        # MPICH names its shared memory by job and step, and what a killed job of another private Slurm left is there.
        f"FirstJobId={random.SystemRandom().randrange(1_000, 900_000)}",
        f"MinJobAge={limits.min_job_age_s}",
        f"KillWait={limits.kill_wait_s}",
        # Quick: schedule at every event, look again every second, and have nothing wait for accounting.
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
        "CompleteWait=0",
        "EpilogMsgTime=1",
        "SlurmctldTimeout=60",
        "SlurmdTimeout=60",
        "MessageTimeout=30",
        "BatchStartTimeout=30",
        "UnkillableStepTimeout=150",
        "GresTypes=gpu",
        *_node_lines(host, nodes, limits),
        "PartitionName=DEFAULT State=UP MaxTime=INFINITE DefaultTime=30 OverSubscribe=NO DefMemPerCPU=2000",
        "PartitionName=main Nodes=n[1-4] Default=YES PriorityTier=1",
        "PartitionName=urgent Nodes=n[1-4] PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=gpu Nodes={GPU_NODE} PriorityTier=1",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(folder: Path, limits: Limits) -> str:
    """The text of gres.conf: device files that stand for GPUs."""
    return f"NodeName={GPU_NODE} Name=gpu File={folder}/dev/gpu[0-{limits.gpus - 1}]\n" if limits.gpus else ""


def _node_lines(host: str, ports: Sequence[int], limits: Limits) -> Iterator[str]:
    for name, port in zip(NODES, ports, strict=True):
        gres = f" Gres=gpu:{limits.gpus}" if name == GPU_NODE and limits.gpus else ""
        yield (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={limits.cpus_per_node}"
            f" RealMemory={2000 * limits.cpus_per_node}{gres} State=UNKNOWN"
        )


def hold_free_ports(count: int) -> dict[int, socket.socket]:
    """Free ports, each with a socket that holds a name for it: two private Slurms never get the same port.

    The ports lie below those that the system gives to outgoing connections. Close the sockets to let go.
    """
    held: dict[int, socket.socket] = {}
    for port in random.SystemRandom().sample(range(20_000, 30_000), 10_000):
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0private-slurm-{port}")
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            name.close()
            continue
        held[port] = name
        if len(held) == count:
            return held
    raise OSError(f"expected {count} free ports between 20000 and 30000, found {len(held)}")
