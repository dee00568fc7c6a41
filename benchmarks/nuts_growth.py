"""How the cost of NUTS grows: with data sets, with points, with parameters; each row in a process of its own.

    make bench-nuts-growth     # a quarter of an hour; writes build/bench-nuts-growth.json

Data sets and points: visible peaks under the broad prior. Parameters: a linear model with normal errors and a normal
prior, whose posterior is known; the last column is the largest error of a posterior mean, in exact sds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import nuts as bench  # noqa: E402 (the folder of the project comes first)

ROWS = (
    *(("sets", count) for count in (64, 512, 4096)),
    *(("points", count) for count in (20, 200, 2000)),
    *(("parameters", count) for count in (2, 5, 10, 20, 50)),
)
FEW = 64
"""Data sets where something else grows."""


def linear(parameters: int) -> tuple[Any, Any, Any]:
    """A problem of so many parameters, its data sets, and exact posterior means and sds ``(dataset, parameter)``."""
    import jax.numpy as jnp
    import numpy as np
    import numpyro
    import numpyro.distributions as dist

    from chainsweep.data.collection import Batch
    from chainsweep.model.load import example_observation
    from chainsweep.model.problem import Problem
    from chainsweep.model.trace import trace_structure

    def design(x: Any) -> Any:
        return jnp.stack([jnp.cos(np.pi * k * x) for k in range(parameters)], axis=-1)

    def model(x: Any, y_err: Any, y: Any = None) -> None:
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([parameters]).to_event(1))
        numpyro.sample("obs", dist.Normal(design(x) @ theta, y_err), obs=y)

    rng = np.random.default_rng(3)
    points = 2 * parameters + 20
    x, y_err = rng.uniform(0, 1, (FEW, points)), rng.uniform(0.2, 0.5, (FEW, points))
    matrix = np.asarray(design(x))
    y = np.einsum("dpk,dk->dp", matrix, rng.standard_normal((FEW, parameters))) + y_err * rng.standard_normal(x.shape)
    precision = np.einsum("dpk,dp,dpl->dkl", matrix, y_err**-2, matrix) + np.eye(parameters)
    covariance = np.linalg.inv(precision)
    mean = np.einsum("dkl,dpl,dp->dk", covariance, matrix, y / y_err**2)
    fields = {"x": x, "y_err": y_err, "y": y}
    example = example_observation({n: v[0] for n, v in fields.items()}, {})
    problem = Problem(model, trace_structure(model, Path("model.py"), example, ("y",)), ("y",))
    batch = Batch(tuple(f"linear-{k}" for k in range(FEW)), fields, {}, np.ones(x.shape, bool))
    return problem, batch, (mean, np.sqrt(np.einsum("dkk->dk", covariance)))


def measure(what: str, count: int) -> dict[str, Any]:
    """One row, in this process."""
    import numpy as np

    from chainsweep.machine.compiling import watch

    began, clock, exact = time.perf_counter(), watch(), None
    if what == "parameters":
        problem, batch, exact = linear(count)
    else:
        batch = bench.peaks("visible", *((count,) if what == "sets" else (FEW, count)))
        problem = bench.model("visible")
    columns, mean, _, _ = bench.engine(problem, batch, 256)
    seconds = time.perf_counter() - began
    error = float("nan") if exact is None else float(np.abs((mean - exact[0]) / exact[1]).max())
    return {
        "what": what,
        "count": count,
        "datasets": len(batch),
        "seconds": seconds,
        "compile_seconds": clock.now().seconds,
        "converged": float(np.mean(columns["verdict"] == "converged")),
        "worst_mean": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted({what for what, _ in ROWS}))
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-nuts-growth.json")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options.row[0], int(options.row[1]))))
        return
    rows = []
    print("| | sets | converged | seconds | of them compiling | ms a set beyond | worst mean, sd |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for what, count in ROWS:
        if options.only and what not in options.only:
            continue
        row = bench.answer_of([__file__, "--row", what, str(count)])
        rows.append(row)
        beyond = 1000 * (row["seconds"] - row["compile_seconds"]) / row["datasets"]
        numbers = f"{row['seconds']:.0f} | {row['compile_seconds']:.0f} | {beyond:.0f} | {row['worst_mean']:.2f}"
        print(f"| {count:,} {what} | {row['datasets']:,} | {row['converged']:.0%} | {numbers} |", flush=True)
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
