"""The images, run for real: sealed, the same draws inside as outside, and every way to get the wrong one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5netcdf
import pytest

from chainsweep.errors import ConfigError
from chainsweep.slurm.image import examine, verify
from chainsweep.slurm.site import Site
from chainsweep.slurm.trials import examine_site
from chainsweep.store.shard import read_header
from tests.cluster.conftest import ROOT
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.sweeps import (
    WARM_SITE,
    Sweep,
    assert_same_results,
    no_leftovers,
    plain_environment,
    write_slow_job,
)
from tests.conftest import LINE_CONFIG, line_data, write_lines
from tests.contract.test_campaign import SMALL

APPTAINER = ["sh", str(ROOT / "containers" / "apptainer.sh")]
ENGINES = ("emcee", "nuts", "snpe")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/tmp"]
SELFTEST = ["/opt/chainsweep/bin/python", "/opt/chainsweep/selftest.py"]


def site_of(**named: Path | str) -> str:
    """A site file whose jobs run in images: ``image`` for all, or one a kind of job."""
    tables = "".join(f'[job.{kind}]\nimage = "{path}"\n\n' for kind, path in named.items() if kind != "image")
    tables = tables.replace("[job.emcee]\n", "[job.emcee]\nranks = 2\nnodes = 2\nmemory_gib = 0.7\n")
    return f'image = "{named["image"]}"\napptainer = {json.dumps(APPTAINER)}\n' + WARM_SITE.replace(
        "[job]", tables + "[job]"
    )


def init(folder: Path, config: str) -> Path:
    campaign = folder / 'camp "aign", 5%'
    line = [sys.executable, "-m", "chainsweep", "init", str(folder / config), "--out", str(campaign)]
    subprocess.run(line, check=True, capture_output=True)
    return campaign


def run_here(campaign: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chainsweep", "run", str(campaign), "--workers", "2", *options],
        capture_output=True,
        text=True,
        env=plain_environment(),
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Path:
    """A campaign of four lines in four shards, three engines, under a path with odd characters."""
    folder = tmp_path_factory.mktemp("it's a sweep")
    write_lines(folder, LINE_CONFIG + SMALL.replace("size = 4", "size = 1"), data=line_data(4))
    return init(folder, "campaign.toml")


def test_a_campaign_inside_images_gives_the_draws_of_one_outside(
    images, slurm: PrivateSlurm, frozen, tmp_path, monkeypatch
):
    planted = tmp_path / "home" / ".local" / "lib" / "python3.11" / "site-packages"
    planted.mkdir(parents=True)
    (planted / "numpy.py").write_text("raise ImportError('a file in ~/.local was imported')")
    (tmp_path / "hostile").mkdir()
    hostile = {
        "HOME": str(tmp_path / "home"),
        "APPTAINER_BIND": f"{tmp_path}/hostile:/opt/chainsweep",
        "SINGULARITY_BINDPATH": f"{tmp_path}/hostile:/usr",
        "APPTAINERENV_PATH": "/nowhere",
        "PYTHONPATH": str(planted),
    }
    outside = tmp_path / "outside"
    shutil.copytree(frozen, outside)
    done = run_here(outside)
    assert done.returncode == 0, done.stderr
    torch = images["torch-cpu"]
    site = site_of(image=images["cpu-mpi"], emcee=images["cpu-mpi"], nuts=images["jax-cpu"], train=torch, snpe=torch)
    for kind in ENGINES:  # one process, and one rank, for several tasks: most of the time here is imports
        site = site.replace(f"[job.{kind}]\n", f"[job.{kind}]\ntasks_per_element = 4\n")
    sweep = Sweep(slurm, frozen, site, timeout_s=900)
    (frozen.parent / "site.toml").write_text(site)
    sweep.command("plan", str(frozen), "--site", str(frozen.parent / "site.toml"))
    # The environment of whoever submits becomes that of the jobs: sbatch hands it on.
    submit = ["submit", str(frozen), "--site", str(frozen.parent / "site.toml"), "--json"]
    program = "import os, sys; sys.path = [p for p in sys.path if 'home' not in p]; import chainsweep.cli; "
    program += f"os.environ.update({hostile!r}); chainsweep.cli.main()"
    slurm.run(sys.executable, "-c", program, *submit)
    states = sweep.finish()
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{sweep.outputs()}"
    assert "APPTAINER_BIND is set on this node and not used" in sweep.outputs()
    assert_same_results(frozen, outside)
    assert no_leftovers(frozen) == []
    digests = {name: examine(path, {}).sha256 for name, path in images.items()}
    made = {engine: read_header(frozen / "shards" / engine / "00000.h5").provenance["image"] for engine in ENGINES}
    assert made == {"emcee": digests["cpu-mpi"], "nuts": digests["jax-cpu"], "snpe": digests["torch-cpu"]}
    with h5netcdf.File(frozen / "posterior.h5") as merged, h5netcdf.File(outside / "posterior.h5") as plain:
        assert merged.attrs["image"] == " ".join(sorted(digests.values()))
        assert plain.attrs["image"] == "none"
    for engine in ENGINES:  # what was compiled outside serves inside
        compiled = read_header(frozen / "shards" / engine / "00000.h5").provenance
        assert compiled["cache_hits"] == compiled["programs"] > 10, engine
    logs = "".join((frozen / "logs" / f"infer-{task:05d}.log").read_text() for task in range(4))
    assert logs.count(" of 2, process ") >= 4
    assert "rank 0 of 2" in logs


def test_shards_of_different_images_are_not_merged_unless_told(images, slurm: PrivateSlurm, frozen, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(frozen, mixed)
    (mixed / "shards" / "nuts" / "00001.h5").unlink()
    done = run_here(mixed)
    assert done.returncode == 65
    assert "begun in the image with SHA-256" in done.stderr
    assert "--mixed-images" in done.stderr
    assert not (mixed / "shards" / "nuts" / "00001.h5").exists()
    (mixed / "shards" / "nuts" / "image.txt").unlink()
    assert run_here(mixed).returncode == 65
    assert (mixed / "shards" / "nuts" / "00001.h5").exists()
    refused = Sweep(slurm, mixed).command("merge", str(mixed), codes=(65,)).stderr
    assert "made in different images: 00000.h5 in the image with SHA-256" in " ".join(refused.split())
    Sweep(slurm, mixed).command("merge", str(mixed), "--mixed-images")
    assert_same_results(mixed, frozen)


@pytest.mark.parametrize("name", ["cpu-mpi", "jax-cpu", "torch-cpu"])
def test_an_image_runs_for_an_ordinary_user_and_says_what_it_is(images, name):
    path = images[name]
    sealed = [*NOBODY, "apptainer", "exec", "--containall", "--no-home", str(path), *SELFTEST]
    done = subprocess.run([*sealed, *(["mpi"] if name == "cpu-mpi" else [])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok  read-only for user 65534" in done.stdout
    labels = subprocess.run([*APPTAINER, "inspect", "--json", str(path)], capture_output=True, text=True, check=True)
    found = json.loads(labels.stdout)["data"]["attributes"]["labels"]
    lock = subprocess.run(
        ["sha256sum", ROOT / "containers" / "locks" / f"{name}.txt"], capture_output=True, text=True, check=True
    )
    assert found["chainsweep.lock.sha256"] == lock.stdout.split()[0]
    assert found["org.opencontainers.image.version"] == "0.1.0"
    assert len(found["org.opencontainers.image.revision"]) in (7, 40)
    told = subprocess.run([*APPTAINER, "run-help", str(path)], capture_output=True, text=True, check=True).stdout
    assert "apptainer run" in told
    ran = subprocess.run([*APPTAINER, "run", str(path), "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == "chainsweep 0.1.0\n"


def test_the_selftest_sees_what_leaks_in(images, tmp_path):
    """A check that cannot fail is none: a writable image, and a path of the user's own, are found."""
    (tmp_path / "site").mkdir()
    leaking = [*APPTAINER, "exec", "--env", f"PYTHONPATH={tmp_path}/site", "--bind", str(tmp_path)]
    done = subprocess.run([*leaking, str(images["cpu-mpi"]), *SELFTEST], capture_output=True, text=True)
    assert done.returncode == 1
    assert "BAD no Python but the image's" in done.stdout
    writable = [*APPTAINER, "exec", "--writable-tmpfs", "--containall", "--no-home", str(images["cpu-mpi"]), *SELFTEST]
    done = subprocess.run(writable, capture_output=True, text=True)
    assert done.returncode == 1
    assert "BAD read-only" in done.stdout


