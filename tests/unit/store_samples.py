"""Small shards that several tests of the store write and read."""

from pathlib import Path

import numpy as np

from chainsweep.store.layout import Provenance
from chainsweep.store.shard import Shard, ShardHeader, publish_shard

CAMPAIGN = "c0ffee"


def make_shard(
    number: int = 0,
    ids: tuple[str, ...] = ("a", "b", "c"),
    *,
    engine: str = "nuts",
    chains: int = 2,
    draws: int = 6,
    weighted: bool = False,
) -> Shard:
    """A shard of scalar ``slope``, ``l`` and vector ``theta`` (2), whose last data set has half the draws."""
    rng = np.random.default_rng(number)
    lead = (len(ids), chains, draws)
    posterior = {
        "slope": rng.normal(size=lead),
        "l": rng.normal(size=lead),
        "theta": rng.normal(size=(*lead, 2)),
    }
    stats = {
        "lp": rng.normal(size=lead),
        "diverging": rng.random(lead) < 0.2,
        "depth": rng.integers(1, 8, lead),
    }
    n_draws = np.full(len(ids), draws)
    n_draws[-1] = draws // 2
    for array in (*posterior.values(), stats["lp"]):
        array[-1, :, draws // 2 :] = np.nan
    if weighted:
        stats["log_weight"] = rng.normal(size=lead)
    summary = {
        "verdict": ["converged"] * len(ids),
        "reason": [""] * len(ids),
        "mean_l": posterior["l"][:, 0, 0] if draws else np.full(len(ids), np.nan),
        "divergences": stats["diverging"].sum(axis=(1, 2)),
        "khat": np.full(len(ids), np.nan),
    }
    kind = "weighted" if weighted else "markov"
    provenance: Provenance = {"numpy": "2", "seconds": 1.25, "gpu": False, "threads": 3}
    header = ShardHeader(engine, kind, number, CAMPAIGN, 1, provenance)
    return Shard(header, ids, posterior, stats, n_draws, summary)


def publish_sample(folder: Path, shard: Shard) -> Path:
    """Publish a shard under its number."""
    path = folder / shard.header.engine / f"{shard.header.shard}.h5"
    publish_shard(path, shard)
    return path
