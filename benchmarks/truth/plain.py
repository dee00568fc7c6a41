"""Plain NumPyro NUTS and plain emcee, one data set after the other, with the diagnostics that their users look at.

    python -m benchmarks.truth.plain CASE DATASETS     # prints the answers as JSON

A process of its own for each case, since NumPyro traces one model at a time in a process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import emcee
import jax
import numpy as np
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

from benchmarks.truth.answers import Answer, columns_of, errors
from benchmarks.truth.cases import datasets_of, load
from benchmarks.truth.exact import Exact

WARMUP, DRAWS, CHAINS = 500, 1000, 4
STEPS, BURN_IN = 5000, 2000
RHAT, ESS, TAU = 1.01, 400.0, 50.0
"""The limits that a user applies: the defaults of `[verdict]`."""


def plain_answers(name: str, sets: Sequence[Mapping[str, np.ndarray]], exacts: Sequence[Exact]) -> list[Answer]:
    """The answers of both scripts, or of emcee alone for a black box."""
    if not hasattr(load(name), "model"):
        return list(_emcee_of_black_box(name, sets, exacts))
    return [*_nuts(name, sets, exacts), *_emcee(name, sets, exacts)]


def _nuts(name: str, sets: Sequence[Mapping[str, np.ndarray]], exacts: Sequence[Exact]) -> Iterator[Answer]:
    kernel = NUTS(load(name).model, dense_mass=True, target_accept_prob=0.9)
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )
    for number, fields in enumerate(sets):
        began = time.monotonic()
        mcmc.run(jax.random.key(number), **fields, extra_fields=("diverging",))
        draws = {site: np.asarray(values) for site, values in mcmc.get_samples(group_by_chain=True).items()}
        figures = summary(draws)
        good = all(np.all(f["r_hat"] < RHAT) and np.all(f["n_eff"] > ESS) for f in figures.values())
        good &= not np.any(mcmc.get_extra_fields()["diverging"])
        yield _judged(name, "plain NUTS", number, bool(good), draws, exacts[number], time.monotonic() - began)


def _emcee(name: str, sets: Sequence[Mapping[str, np.ndarray]], exacts: Sequence[Exact]) -> Iterator[Answer]:
    for number, fields in enumerate(sets):
        began = time.monotonic()
        info = initialize_model(jax.random.key(number), load(name).model, model_kwargs=dict(fields))
        flat, back = jax.flatten_util.ravel_pytree(info.param_info.z)
        log_density = jax.jit(jax.vmap(lambda z, info=info, back=back: -info.potential_fn(back(z))))
        walkers = max(32, 4 * flat.size)
        rng = np.random.default_rng(number)

        def finite(z, log_density=log_density):
            values = np.asarray(log_density(z))
            return np.where(np.isfinite(values), values, -np.inf)

        sampler = emcee.EnsembleSampler(walkers, flat.size, finite, vectorize=True)
        sampler.run_mcmc(np.asarray(flat) + 0.1 * rng.standard_normal((walkers, flat.size)), STEPS)
        good, kept = _verified(sampler)
        constrained = jax.vmap(lambda z, info=info, back=back: info.postprocess_fn(back(z)))(
            kept.reshape(-1, flat.size)
        )
        draws = {site: np.asarray(values)[None] for site, values in constrained.items()}
        yield _judged(name, "plain emcee", number, bool(good), draws, exacts[number], time.monotonic() - began)


def _emcee_of_black_box(
    name: str, sets: Sequence[Mapping[str, np.ndarray]], exacts: Sequence[Exact]
) -> Iterator[Answer]:
    """The answers for plain functions; where one raises, so does the script, and there is none."""
    prior, log_likelihood = load(name).prior, load(name).log_likelihood
    log_prior = jax.jit(
        lambda theta: sum(
            jax.numpy.where(each.support(theta[:, k]), each.log_prob(theta[:, k]), -jax.numpy.inf)
            for k, each in enumerate(prior.values())
        )
    )
    walkers = max(32, 4 * len(prior))
    for number, fields in enumerate(sets):
        began, count = time.monotonic(), 0

        def log_density(theta, fields=fields):
            nonlocal count
            logs = np.array(log_prior(theta))
            for row in np.flatnonzero(np.isfinite(logs)):
                logs[row] += log_likelihood(dict(zip(prior, theta[row], strict=True)), **fields)
                count += 1
            return np.where(np.isnan(logs), -np.inf, logs)

        keys = jax.random.split(jax.random.key(number), len(prior))
        start = np.stack([each.sample(key, (walkers,)) for key, each in zip(keys, prior.values(), strict=True)], axis=1)
        sampler = emcee.EnsembleSampler(walkers, len(prior), log_density, vectorize=True)
        try:
            sampler.run_mcmc(np.asarray(start, float), STEPS)
        except (ValueError, ArithmeticError) as error:
            seconds = time.monotonic() - began
            yield Answer(name, "plain emcee", number, False, np.nan, np.nan, np.nan, seconds, repr(error), count)
            continue
        good, kept = _verified(sampler)
        draws = {site: kept[None, ..., k].reshape(1, -1) for k, site in enumerate(prior)}
        seconds = time.monotonic() - began
        yield _judged(name, "plain emcee", number, bool(good), draws, exacts[number], seconds, count)


def _verified(sampler: emcee.EnsembleSampler) -> tuple[bool, np.ndarray]:
    """Return whether an ensemble passes the limits, and its draws after the burn-in."""
    tau = float(np.max(sampler.get_autocorr_time(discard=BURN_IN, quiet=True, tol=0)))
    good = TAU * tau < (STEPS - BURN_IN) and (STEPS - BURN_IN) * sampler.nwalkers / tau > ESS
    return good, sampler.get_chain(discard=BURN_IN)


def _judged(
    name: str,
    method: str,
    number: int,
    good: bool,
    draws: Mapping[str, np.ndarray],
    exact: Exact,
    seconds: float,
    calls: int | None = None,
) -> Answer:
    joined = {site: values.reshape(-1, *values.shape[2:]) for site, values in draws.items()}
    columns = {column: values for column, values in columns_of(joined) if column in exact.mean}
    mean = {column: float(values.mean()) for column, values in columns.items()}
    sd = {column: float(values.std()) for column, values in columns.items()}
    return Answer(name, method, number, good, *errors(exact, mean, sd, joined), seconds, calls=calls)


def main() -> None:
    """Print the answers to the first data sets of a case."""
    jax.config.update("jax_enable_x64", True)
    name, count = sys.argv[1], int(sys.argv[2])
    sets = datasets_of(name, count)
    found = plain_answers(name, sets, [load(name).exact(**fields) for fields in sets])
    print(json.dumps([asdict(answer) for answer in found]))


if __name__ == "__main__":
    main()
