"""A second look at exact posteriors: draws of the prior, weighted by the likelihood as NumPyro has it.

    python -m benchmarks.truth.by_prior softmax banana

The errors are to be no larger than chance leaves them. Where the data say much, few draws count, and that is large.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, trace

from benchmarks.truth.answers import columns_of, errors
from benchmarks.truth.cases import case_names, datasets_of, load

BLOCK, BLOCKS = 20_000, 50


def checked(name: str, number: int) -> str:
    """A line with the errors of a case's exact posterior of a data set, and what chance leaves of them."""
    fields = datasets_of(name, number + 1)[number]
    model, exact = load(name).model, load(name).exact(**fields)

    def drawn(key):
        sites = [site for site in trace(seed(model, key)).get_trace(**fields).values() if site["type"] == "sample"]
        likelihood = sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in sites if site["is_observed"])
        return likelihood, {site["name"]: site["value"] for site in sites if not site["is_observed"]}

    block = jax.jit(jax.vmap(drawn))
    blocks = [block(jax.random.split(jax.random.key(turn), BLOCK)) for turn in range(BLOCKS)]
    logs = np.concatenate([np.asarray(likelihood) for likelihood, _ in blocks])
    draws = {site: np.concatenate([np.asarray(values[site]) for _, values in blocks]) for site in blocks[0][1]}
    weights = np.exp(np.where(np.isfinite(logs), logs - np.nanmax(logs), -np.inf))
    weights /= weights.sum()
    mean, sd = {}, {}
    for column, values in columns_of(draws):
        mean[column] = weights @ values
        sd[column] = np.sqrt(weights @ (values - mean[column]) ** 2)
    off, ratio, share = errors(exact, mean, sd, draws, weights)
    chance = np.sqrt(weights @ weights)
    return f"{name} {number}: mean {off:.3f} sds, sd {ratio:.1%}, share of a mode {share:.3f}; by chance {chance:.3f}"


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="+", choices=[name for name in case_names() if hasattr(load(name), "model")])
    for chosen in parser.parse_args().only:
        print(*(checked(chosen, number) for number in range(2)), sep="\n", flush=True)
