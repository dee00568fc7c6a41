"""How many programs JAX compiles for the worked example: each once, and none for a second batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from chainsweep.campaign.freeze import init_campaign
from chainsweep.stages.infer import judged_shard, sample
from chainsweep.tasks.attempt import ProgressSink
from tests.conftest import ROOT

CONFIG = """
[model]
file = "model.py"
function = "narrow"
observed = ["y"]
curve = "mu"
x = "x"

[data]
source = "data.npz"
fields = { x = "x", y = "y", y_err = "y_err" }

[engines.nuts]
warmup = 100
draws = 100

[engines.nuts.tuning]
attempts = 1
prior_draws = 1024

[engines.emcee]
max_steps = 400
prior_draws = 1024

[shards]
size = 4
"""
COMPILED = "/jax/core/compile/backend_compile_duration"
AT_MOST = {"nuts": 17, "emcee": 16}


def peaks(datasets: int, points: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(0, 1, (datasets, points)), axis=1)
    y_err = rng.uniform(0.05, 0.15, x.shape)
    peak = np.exp(-0.5 * ((x - 0.5) / 0.1) ** 2) - 0.1 + 0.4 * x
    return {"x": x, "y": peak + y_err * rng.standard_normal(x.shape), "y_err": y_err}


@pytest.fixture
def compiled() -> Iterator[Counter[str]]:
    """Programs that XLA was asked for since the test began, by name."""
    seen: Counter[str] = Counter()

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        if event == COMPILED:
            seen[str(about.get("fun_name"))] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("engine", ["nuts", "emcee"])
def test_each_program_is_compiled_once_whatever_the_batch(engine, write_job, compiled, tmp_path):
    model = (ROOT / "jobs" / "gaussian_peak" / "model.py").read_text()
    path = write_job(
        model=model, config=f'[campaign]\nname = "p"\n[policy]\nengines = ["{engine}"]\n{CONFIG}', data=peaks(7)
    )
    campaign = init_campaign(path, tmp_path / "frozen")

    def run(shard: int) -> Counter[str]:
        compiled.clear()
        batch = campaign.batch(shard)
        outcome = sample(campaign, engine, batch, ProgressSink(lambda *_: None), None, lambda: False)
        assert outcome.chains is not None
        judged_shard(campaign, batch, engine, shard, 1, outcome.chains)
        return compiled.copy()

    jax.clear_caches()
    first = run(0)
    assert max(first.values()) == 1, first
    assert 8 < sum(first.values()) <= AT_MOST[engine], first
    assert not run(1), "a batch of another size compiles nothing"
