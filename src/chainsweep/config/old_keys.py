"""The keys of an older ``campaign.toml``, each with what took its place."""

from __future__ import annotations


def _moved(table: str, *keys: str) -> dict[str, str]:
    home = f"[engines.{table}.tuning]"
    return {f"engines.{table}.{key}": f"[engines.{table}] {key} has moved to {home}" for key in keys}


OLD_KEYS: dict[str, str] = {
    **_moved("emcee", "moves", "check_every", "stack"),
    **_moved("nuts", "hmc_steps", "jumps", "lanes", "target_accept", "max_tree_depth", "dense_mass"),
    **_moved("nuts", "attempts", "block", "prior_draws", "descents"),
    **_moved("snpe", "batch", "learning_rate", "jitter", "stop_after", "autoregressive", "points", "mixed_precision"),
    **_moved("snpe", "adaptive_rounds", "round_steps", "simulations_per_task"),
    **_moved("snpe", "grid", "embedding", "hidden", "transforms"),
}
"""The sentence on each key, by its path, that an error tells whoever sets the key."""
