"""``site.toml``: how one cluster wants its jobs, as typed, frozen values.

Every value that reaches a script has a pattern it must match, so that none can end a line, a quote or a
directive. An unknown key is an error that names the file, the key and the valid keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from chainsweep.config.toml import Section, read_toml, validated

JobKind = Literal["simulate", "train", "emcee", "nuts", "snpe", "merge", "report"]
JOB_KINDS: tuple[str, ...] = get_args(JobKind)
GPU_KINDS = ("nuts", "train", "snpe")
"""Jobs that use a GPU where the site has one; each task has one GPU."""

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@/+-]*$")]
"""A name in Slurm or of an environment module: no blank, no quote, no comma."""
WordList = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,:@/+-]*$")]
Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\[(][A-Za-z0-9_.&|*()\[\]-]*$")]
OneLine = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Printable text without line breaks; it is quoted wherever it stands."""
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class JobSettings(Section):
    """``[job]`` and ``[job.<kind>]``: what one job asks for. A kind's own table wins over ``[job]``."""

    partition: WordList | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Constraint | None = None
    walltime_min: Annotated[int, Field(ge=1, le=60 * 24 * 60)] = 60
    """Minutes an array element may run; what is not done by then continues in the next attempt."""
    memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """Memory of one rank; the partition's default where it is not given."""
    cpus: Annotated[int, Field(ge=1, le=4096)] = 1
    """CPUs of one rank. Each task computes on one; more serve JAX's compiler and data loading."""
    ranks: Annotated[int, Field(ge=1, le=65536)] = 1
    """MPI ranks of one array element; emcee alone uses more than one."""
    nodes: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Nodes that the ranks are spread over; Slurm chooses where it is not given."""
    tasks_per_element: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Shards that one array element handles, one after another (emcee: one a rank at a time). Default 1."""
    exclusive: bool = False
    image: OneLine | None = None
    """Apptainer image of this kind of job, instead of the site's."""


class JobsSection(JobSettings):
    """``[job]`` with a table for each kind of job."""

    emcee: JobSettings = JobSettings()
    nuts: JobSettings = JobSettings()
    simulate: JobSettings = JobSettings()
    train: JobSettings = JobSettings()
    snpe: JobSettings = JobSettings()
    merge: JobSettings = JobSettings()
    report: JobSettings = JobSettings()


class Site(Section):
    """A whole ``site.toml``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    device: Literal["gpu", "cpu"] = "gpu"
    """``gpu``: NUTS and SNPE stop (exit 69) where they find none."""
    gpu_request: Literal["gres", "gpus-per-task"] = "gres"
    gpu_type: Word | None = None
    python: OneLine | None = None
    """Interpreter that has chainsweep; by default the one that submits, or ``python3`` inside an image."""
    image: OneLine | None = None
    """Apptainer image that the jobs run in, but those whose ``[job.<kind>]`` names another one."""
    image_fingerprint: Annotated[str, Field(pattern=r"^[0-9A-Fa-f ]{40,59}$")] | None = None
    """Images must be signed by the key with this fingerprint, which is in the keyring of whoever submits."""
    apptainer: Annotated[tuple[OneLine, ...], Field(min_length=1)] = ("apptainer",)
    """How Apptainer is called on the nodes, and where jobs are submitted."""
    binds: tuple[OneLine, ...] = ()
    """Further ``source[:target[:ro]]`` folders that the image sees; the campaign's folder always is."""
    mpi_library: Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]+$")] | None = None
    """The host's ``libmpi.so``, used inside the image instead of the image's own MPI; of MPICH's binary interface."""
    cache: Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]+$")] | None = None
    """Folder of compiled programs, on a disk that all nodes see; default: ``chainsweep-cache`` beside the campaign."""
    modules: tuple[Word, ...] = ()
    environment: dict[Variable, OneLine] = Field(default_factory=dict)
    mpi_launch: Annotated[tuple[OneLine, ...], Field(min_length=1)] = ("srun", "--mpi=pmi2")
    """Starts the ranks of an emcee job; ``--kill-on-bad-exit`` and sizes are added to ``srun``."""
    array_cap: Annotated[int, Field(ge=1)] | None = None
    """Array elements of one array that may run at the same time (``%`` of ``--array``)."""
    max_array_size: Annotated[int, Field(ge=2)] | None = None
    """Indices of an array stay below this; by default the cluster's MaxArraySize."""
    max_submitted: Annotated[int, Field(ge=8)] | None = None
    """Array elements that may be in the queue at the same time; by default what the cluster's MaxJobCount allows."""
    signal_lead_s: Annotated[int, Field(ge=10, le=65535)] = 120
    """Seconds before the time limit at which a job is told to save its state."""
    requeue_limit: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Times that one array element may be requeued."""
    sbatch_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    job: JobsSection = JobsSection()

    def job_settings(self, kind: str) -> JobSettings:
        """What a job of this kind asks for: ``[job.<kind>]`` over ``[job]`` over the defaults."""
        own: JobSettings = getattr(self.job, kind)
        shared = self.job.model_fields_set - set(JOB_KINDS)
        values = {name: getattr(self.job, name) for name in shared}
        return JobSettings(**values | {name: getattr(own, name) for name in own.model_fields_set})

    def image_of(self, kind: str) -> Path | None:
        """The image that jobs of this kind run in."""
        name = self.job_settings(kind).image or self.image
        return None if name is None else Path(name).absolute()

    def uses_gpu(self, kind: str) -> bool:
        """Whether a job of this kind is given a GPU."""
        return self.device == "gpu" and kind in GPU_KINDS


def load_site(path: Path) -> Site:
    """Read and validate a ``site.toml``.

    Raises
    ------
    ConfigError
        The file is missing, is no TOML, has an unknown key, or a value that no script may hold.
    """
    return validated(Site, read_toml(path, "a site.toml; examples are in slurm/sites/"), origin=str(path))
