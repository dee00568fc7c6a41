"""``site.toml``: the settings of the jobs of one cluster, as typed, frozen values.

Every value that is written into a script must match a pattern, so that no value can end a line, a quote or a
directive. An unknown key is an error that names the file, the key and the valid keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model

from chainsweep.config.toml import Section, read_toml, validated
from chainsweep.engines.registry import ENGINES

JOB_KINDS = ("simulate", "train", *ENGINES, "merge", "report")
"""The kinds of jobs: an engine's kind is its name, and samples; the others are named after their stage."""
GPU_KINDS = ("train", *(name for name, engine in ENGINES.items() if engine.uses_gpu))
"""The kinds of jobs that use a GPU where the site has one; each task has one GPU."""

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@/+-]*$")]
"""A name in Slurm or of an environment module: no blank, no quote, no comma."""
WordList = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,:@/+-]*$")]
Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\[(][A-Za-z0-9_.&|*()\[\]-]*$")]
OneLine = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Printable text without line breaks; it is quoted wherever it is used."""
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class JobSettings(Section):
    """``[job]`` and ``[job.<kind>]``: the resources that one job requests. A kind's own table overrides ``[job]``."""

    partition: WordList | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Constraint | None = None
    walltime_min: Annotated[int, Field(ge=1, le=60 * 24 * 60)] = 60
    """The minutes that an array element may run; work that is not done by then continues in the next attempt."""
    memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """The memory of one rank; by default the partition's."""
    cpus: Annotated[int, Field(ge=1, le=4096)] = 1
    """The CPUs of one rank. Each task computes on one CPU; JAX's compiler and data loading use the others."""
    ranks: Annotated[int, Field(ge=1, le=65536)] = 1
    """The MPI ranks of one array element; only an engine that shares its work out (emcee) uses more than one."""
    nodes: Annotated[int, Field(ge=1, le=65536)] | None = None
    """The nodes that the ranks are spread over; by default Slurm chooses."""
    tasks_per_element: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The shards that one array element handles, one after another, or one per rank at a time. Default 1."""
    exclusive: bool = False
    image: OneLine | None = None
    """The Apptainer image of this kind of job, instead of the site's."""


if TYPE_CHECKING:
    JobsSection = JobSettings
else:
    JobsSection = create_model(
        "JobsSection",
        __base__=JobSettings,
        __doc__="``[job]`` with a table for each kind of job.",
        **{kind: (JobSettings, JobSettings()) for kind in JOB_KINDS},
    )


class Site(Section):
    """A whole ``site.toml``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    device: Literal["gpu", "cpu"] = "gpu"
    """The device of engines that can use a GPU, NUTS and SNPE; with ``gpu`` they stop (exit 69) if they find none."""
    gpu_request: Literal["gres", "gpus-per-task"] = "gres"
    gpu_type: Word | None = None
    python: OneLine | None = None
    """The interpreter that has chainsweep, by default the one that submits; a job in an image uses its ``python3``."""
    image: OneLine | None = None
    """The Apptainer image that the jobs run in, except for kinds whose ``[job.<kind>]`` names another image."""
    image_fingerprint: Annotated[str, Field(pattern=r"^[0-9A-Fa-f ]{40,59}$")] | None = None
    """The fingerprint of the key that must have signed the images; the submitting user's keyring must hold the key."""
    apptainer: Annotated[tuple[OneLine, ...], Field(min_length=1)] = ("apptainer",)
    """The command that calls Apptainer, on the nodes and on the machine that submits jobs."""
    binds: tuple[OneLine, ...] = ()
    """Further folders ``source[:target[:ro]]`` that the image sees, in addition to the campaign's folder."""
    mpi_library: Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]+$")] | None = None
    """The host's ``libmpi.so`` (with MPICH's binary interface), used inside the image instead of the image's MPI."""
    cache: Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]+$")] | None = None
    """The folder of compiled programs, on a disk that all nodes see; by default ``chainsweep-cache`` next to the
    campaign."""
    modules: tuple[Word, ...] = ()
    environment: dict[Variable, OneLine] = Field(default_factory=dict)
    mpi_launch: Annotated[tuple[OneLine, ...], Field(min_length=1)] = ("srun", "--mpi=pmi2")
    """The command that starts the ranks of a job; ``--kill-on-bad-exit`` and sizes are added to ``srun``."""
    array_cap: Annotated[int, Field(ge=1)] | None = None
    """The elements of one array that may run at the same time (``%`` of ``--array``)."""
    max_array_size: Annotated[int, Field(ge=2)] | None = None
    """The number that indices of an array stay below; by default the cluster's MaxArraySize."""
    max_submitted: Annotated[int, Field(ge=8)] | None = None
    """The array elements that may be in the queue at the same time; by default as the cluster's MaxJobCount allows."""
    signal_lead_s: Annotated[int, Field(ge=10, le=65535)] = 120
    """The seconds before the time limit at which a job is told to save its state."""
    requeue_limit: Annotated[int, Field(ge=0, le=10_000)] = 50
    """The largest number of times that one array element may be requeued."""
    sbatch_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    job: JobsSection = JobsSection()

    def job_settings(self, kind: str) -> JobSettings:
        """Return the settings of a job of this kind: ``[job.<kind>]`` over ``[job]`` over the defaults."""
        own: JobSettings = getattr(self.job, kind)
        shared = self.job.model_fields_set - set(JOB_KINDS)
        values = {name: getattr(self.job, name) for name in shared}
        return JobSettings(**values | {name: getattr(own, name) for name in own.model_fields_set})

    def image_of(self, kind: str) -> Path | None:
        """Return the image that jobs of this kind run in, or None if they run without one."""
        name = self.job_settings(kind).image or self.image
        return None if name is None else Path(name).absolute()

    def uses_gpu(self, kind: str) -> bool:
        """Return True if a job of this kind is given a GPU."""
        return self.device == "gpu" and kind in GPU_KINDS


def load_site(path: Path) -> Site:
    """Read and validate a ``site.toml``.

    Raises
    ------
    ConfigError
        The file is missing, is no TOML, has an unknown key, or a value that no script may hold.
    """
    return validated(Site, read_toml(path, "a site.toml; examples are in slurm/sites/"), origin=str(path))
