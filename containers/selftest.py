"""What `apptainer test` runs: that the image is sealed, and that its engine finds a posterior known in closed form.

    python selftest.py PART ...      parts: emcee, nuts, snpe (engines), mpi, gpu

Two straight lines with known errors are fitted, under normal priors; mean and sd must be the exact ones.
"""

import os
import site
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

PREFIX = Path("/opt/chainsweep")
MODEL = """
import numpyro
import numpyro.distributions as dist

def model(x, y_err, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    mu = numpyro.deterministic("mu", a + b * x)
    numpyro.sample("y", dist.Normal(mu, y_err), obs=y)
"""
CONFIG = """
[campaign]
name = "selftest"
seed = 1

[model]
file = "model.py"
observed = ["y"]
curve = "mu"
x = "x"

[data]
source = "lines.npz"
fields = {{ x = "x", y = "y", y_err = "y_err" }}

[policy]
engines = ["{engine}"]

[report]
worst = 0

[engines.snpe]
train_steps = 200
"""
TOLERANCE = 0.25
"""Largest error of a mean, in posterior standard deviations, and of a standard deviation, relative."""


def check(what: str, good: bool, found: str = "") -> None:
    """Say what was found; stop at the first thing that is not as it must be."""
    print(f"{'ok ' if good else 'BAD'} {what}{': ' + found if found else ''}", flush=True)
    if not good:
        sys.exit(1)


def sealed() -> None:
    """Nothing of the user's own Python is seen, and nothing of the image can be written."""
    home = Path.home()
    strangers = [entry for entry in sys.path if entry and not entry.startswith((str(PREFIX), "/usr/lib/python3"))]
    check("no Python but the image's", not site.ENABLE_USER_SITE and not strangers, ", ".join(strangers))
    check(f"packages of {home} are not looked at", os.environ.get("PYTHONNOUSERSITE") == "1")
    try:
        (PREFIX / "written").write_text("")
    except OSError as error:
        check(f"read-only for user {os.getuid()}", True, error.strerror or "")
    else:
        (PREFIX / "written").unlink()
        check(f"read-only for user {os.getuid()}", False, f"{PREFIX} can be written")


def mpi() -> None:
    """Two ranks that this image's own launcher starts find each other."""
    program = (
        "import os; from chainsweep.run.mpi.ranks import start_mpi; "
        "os.write(1, b'size %d\\n' % start_mpi().COMM_WORLD.Get_size())"
    )
    launch = [str(PREFIX / "bin/mpiexec"), "-n", "2", sys.executable, "-c", program]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120, check=False)
    check("MPI: 2 ranks", done.stdout == "size 2\nsize 2\n", (done.stdout + done.stderr).strip().replace("\n", ", "))


def gpu() -> None:
    """Say which devices are seen. None is no error: an image is built and tested where there is no GPU."""
    import jax

    devices = ", ".join(f"{device.platform} {device.device_kind}" for device in jax.devices())
    check("JAX", True, f"{version('jax')} on {devices}")
    try:
        import torch
    except ModuleNotFoundError:
        return
    check("torch", True, f"{torch.__version__}, {torch.cuda.device_count()} GPUs")


def engine(name: str) -> None:
    """The exact posterior of two straight lines, from `init` to the catalogue."""
    import pandas as pd

    rng = np.random.default_rng(7)
    x = np.linspace(-1, 1, 20) * np.ones((2, 1))
    y_err = np.full(x.shape, 0.3)
    y = np.array([[0.5], [-1.0]]) + np.array([[1.0], [0.2]]) * x + y_err * rng.standard_normal(x.shape)
    with tempfile.TemporaryDirectory() as folder:
        job, campaign = Path(folder, "job"), Path(folder, "campaign")
        job.mkdir()
        (job / "model.py").write_text(MODEL)
        (job / "campaign.toml").write_text(CONFIG.format(engine=name))
        np.savez(job / "lines.npz", x=x, y=y, y_err=y_err)
        run("init", str(job / "campaign.toml"), "--out", str(campaign))
        if name == "snpe":
            run("task", str(campaign), "train", "0")
        run("task", str(campaign), "infer", "0")
        run("merge", str(campaign))
        found = pd.read_parquet(campaign / "catalogue.parquet")
    worst = 0.0
    for row in range(2):
        design = np.stack([np.ones(20), x[row]], 1) / 0.3
        covariance = np.linalg.inv(design.T @ design + np.eye(2) / 4)
        mean, sd = covariance @ design.T @ (y[row] / 0.3), np.sqrt(np.diag(covariance))
        means, sds = (found.loc[row, [f"{what}_a", f"{what}_b"]].to_numpy(float) for what in ("mean", "sd"))
        worst = max(worst, *np.abs(means - mean) / sd, *np.abs(sds / sd - 1))
    verdicts = ", ".join(found["verdict"])
    good = set(found["verdict"]) == {"converged"} and worst < TOLERANCE
    check(f"engine {name}", good, f"{verdicts}; largest error {worst:.2f} of {TOLERANCE} sd")


def run(*arguments: str) -> None:
    """One chainsweep command; its output is shown where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "chainsweep", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        check(f"chainsweep {arguments[0]}", False, f"exit code {done.returncode}\n{done.stdout}")


if __name__ == "__main__":
    sealed()
    print(f"   chainsweep {version('chainsweep')}, Python {sys.version.split()[0]}", flush=True)
    for part in sys.argv[1:]:
        {"mpi": mpi, "gpu": gpu}.get(part, lambda part=part: engine(part))()
