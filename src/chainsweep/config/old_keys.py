"""The keys of an older ``campaign.toml``, each with what took its place."""

from __future__ import annotations


def _gone(table: str, key: str, instead: str) -> dict[str, str]:
    return {f"engines.{table}.{key}": f"[engines.{table}] {key} is gone: {instead}"}


def _until(table: str, work: str, **limits: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, limit in limits.items():
        found |= _gone(table, key, f"{work} until [verdict] {limit} is met; set that instead")
    return found


def _moved(table: str, *keys: str) -> dict[str, str]:
    home = f"[engines.{table}.tuning]"
    return {f"engines.{table}.{key}": f"[engines.{table}] {key} has moved to {home}" for key in keys}


THINNED = (
    "what an ensemble returns is thinned to a fixed number of draws, and [store] max_draws says how many of a data set "
    "are kept; leave it out"
)

OLD_KEYS: dict[str, str] = {
    **_until("emcee", "sampling continues", target_rhat="rhat", target_ess="ess", tau_factor="tau"),
    **_until("nuts", "sampling continues", target_rhat="rhat", target_ess="ess", target_divergences="divergences"),
    **_until("snpe", "the draws are adapted", target_ess="ess", target_khat="khat"),
    **_gone("emcee", "max_draws_per_chain", THINNED),
    **_gone("snpe", "checkpoint_steps", "the program chooses how often the state of a training is saved; leave it out"),
    **_gone("snpe", "threads", "one thread computes, so that sums have the same last bits everywhere; leave it out"),
    **_moved("emcee", "moves", "check_every", "stack"),
    **_moved("nuts", "hmc_steps", "jumps", "lanes", "target_accept", "max_tree_depth", "dense_mass"),
    **_moved("nuts", "attempts", "block", "prior_draws", "descents"),
    **_moved("snpe", "batch", "learning_rate", "jitter", "stop_after", "autoregressive", "points", "mixed_precision"),
    **_moved("snpe", "adaptive_rounds", "round_steps", "simulations_per_task"),
    **_moved("snpe", "grid", "embedding", "hidden", "transforms"),
}
"""The sentence on each key, by its path, that an error tells whoever sets the key."""
