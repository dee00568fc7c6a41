"""Bad input gets an error that says what was expected, what came, where and what to do; and the right exit code."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from chainsweep.cli import main
from tests.conftest import LINE_CONFIG, LINE_MODEL, line_data

BLACK_BOX_CONFIG = LINE_CONFIG.replace('curve = "mu"\nx = "x"\n', "")
PRIOR = "import numpyro.distributions as dist\nprior = {'a': dist.Normal(0, 2), 'b': dist.Normal(0, 2)}\n"


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process; returns exit code, output and errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["chainsweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def refused(run, path: Path, *expected: str, code: int = 65) -> None:
    out = path.parent / "out"
    found, _, error = run("init", path, "--out", out)
    assert found == code, error
    for text in expected:
        assert text in error.replace("\n", " ")
    assert not out.exists()
    assert not list(path.parent.glob(".out*"))


MODELS = {
    "raises when loaded": ("raise RuntimeError('no luck')", ["raised while it was loaded", "no luck", "line 1"]),
    "syntax": ("def model(:\n", ["SyntaxError", "line 1"]),
    "no model": ("x = 1\n", ["neither a NumPyro model function 'model'", "'prior'"]),
    "raises when run": (
        LINE_MODEL.replace("a + b * x", "a + b * x.no_such"),
        ["raised when it was run", "no_such", "line 8"],
    ),
    "no observed site": (LINE_MODEL.replace(", obs=y", ""), ["no observed site", "obs=y"]),
    "no latent site": (
        "import numpyro, numpyro.distributions as dist\n"
        "def model(x, y_err, y=None):\n    numpyro.sample('obs', dist.Normal(x, y_err), obs=y)\n",
        ["no latent"],
    ),
    "discrete": (
        LINE_MODEL.replace("dist.Normal(0, 2))\n    mu", "dist.Poisson(3.0))\n    mu"),
        ["latent site 'b' is discrete", "Poisson"],
    ),
    "shape of points": (
        LINE_MODEL.replace('"b", dist.Normal(0, 2)', '"b", dist.Normal(0, 2).expand([x.shape[0]])'),
        ["latent site 'b'", "depends on the number of points"],
    ),
    "missing argument": (LINE_MODEL.replace("y_err, y=None", "sigma, y=None"), ["takes no argument 'y_err'"]),
    "extra argument": (LINE_MODEL.replace("y_err, y=None", "y_err, z, y=None"), ["needs argument 'z'"]),
    "observed has no default": (
        LINE_MODEL.replace("y=None", "y"),
        ["observed argument 'y' must default to None"],
    ),
    "observed is transformed": (LINE_MODEL.replace("obs=y", "obs=None if y is None else 2 * y + 1"), ["unchanged"]),
    "no such curve": (LINE_MODEL.replace('"mu", a', '"nu", a'), ["curve = 'mu'", "deterministic sites: nu"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_used(run, write_job, case):
    model, expected = MODELS[case]
    refused(run, write_job(model=model), "model.py", *expected)


@pytest.mark.parametrize(
    ("functions", "engine", "expected"),
    [
        ("def simulate(params, rng, **design): return design['x']\n", "emcee", "log_likelihood(params, **fields)"),
        ("def simulate(params, rng, **design): return design['x']\n", "nuts", "NumPyro model"),
        ("def log_likelihood(params, **fields): return 0.0\n", "snpe", "simulate(params, rng, **design)"),
        ("", "emcee", "'log_likelihood' and / or 'simulate'"),
    ],
)
def test_an_engine_that_the_model_cannot_serve(run, write_job, functions, engine, expected):
    config = BLACK_BOX_CONFIG + f'[policy]\nengines = ["{engine}"]\n'
    refused(run, write_job(model=PRIOR + functions, config=config), expected)


def test_a_simplex_is_not_for_emcee(run, write_job):
    model = LINE_MODEL.replace(
        'b = numpyro.sample("b", dist.Normal(0, 2))',
        'b = numpyro.sample("b", dist.Dirichlet(__import__("jax").numpy.ones(3)))[0]',
    )
    refused(run, write_job(model=model), "simplex", "nuts")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[model]", "[modle]"), ["campaign.toml", "unknown key 'modle'", "valid keys"]),
        (("seed = 3", "sede = 3"), ["unknown key 'sede'", "table [campaign]", "name, seed"]),
        (('source = "data.npz"', 'source = "nowhere.npz"'), ["nowhere.npz"]),
        (('y_err = "y_err"', 'y_err = "sigma"'), ["data.npz", "sigma", "'x', 'y', 'y_err'"]),
        (('file = "model.py"', 'file = "other.py"'), ["other.py", "no such file"]),
        (('observed = ["y"]', 'observed = ["z"]'), ["'z'", "fields"]),
    ],
)
def test_configurations_that_cannot_be_used(run, write_job, change, expected):
    refused(run, write_job(config=LINE_CONFIG.replace(*change)), *expected)


def test_sequential_snpe_serves_one_data_set(run, write_job):
    config = LINE_CONFIG + '[engines.snpe]\nmode = "sequential"\n'
    refused(run, write_job(config=config), "sequential", "one data set", "6")


def test_nothing_usable_is_65_and_counts_the_reasons(run, write_job):
    data = line_data(4)
    data["y_err"][:2] = -1.0
    data["y"][2:, 3] = np.nan
    refused(run, write_job(data=data), "non_positive", "nan")


def test_an_existing_folder_is_never_overwritten(run, write_job, tmp_path):
    target = tmp_path / "there"
    target.mkdir()
    code, _, error = run("init", write_job(), "--out", target)
    assert code == 2
    assert "never overwritten" in error
    assert not list(target.iterdir())


def test_no_campaign_here(run, tmp_path):
    for command in ("status", "run", "merge", "report"):
        code, _, error = run(command, tmp_path)
        assert code == 65
        assert "chainsweep init" in error


def test_steps_that_come_too_early(run, write_job, tmp_path):
    folder = tmp_path / "campaign"
    assert run("init", write_job(), "--out", folder)[0] == 0
    for arguments, code, text in [
        (("merge", folder), 75, "nothing to merge"),
        (("report", folder), 65, "merge"),
        (("export", folder, "--id", "000000", "--engine", "nuts", "--format", "netcdf", "--out", "x"), 65, "merge"),
        (("run", folder, "--engine", "gibbs"), 2, "emcee, nuts, snpe"),
        (("task", folder, "infer", "99"), 2, "3 tasks (0 to 2)"),
        (("task", folder, "cook", "0"), 2, "train, infer, merge, report"),
        (("task", folder, "infer", "2"), 75, "train"),
        (("show", folder, "nobody"), 65, "nobody"),
    ]:
        found, _, error = run(*arguments)
        assert found == code, error
        assert text in error.replace("\n", " ")


def test_every_bad_csv_data_set_is_set_aside_with_file_row_and_reason(run, write_job, tmp_path):
    path = write_job(config=LINE_CONFIG.replace('"data.npz"', '"windows"\nmanifest = "manifest.csv"'))
    windows = path.parent / "windows"
    windows.mkdir()
    good = "x,y,y_err\n0,1,0.1\n1,2,0.1\n2,3,0.1\n3,4,0.1\n"
    files = {
        "good": good,
        "nan": good.replace("1,2,0.1", "1,nan,0.1"),
        "negative": good.replace("2,3,0.1", "2,3,-0.1"),
        "short": "x,y,y_err\n0,1,0.1\n1,2,0.1\n",
        "words": good.replace("3,4,0.1", "3,four,0.1"),
        "columns": good.replace("y_err", "sigma"),
        "ragged": good.replace("1,2,0.1", "1,2"),
        "binary": "\0\1\2",
    }
    for name, content in files.items():
        (windows / f"{name}.csv").write_text(content)
    rows = [(name, f"{name}.csv") for name in files]
    rows += [("good", "good.csv"), ("../up", "good.csv"), ("gone", "gone.csv"), ("outside", "../../model.py")]
    with (windows / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("id", "file"), *rows])
    code, out, error = run("init", path, "--out", tmp_path / "campaign", "--json")
    assert code == 0, error
    assert json.loads(out)["datasets"] == 1
    assert json.loads(out)["quarantined"] == len(rows) - 1
    with (tmp_path / "campaign" / "quarantine.csv").open() as handle:
        found = {(row["dataset_id"], row["reason"]): row for row in csv.DictReader(handle)}
    for key, row in {
        ("nan", "nan"): "3",
        ("negative", "non_positive_error"): "4",
        ("short", "too_few_points"): None,
        ("words", "not_a_number"): "5",
        ("columns", "missing_column"): None,
        ("good", "duplicate_id"): "10",
        ("../up", "unsafe_id"): "11",
        ("gone", "unreadable"): None,
        ("outside", "unsafe_file"): None,
    }.items():
        assert key in found, found.keys()
        assert found[key]["file"]
        assert found[key]["detail"]
        if row is not None:
            assert found[key]["row"] == row
    assert {key[0] for key in found} >= {"ragged", "binary"}