def test_ranks_in_an_image_find_each_other_both_ways(images, slurm: PrivateSlurm, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    library = Path(sys.executable).parents[1] / "lib" / "libmpi.so.12"
    keys = {"image": str(images["cpu-mpi"]), "apptainer": APPTAINER, "mpi_library": str(library)}
    job = {"emcee": {"ranks": 4, "nodes": 2, "memory_gib": 0.5}}
    site = Site.model_validate({"name": "boxed", "device": "cpu", "job": job} | keys)
    found = {finding.what: finding for finding in examine_site(site)}
    for what in ("image cpu-mpi.sif", "a node", "MPI of the image", "MPI of the host in the image"):
        assert found[what].state == "ok", found[what]
    wrong = site.model_copy(update={"mpi_launch": ("srun", "--mpi=none")})
    found = {finding.what: finding for finding in examine_site(wrong)}
    assert "thinks that it is alone" in found["MPI of the image"].found


def test_a_missing_a_truncated_and_another_image_are_refused_and_nothing_is_lost(images, slurm: PrivateSlurm, tmp_path):
    campaign = init(tmp_path, str(write_slow_job(tmp_path / "job", 0.0002).relative_to(tmp_path)))
    image = tmp_path / "it's the image.sif"
    sweep = Sweep(slurm, campaign, site_of(image=image), timeout_s=300)

    def refused(code: int) -> str:
        (tmp_path / "site.toml").write_text(sweep.site)
        said = sweep.command("submit", str(campaign), "--site", str(tmp_path / "site.toml"), codes=(code,)).stderr
        return " ".join(said.split())

    assert "expected an Apptainer image that can be read, got: No such file" in refused(65)
    planned = sweep.command("plan", str(campaign), "--site", str(tmp_path / "site.toml"), "--json").stdout
    assert json.loads(planned)["absent_images"] == [str(image)]
    image.write_bytes(images["cpu-mpi"].read_bytes()[:50_000_000])
    assert "a truncated image: expected at least" in refused(65)
    image.write_text("#!/bin/sh\n")
    assert "got a file of another kind" in refused(65)
    image.unlink()
    shutil.copy(images["cpu-mpi"], image)
    (tmp_path / "nodes").mkdir()

    # Gone, then swapped, between submit and the task.
    sweep.site = site_of(image=image).replace("[job]", "[job]\npartition = 'urgent'")
    with slurm.nothing_starts():
        sweep.submit()
        image.rename(tmp_path / "kept.sif")
    assert "FAILED" in set(sweep.finish().values())
    told = sweep.status()["interrupted_tasks"]
    assert [(entry["task"], entry["kind"]) for entry in told] == [
        ("infer emcee 0", "missing device, package or service"),
        ("infer emcee 1", "missing device, package or service"),
    ]
    assert "no image: expected" in told[0]["last_lines"][-1]
    shutil.copy(tmp_path / "kept.sif", image)
    with slurm.nothing_starts():
        sweep.submit()
        shutil.copy(images["jax-cpu"], image)
    sweep.finish()
    told = sweep.status()["interrupted_tasks"]
    assert {entry["kind"] for entry in told} == {"changed campaign or image"}
    assert "not the image that was submitted" in told[0]["last_lines"][-1]

    # Put back: a submit brings everything. Nothing was begun, so nothing is lost.
    shutil.copy(tmp_path / "kept.sif", image)
    sweep.submit()
    states = sweep.finish()
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{sweep.outputs()}"
    assert sweep.status()["engines"]["emcee"]["pending"] == 0


def test_a_campaign_folder_that_cannot_be_written_is_said(images, slurm: PrivateSlurm, tmp_path):
    campaign = init(tmp_path, str(write_slow_job(tmp_path / "job", 0).relative_to(tmp_path)))
    before = {path: path.stat().st_mtime_ns for path in campaign.rglob("*")}
    mount = f'type=bind,"source={str(campaign).replace(chr(34), chr(34) * 2)}",destination=/campaign,ro'
    boxed = [*APPTAINER, "exec", "--containall", "--no-home", "--mount", mount, str(images["cpu-mpi"])]
    done = subprocess.run(
        [*boxed, "chainsweep", "task", "/campaign", "infer", "0"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 69, done.stderr
    assert "/campaign" in done.stderr
    assert "cannot write here" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in campaign.rglob("*")} == before


def test_a_signature_is_verified_against_the_fingerprint_that_the_site_names(images, tmp_path, monkeypatch):
    monkeypatch.setenv("APPTAINER_KEYSDIR", str(tmp_path / "keys"))
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "sh").write_text("")
    image, other = tmp_path / "signed.sif", tmp_path / "unsigned.sif"
    subprocess.run([*APPTAINER, "build", str(image), str(root)], capture_output=True, check=True)
    shutil.copy(image, other)
    new = [
        "key",
        "newpair",
        "--name",
        "Builder",
        "--email",
        "b@example.org",
        "--comment",
        "test",
        "--password",
        "",
        "--push=false",
    ]
    subprocess.run([*APPTAINER, *new], capture_output=True, check=True)
    listed = subprocess.run([*APPTAINER, "key", "list"], capture_output=True, text=True, check=True).stdout
    fingerprint = next(line.split()[-1] for line in listed.splitlines() if "Fingerprint:" in line)
    subprocess.run([*APPTAINER, "sign", str(image)], capture_output=True, check=True)
    site = Site(name="signed", image_fingerprint=fingerprint, apptainer=APPTAINER)
    verify(image, site)
    with pytest.raises(ConfigError, match="expected an image signed by"):
        verify(other, site)
    with pytest.raises(ConfigError, match=f"signed by {fingerprint}"):
        verify(image, site.model_copy(update={"image_fingerprint": "AB" * 20}))
    inside_the_file_system = image.read_bytes().index(b"hsqs") + 8
    with image.open("r+b") as handle:
        handle.seek(inside_the_file_system)
        handle.write(b"date")
    with pytest.raises(ConfigError, match="expected an image signed by"):
        verify(image, site)
