"""Bad input gets an error that says what was expected, what came, where and what to do; and the right exit code."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from chainsweep.campaign.campaign import Campaign, campaign_hash
from chainsweep.campaign.freeze import init_campaign
from chainsweep.cli import main
from chainsweep.errors import ModelError
from chainsweep.model.batched import BatchedProblem
from chainsweep.model.reads import file_hash
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
    "fixed": (
        LINE_MODEL.replace('"b", dist.Normal(0, 2)', '"b", dist.Delta(1.0)'),
        ["latent site 'b' is fixed to a value (Delta)", "numpyro.deterministic"],
    ),
    "fixed vector": (
        LINE_MODEL.replace('"b", dist.Normal(0, 2)', '"b", dist.Delta(1.0).expand([2]).to_event(1)'),
        ["latent site 'b' is fixed to a value (Delta)"],
    ),
    "improper": (
        LINE_MODEL.replace('"b", dist.Normal(0, 2)', '"b", dist.ImproperUniform(dist.constraints.real, (), ())'),
        ["latent site 'b' has an improper prior", "dist.Normal(0, 100)"],
    ),
    "unwrapped circle": (
        "from numpyro.infer.reparam import CircularReparam\n"
        + LINE_MODEL.replace(
            "def model", '@numpyro.handlers.reparam(config={"b": CircularReparam()})\ndef model'
        ).replace('"b", dist.Normal(0, 2)', '"b", dist.VonMises(0, 2)'),
        ["CircularReparam unwraps 'b'", "leave the reparametrisation out"],
    ),
    "missing argument": (LINE_MODEL.replace("y_err, y=None", "sigma, y=None"), ["takes no argument 'y_err'"]),
    "extra argument": (
        LINE_MODEL.replace("y_err, y=None", "y_err, z, y=None"),
        ["no array 'z'", "'x', 'y', 'y_err'", "fields leaves out z"],
    ),
    "observed has no default": (
        LINE_MODEL.replace("y=None", "y"),
        ["observed argument 'y' must default to None"],
    ),
    "observed is transformed": (LINE_MODEL.replace("obs=y", "obs=None if y is None else 2 * y + 1"), ["unchanged"]),
    "no such curve": (LINE_MODEL.replace('"mu", a', '"nu", a'), ["curve = 'mu'", "deterministic sites: nu"]),
}


WITH_LIBRARIES = "import math\nimport numpy as np\nimport jax, jax.numpy as jnp\nKEPT = []\n" + LINE_MODEL


def with_mean(mean: str) -> str:
    return WITH_LIBRARIES.replace("a + b * x", mean)


def with_line(line: str) -> str:
    return WITH_LIBRARIES.replace("    mu =", f"    {line}\n    mu =")


MISTAKES = {
    "NumPy on a parameter": (with_mean("a + np.exp(b) * x"), "np.exp(b)", "jnp.exp"),
    "NumPy on data": (with_mean("a + b * np.exp(x)"), "np.exp(x)", "jnp.exp"),
    "NumPy's where": (with_mean("a + np.where(x > 0, b, 0)"), "np.where(x > 0", "jnp.where"),
    "functions of math": (with_mean("a + math.exp(b) * x"), "math.exp(b)", "jnp.exp"),
    "if": (with_line("if a > 1: a = 1.0"), "if a > 1", "jnp.where(condition"),
    "min": (with_mean("a + min(b, 1.0) * x"), "min(b, 1.0)", "jnp.minimum"),
    "float": (with_mean("a + b * x / float(x.max())"), "float(x.max())", "x.max() in place of float(x.max())"),
    "int": (with_mean("a + b * x * int(x.sum())"), "int(x.sum())", "Leave the value an array"),
    "range": (with_line("for k in range(jnp.sign(a).astype(int)): a = a + k"), "for k in range", "fori_loop"),
    "selected points": (with_mean("a + b * x[x > 0].sum()* x"), "x[x > 0].sum()", "Keep all points"),
    "kept from a call": (
        with_line("KEPT.append(a); a = a + 0 * KEPT[max(0, len(KEPT) - 4)]"),
        "KEPT.append(a)",
        "may keep nothing",
    ),
    "a helper that raises": (
        with_mean("a + helper(b) * x") + "\ndef helper(value):\n    return {}['scale'] * value\n",
        "return {}['scale'] * value",
        "KeyError: 'scale'",
    ),
    "an unknown keyword": (LINE_MODEL.replace("obs=y", "observed=y"), "observed=y", "unexpected keyword argument"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_model_is_told_with_its_line_and_what_to_write(run, write_job, case):
    model, line, advice = MISTAKES[case]
    path = write_job(model=model)
    number = next(n for n, text in enumerate(model.splitlines(), 1) if line in text)
    code, out, error = run("init", path, "--out", path.parent / "out")
    assert code == 65
    assert f"{path.parent / 'model.py'}: model 'model' raised" in error
    assert f"(line {number}: {model.splitlines()[number - 1].strip()})" in error
    assert advice in error
    assert len(error.splitlines()) == 1
    assert "bug" not in error
    assert "Traceback" not in out + error


def test_the_same_models_with_what_is_advised_are_taken(run, write_job, tmp_path):
    """The twin."""
    mean = (
        "jnp.minimum(a, 1.0) + jnp.where(x > 0, jnp.exp(b), 0.0) * x / x.max() + jnp.sum(x, where=x > 0) / x.shape[0]"
    )
    path = write_job(model=with_mean(mean))
    assert run("init", path, "--out", tmp_path / "out")[0] == 0


def test_what_cannot_be_differentiated_or_has_no_density_is_told(run, write_job):
    loop = "jax.lax.while_loop(lambda c: c < 3, lambda c: c + b ** 2 + 1, b)"
    refused(run, write_job(model=with_mean(f"a + {loop} * x")), "model.py", "differentiated", "while_loop")
    model = LINE_MODEL.replace("dist.Normal(mu, y_err)", "dist.Normal(mu[1:], y_err[1:])")
    refused(run, write_job(model=model), "model.py: site 'obs': Normal gives no log density", "(12,)")


def freeze_again(campaign: Campaign, text: str) -> None:
    """Put another model into a campaign, as if ``init`` had taken it."""
    campaign.paths.model.write_text(text)
    campaign.resolved["files"]["model.py"] = file_hash(campaign.paths.model)
    campaign.hash = campaign_hash(campaign.resolved)


def test_a_model_that_fails_later_is_told_too(write_job, tmp_path):
    """In a campaign that an earlier version took, say: the task says what the user wrote, and where."""
    campaign = init_campaign(write_job(), tmp_path / "out")
    text = with_mean("a + np.exp(b) * x")
    freeze_again(campaign, text)
    batched = BatchedProblem(campaign.problem, campaign.batch(0))
    number = next(n for n, line in enumerate(text.splitlines(), 1) if "np.exp" in line)
    with pytest.raises(ModelError, match=rf"out/model.py: .*\(line {number}: .*jnp.exp in place of np.exp"):
        batched.log_density(np.zeros((len(batched.batch), 1, 2)))


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_used(run, write_job, case):
    model, expected = MODELS[case]
    refused(run, write_job(model=model), "model.py", *expected)


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        ("dist.Delta(1.0)", "prior['b'] is fixed to a value"),
        ("dist.Poisson(2.0)", "prior['b'] is discrete"),
        ("2.0", "prior['b'] must be a continuous NumPyro distribution"),
    ],
)
def test_priors_of_a_black_box_that_cannot_be_sampled(run, write_job, prior, expected):
    model = PRIOR.replace("'b': dist.Normal(0, 2)", f"'b': {prior}") + "def log_likelihood(params, **f): return 0.0\n"
    config = BLACK_BOX_CONFIG + '[policy]\nengines = ["emcee"]\n'
    refused(run, write_job(model=model, config=config), "model.py", expected)


DECORATED = LINE_MODEL.replace(
    "def model(",
    "from numpyro.infer.reparam import LocScaleReparam\n"
    '@numpyro.handlers.reparam(config={"b": LocScaleReparam(0.0)})\ndef model(',
)


def test_a_model_may_be_decorated_with_effect_handlers(run, write_job, tmp_path):
    config = LINE_CONFIG + '[policy]\nengines = ["emcee", "nuts"]\n'
    path = write_job(model=DECORATED, config=config.replace('fields = { x = "x", y = "y", y_err = "y_err" }\n', ""))
    code, _, error = run("init", path, "--out", tmp_path / "out")
    assert code == 0, error
    campaign = Campaign(tmp_path / "out")
    assert campaign.parameter_names == ("a", "b_decentered")
    batched, data = BatchedProblem(campaign.problem, campaign.batch(0)), line_data(6)
    theta = np.array([[[0.3, 0.2], [1.0, -0.4]]]).repeat(6, 0)
    mean = theta[..., :1] + 2 * theta[..., 1:] * data["x"][:, None]
    misfit = -0.5 * np.sum(((data["y"][:, None] - mean) / data["y_err"][:, None]) ** 2, axis=-1)
    exact = misfit - theta[..., 0] ** 2 / 8 - theta[..., 1] ** 2 / 2
    found = batched.log_density(theta)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], exact[:, 1] - exact[:, 0], rtol=1e-9)
    refused(run, write_job(model=DECORATED.replace("b * x", "b * z"), config=config, name="wrong"), "model 'model'")


def test_a_parameter_a_point_needs_data_sets_of_one_length(run, write_job, tmp_path):
    model = LINE_MODEL.replace('"b", dist.Normal(0, 2)', '"b", dist.Normal(0, 2).expand([x.shape[0]])')
    data = line_data(3)
    data["x"][1, -2:] = data["y"][1, -2:] = data["y_err"][1, -2:] = np.nan
    refused(run, write_job(model=model, data=data), "latent site 'b'", "depends on the number of points", "12 and 10")
    assert run("init", write_job(model=model), "--out", tmp_path / "out")[0] == 0


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


def test_a_black_box_has_no_curve_and_its_x_is_a_field_too(run, write_job):
    functions = "def log_likelihood(params, x, y, y_err): return 0.0\n"
    emcee = '[policy]\nengines = ["emcee"]\n'
    refused(run, write_job(model=PRIOR + functions, config=LINE_CONFIG + emcee), "curve = 'mu'", "leave it out")
    config = LINE_CONFIG.replace('curve = "mu"\nx = "x"', 'x = "t"') + emcee
    refused(run, write_job(model=PRIOR + functions, config=config), "x = 't' is no argument", "x, y, y_err")


def test_a_simplex_of_a_black_box_is_not_for_emcee(run, write_job):
    prior = PRIOR.replace("dist.Normal(0, 2)}", "dist.Dirichlet(__import__('numpy').ones(3))}")
    functions = "def log_likelihood(params, x, y, y_err): return 0.0\n"
    config = BLACK_BOX_CONFIG + '[policy]\nengines = ["emcee"]\n'
    refused(run, write_job(model=prior + functions, config=config), "a simplex or a correlation matrix", "in 'prior'")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[model]", "[modle]"), ["campaign.toml", "unknown key 'modle'", "valid keys"]),
        (("seed = 3", "sede = 3"), ["unknown key 'sede'", "table [campaign]", "name, seed"]),
        (('source = "data.npz"', 'source = "nowhere.npz"'), ["nowhere.npz"]),
        (('y_err = "y_err"', 'y_err = "sigma"'), ["data.npz", "sigma", "'x', 'y', 'y_err'"]),
        (('file = "model.py"', 'file = "other.py"'), ["other.py", "no such file"]),
        (('observed = ["y"]', 'observed = ["z"]'), ["'z'", "fields"]),
        (('x = "x"\n', 'x = "wavelength"\n'), ["x = 'wavelength' is no argument", "x, y, y_err"]),
    ],
)
def test_configurations_that_cannot_be_used(run, write_job, change, expected):
    refused(run, write_job(config=LINE_CONFIG.replace(*change)), *expected)


NO_FIELDS = LINE_CONFIG.replace('fields = { x = "x", y = "y", y_err = "y_err" }\n', "")


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (LINE_MODEL, NO_FIELDS),
        (LINE_MODEL, NO_FIELDS + 'fields = { y = "y" }\n'),
        (PRIOR + "def log_likelihood(params, x, y, y_err): return 0.0\n", NO_FIELDS.replace('curve = "mu"\n', "")),
        (PRIOR + "def simulate(params, rng, x, y_err): return x\n", NO_FIELDS.replace('curve = "mu"\n', "")),
    ],
)
def test_fields_may_be_left_out_where_names_agree(run, write_job, tmp_path, model, config):
    engine = "snpe" if "simulate" in model else "emcee"
    path = write_job(model=model, config=config + f'[policy]\nengines = ["{engine}"]\n')
    code, _, error = run("init", path, "--out", tmp_path / "out")
    assert code == 0, error
    campaign = Campaign(tmp_path / "out")
    assert campaign.config.data.fields == {"x": "x", "y": "y", "y_err": "y_err"}
    assert set(campaign.dataset("000000")[0]) == {"x", "y", "y_err"}


def test_fields_left_out_where_names_do_not_say_enough(run, write_job):
    data = line_data(3)
    data["wavelength"] = data.pop("x")
    refused(run, write_job(config=NO_FIELDS, data=data), "no array 'x'", "'wavelength'", "leaves out x, y_err, y")
    maybe = LINE_MODEL.replace("y_err, y=None", "y_err=0.1, y=None")
    refused(run, write_job(config=NO_FIELDS, model=maybe), "argument 'y_err'", "has a default", "model.py")
    anything = PRIOR + "def log_likelihood(params, **fields): return 0.0\n"
    config = NO_FIELDS.replace('curve = "mu"\n', "") + '[policy]\nengines = ["emcee"]\n'
    refused(run, write_job(config=config, model=anything), "[data] fields is left out", "model.py")


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


def test_a_campaign_frozen_in_an_older_layout_is_refused(run, tmp_path):
    (tmp_path / "resolved.json").write_text(json.dumps({"schema": "chainsweep-campaign/1", "config": {}}))
    for command in ("status", "run", "merge", "report"):
        code, _, error = run(command, tmp_path)
        assert code == 65
        assert "use the chainsweep that made this campaign" in error.replace("\n", " ")


def test_an_old_key_ends_init_with_what_took_its_place(run, write_job, tmp_path):
    config = LINE_CONFIG + "[engines.nuts]\ntarget_ess = 900\nlanes = 4\n"
    code, _, error = run("init", write_job(config=config), "--out", tmp_path / "out")
    assert code == 65
    for text in ("until [verdict] ess is met; set that instead", "lanes has moved to [engines.nuts.tuning]"):
        assert text in error.replace("\n", " ")


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
