"""The scripts that a user writes first: NumPyro or emcee in a loop over the worked example's files.

    python benchmarks/start_plain.py numpyro FOLDER
    python benchmarks/start_plain.py emcee FOLDER

FOLDER is what `jobs/gaussian_peak/make_data.py` wrote. Prints `verified` or `open` once a data set: by R-hat < 1.01,
ESS > 400 and no divergence (NumPyro: one MCMC object, 4 vectorised chains, 500 + 1,000 iterations), or by
N > 50 tau, ESS > 400 and R-hat < 1.01 between halves of the walkers (emcee: 30 walkers, 10,000 steps, a likelihood in
NumPy, walkers around the best of 1,024 prior draws). No search for other modes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LOW, HIGH = np.array([0.0, 0, 0, -1, 0]), np.array([2.0, 1, 1, 1, 1])
WALKERS, STEPS, BURN_IN = 30, 10_000, 2_000


def tables(folder: Path) -> Iterator[np.ndarray]:
    """Rows x, y and y_err of each data set."""
    for path in sorted(folder.glob("peak-*.csv")):
        yield np.loadtxt(path, delimiter=",", skiprows=1).T


def by_numpyro(folder: Path) -> Iterator[bool]:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.diagnostics import summary
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()

    def model(x: Any, y_err: Any, y: Any) -> None:
        limits = zip("lmsab", LOW, HIGH, strict=True)
        l, m, s, a, b = (numpyro.sample(name, dist.Uniform(*ends)) for name, *ends in limits)  # noqa: E741
        mu = l * jnp.exp(-((x - m) ** 2) / (2 * s**2)) + a + b * x
        numpyro.sample("obs", dist.Normal(mu, y_err), obs=y)

    mcmc = MCMC(
        NUTS(model),
        num_warmup=500,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )
    for k, (x, y, y_err) in enumerate(tables(folder)):
        mcmc.run(jax.random.key(k), x, y_err, y)
        figures = summary(mcmc.get_samples(group_by_chain=True)).values()
        good = all(each["r_hat"] < 1.01 and each["n_eff"] > 400 for each in figures)
        yield good and not mcmc.get_extra_fields()["diverging"].any()


def by_emcee(folder: Path) -> Iterator[bool]:
    import emcee

    def log_density(theta: np.ndarray, x: np.ndarray, y: np.ndarray, y_err: np.ndarray) -> float:
        if np.any(theta <= LOW) or np.any(theta >= HIGH):
            return -np.inf
        l, m, s, a, b = theta  # noqa: E741
        mu = l * np.exp(-((x - m) ** 2) / (2 * s**2)) + a + b * x
        return float(-0.5 * np.sum(((y - mu) / y_err) ** 2))

    rng = np.random.default_rng(0)
    for data in tables(folder):
        draws = rng.uniform(LOW, HIGH, (1024, 5))
        best = draws[np.argmax([log_density(theta, *data) for theta in draws])]
        start = np.clip(best + 1e-3 * rng.standard_normal((WALKERS, 5)), LOW + 1e-6, HIGH - 1e-6)
        sampler = emcee.EnsembleSampler(WALKERS, 5, log_density, args=tuple(data))
        sampler.run_mcmc(start, STEPS)
        chain = sampler.get_chain(discard=BURN_IN)
        tau = sampler.get_autocorr_time(discard=BURN_IN, tol=0).max()
        enough = len(chain) > 50 * tau and chain.shape[0] * chain.shape[1] / tau > 400
        yield bool(enough) and between_halves(chain) < 1.01


def between_halves(chain: np.ndarray) -> float:
    """R-hat of the worst parameter between the two halves of the walkers of a chain ``(step, walker, 5)``."""
    halves = np.stack(np.split(chain, 2, axis=1)).reshape(2, -1, chain.shape[2])
    within, means = halves.var(axis=1, ddof=1).mean(axis=0), halves.mean(axis=1)
    return float(np.sqrt(1 + means.var(axis=0, ddof=1) / within).max())


def main() -> None:
    way, folder = sys.argv[1:]
    for good in {"numpyro": by_numpyro, "emcee": by_emcee}[way](Path(folder)):
        print("verified" if good else "open", flush=True)


if __name__ == "__main__":
    main()
