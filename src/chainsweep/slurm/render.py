"""The sbatch scripts as text, from the templates in ``slurm/``; nothing is written and nothing is run."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from chainsweep.campaign.campaign import Campaign
from chainsweep.engines.registry import ENGINES
from chainsweep.errors import UsageError
from chainsweep.machine.programs import CACHE_VARIABLE
from chainsweep.packages import versions
from chainsweep.slurm.image import Image, inside, mount
from chainsweep.slurm.job import STAGE_OF, Job, as_ranges
from chainsweep.slurm.plan import shares_ranks
from chainsweep.slurm.site import Site
from chainsweep.tasks.provenance import IMAGE_VARIABLE

_PACKAGED = Path(__file__).parents[1] / "slurm_templates"
TEMPLATES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "slurm"
"""The folder of the templates: inside an installed package, or at the top of a checkout."""
_NOT_IN_DIRECTIVES = "\n\r\0\\"
"""The characters that no directive may hold: a line break ends a directive, and Slurm takes a backslash for an escape
even in quotes."""


def render(job: Job, campaign: Campaign, site: Site, image: Image | None = None) -> str:
    """Return the whole sbatch script of ``job``, whose work runs in ``image`` if one is given.

    Raises
    ------
    UsageError
        A path holds a character that no ``#SBATCH`` line can hold.
    """
    cache = Path(site.cache or campaign.paths.cache)
    return (
        _environment()
        .get_template(template_of(job.kind))
        .render(
            title=ENGINES[job.kind].title if job.kind in ENGINES else "",
            job=job,
            site=site,
            want=site.job_settings(job.kind).model_dump(),
            campaign={"name": campaign.name, "hash": campaign.hash, "folder": str(campaign.paths.root)},
            version=versions("chainsweep")["chainsweep"],
            python=interpreter(site, job.kind),
            image=image,
            image_variable=IMAGE_VARIABLE,
            cache={"variable": CACHE_VARIABLE, "folder": str(cache), "mount": mount(cache)},
            inside=[]
            if image is None
            else inside(site, image.path, job.gpu, campaign.paths.root, campaign.paths.frozen),
            mpi_launch=_mpi_launch(site, job),
            requeue_limit=site.requeue_limit * math.ceil(job.per_element / job.ranks),
        )
    )


def template_of(kind: str) -> str:
    """Return the name of a kind's template: that of its stage, or of jobs whose MPI ranks share the work."""
    return f"{'ranks' if shares_ranks(kind) else STAGE_OF[kind]}.sbatch.j2"


def interpreter(site: Site, kind: str) -> str:
    """Return the interpreter of a job: ``python3`` in an image, else as the site says, else the one that runs this."""
    if site.image_of(kind) is not None:
        return "python3"
    return site.python or sys.executable


def _mpi_launch(site: Site, job: Job) -> list[str]:
    """Return the launch line with the number of ranks; a dead rank must end the step, whatever the site says."""
    launch = [part.replace("{ranks}", str(job.ranks)) for part in site.mpi_launch]
    if Path(launch[0]).name == "srun":
        cpus = site.job_settings(job.kind).cpus
        launch += [f"--ntasks={job.ranks}", "--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"]
    return launch


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # bash, not HTML: every value goes through `quote`, `directive` or a pattern of the site file
    )
    environment.filters["quote"] = shlex.quote
    environment.filters["directive"] = directive
    environment.filters["ranges"] = _bash_ranges
    return environment


def directive(value: str) -> str:
    """Return ``value`` as one word of an ``#SBATCH`` line."""
    if any(character in value for character in _NOT_IN_DIRECTIVES):
        raise UsageError(
            f"{value!r} cannot be in an #SBATCH line: expected a path without backslash and line break; "
            "move the campaign to another folder"
        )
    if all(character.isalnum() or character in "/_.-+=:,@%" for character in value):
        return value
    return '"' + value.replace('"', '\\"') + '"'


def _bash_ranges(tasks: Sequence[int]) -> str:
    """Return task numbers as words of a bash array: ``{0..390} 402``."""
    return " ".join(str(a) if a == b else f"{{{a}..{b}}}" for a, b in as_ranges(tasks))
