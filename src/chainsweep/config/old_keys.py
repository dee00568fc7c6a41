"""The keys of an older ``campaign.toml``, each with what took its place."""

from __future__ import annotations


def _until(table: str, work: str, **limits: str) -> dict[str, str]:
    return {
        f"engines.{table}.{key}": f"[engines.{table}] {key} is gone: {work} until [verdict] {limit} is met; "
        "set that instead"
        for key, limit in limits.items()
    }


def _moved(table: str, *keys: str) -> dict[str, str]:
    home = f"[engines.{table}.tuning]"
    return {f"engines.{table}.{key}": f"[engines.{table}] {key} has moved to {home}" for key in keys}


OLD_KEYS: dict[str, str] = {
    **_until("emcee", "sampling continues", target_rhat="rhat", target_ess="ess", tau_factor="tau"),
    **_until("nuts", "sampling continues", target_rhat="rhat", target_ess="ess", target_divergences="divergences"),
    **_until("snpe", "the draws are adapted", target_ess="ess", target_khat="khat"),
    **_moved("emcee", "moves", "check_every", "stack"),
    **_moved("nuts", "hmc_steps", "jumps", "lanes", "target_accept", "max_tree_depth", "dense_mass"),
    **_moved("nuts", "attempts", "block", "prior_draws", "descents"),
    **_moved("snpe", "batch", "learning_rate", "jitter", "stop_after", "autoregressive", "points", "mixed_precision"),
    **_moved("snpe", "adaptive_rounds", "round_steps", "simulations_per_task"),
    **_moved("snpe", "grid", "embedding", "hidden", "transforms"),
}
"""The sentence on each key, by its path, that an error tells whoever sets the key."""
