"""A funnel with a measurement of each of its effects, centred and not, with little noise and much."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

VARIANTS = {
    "centred": {"CENTRED": True, "NOISE": 1.0},
    "not_centred": {"CENTRED": False, "NOISE": 1.0},
    "centred_exact": {"CENTRED": True, "NOISE": 0.1},
    "not_centred_exact": {"CENTRED": False, "NOISE": 0.1},
}
CENTRED = True
NOISE = 1.0
EFFECTS = 5
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    v = numpyro.sample("v", dist.Normal(0.0, 1.5))
    scale = jnp.exp(v / 2)
    u = numpyro.sample("u", dist.Normal(0.0, scale if CENTRED else 1.0).expand([EFFECTS]).to_event(1))
    numpyro.sample("y", dist.Normal((u if CENTRED else scale * u) + 0.0 * x, NOISE), obs=y)


def dataset(rng):
    u = np.exp(rng.normal(0, 1.5) / 2) * rng.standard_normal(EFFECTS)
    return {"x": np.zeros(EFFECTS), "y": u + NOISE * rng.standard_normal(EFFECTS)}


def exact(x, y):
    """The effects are normal given the spread, which has a grid."""
    from benchmarks.truth.exact import averaged, shares

    v = np.linspace(-12, 12, 24_001)
    total = np.exp(v) + NOISE**2
    share = shares(-0.5 * (v / 1.5) ** 2 - 0.5 * (y**2).sum() / total - 0.5 * len(y) * np.log(total))
    unit = 1.0 if CENTRED else np.exp(-v / 2)
    mean, variance = unit * np.exp(v) / total, unit**2 * np.exp(v) * NOISE**2 / total
    columns = np.column_stack([v, mean[:, None] * y])
    spreads = np.column_stack([np.zeros_like(v), np.repeat(variance[:, None], len(y), axis=1)])
    return averaged(("v", *(f"u[{k}]" for k in range(EFFECTS))), share, columns, spreads)
