"""Every rendered script, whole: a change of a template shows as a change of these files.

After a change that is meant, look at the difference that `CHAINSWEEP_UPDATE_GOLDEN=1 pytest tests/golden` makes.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from chainsweep.campaign.paths import Paths
from chainsweep.errors import ConfigError, UsageError
from chainsweep.packages import versions
from chainsweep.slurm.image import Image
from chainsweep.slurm.job import ARRAYS, STAGE_OF, Job
from chainsweep.slurm.render import TEMPLATES, directive, render
from chainsweep.slurm.site import JOB_KINDS, Site, load_site

HERE = Path(__file__).parent
SITES = ("example", "gpu-gres", "gpus-per-task", "local")
FOLDER = Path('/scratch/it\'s a "sweep"; $HOME `id` #1/100% new')


# What a script needs of a campaign.
CAMPAIGN = SimpleNamespace(name="lines", hash="0123456789abcdef" * 4, paths=Paths(FOLDER))


def job_of(kind: str, site: Site) -> Job:
    array = STAGE_OF[kind] in ARRAYS
    return Job(
        name=f"cs-0123456789-3-{kind}-0",
        kind=kind,
        part=0,
        tasks=(*range(6), 9, 11) if array else (0,),
        per_element=4 if kind == "emcee" else 1,
        ranks=min(site.job_settings(kind).ranks, 4),
        form="datasets" if kind == "emcee" else "",
        gpu=site.uses_gpu(kind),
        after=(),
        folder=FOLDER / "submit" / "3",
        logs=FOLDER / "logs",
        why="the model's likelihood is compiled" if kind == "emcee" else "",
    )


def text_of(kind: str, name: str) -> str:
    # the interpreter is that of whoever submits: no golden file may name this machine's
    site = load_site(TEMPLATES / "sites" / f"{name}.toml").model_copy(update={"python": "/opt/chain sweep/bin/python"})
    return render(job_of(kind, site), CAMPAIGN, site).replace(versions("chainsweep")["chainsweep"], "VERSION")


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("kind", JOB_KINDS)
def test_script(kind, name):
    text = text_of(kind, name)
    golden = HERE / f"{name}-{kind}.sbatch"
    if os.environ.get("CHAINSWEEP_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["emcee", "nuts"])
def test_an_image_and_walkers_over_ranks(kind):
    site = Site(
        name="boxed",
        image="/images/it's.sif",
        binds=("/data:/data:ro",),
        mpi_library="/opt/mpich 4/lib/libmpi.so.12",
        environment={"NOTE": "it's; $(id)"},
        job={"emcee": {"ranks": 8, "nodes": 2}, "nuts": {"image": "/images/jax.sif"}},
    )
    job = job_of(kind, site)
    if kind == "emcee":
        job = replace(job, ranks=8, form="walkers", per_element=1)
    image = Image(site.image_of(kind), "ab" * 32, "1000 1700000000 1700000001")
    text = render(job, CAMPAIGN, site, image).replace(versions("chainsweep")["chainsweep"], "VERSION")
    golden = HERE / f"boxed-{kind}.sbatch"
    if os.environ.get("CHAINSWEEP_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("usable", [True, False])
def test_an_image_sees_the_cache_where_there_is_one(tmp_path, usable):
    """A folder that is not there would end the image's start, and without it work only takes longer."""
    file, cache = tmp_path / "image.sif", tmp_path / "a, b" / "cache"
    file.write_bytes(b"image")
    if not usable:
        cache.parent.write_text("a file where the folder should be")
    done = subprocess.run(["stat", "-L", "-c", "%s %Y %Z", file], capture_output=True, text=True, check=True)
    site = Site(name="boxed", image=str(file), cache=str(cache))
    text = render(job_of("merge", site), CAMPAIGN, site, Image(file, "ab" * 32, done.stdout.strip()))
    head = text[: text.index("program=(")] + 'printf "%s|" "$CHAINSWEEP_CACHE" "${launch[@]}"\n'
    environment = {"SLURM_JOB_ID": "77", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash"], input=head, capture_output=True, text=True, check=True, env=environment)
    named, *words = done.stdout.split("|")[:-1]
    assert named == str(cache)
    assert words[-1] == str(file)
    assert (f'--mount=type=bind,"source={cache}","destination={cache}"' in words) is usable
    assert cache.is_dir() is usable


def test_the_shell_reads_hostile_paths_as_they_are():
    """The bash of a script, up to the work itself, run for real."""
    text = text_of("nuts", "local")
    head = (
        text[: text.index("launch=(")].replace("set -u", "set -eu")
        + 'printf "%s|" "$campaign" "$end_file" "${tasks[@]}"\n'
    )
    environment = {
        "SLURM_ARRAY_TASK_ID": "6",
        "SLURM_ARRAY_JOB_ID": "70",
        "SLURM_JOB_ID": "77",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(["bash"], input=head, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("|")[:-1] == [str(FOLDER), f"{FOLDER}/submit/3/.ended-70_6", "9"]


def test_an_array_script_run_by_hand_says_what_to_do():
    done = subprocess.run(
        ["bash"],
        input=text_of("nuts", "local"),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode != 0
    assert "send it with sbatch" in done.stderr


@pytest.mark.parametrize("path", ["/a\nb", "/a\\b", "/a\rb"])
def test_what_no_directive_can_hold_is_refused(path):
    with pytest.raises(UsageError, match="another folder"):
        directive(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('name = "x"\n[job]\npartition = "a b"', "job.partition"),
        ('name = "x"\n[job]\naccount = "a\\nb"', "job.account"),
        ('name = "x"\n[job.nuts]\nqos = "$(id)"', "job.nuts.qos"),
        ('name = "x"\nmodules = ["a; rm -rf /"]', "modules"),
        ('name = "x"\n[environment]\n"A B" = "1"', "environment"),
        ('name = "x"\nimage = "a\\nb"', "image"),
        ('name = "x"\n[job]\nwalltime_min = 0', "job.walltime_min"),
        ('name = "x"\n[job.nuts]\nwalltime = 5', "valid keys: partition, account"),
        ('name = "x"\ncolour = 1', "valid keys: name, device"),
        ("", "missing key 'name'"),
    ],
)
def test_a_value_that_no_script_may_hold_is_refused(tmp_path, text, named):
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named.replace("[", r"\[")) as error:
        load_site(path)
    assert str(path) in str(error.value)
