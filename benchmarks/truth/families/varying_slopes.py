"""Lines of three groups, whose offsets and slopes vary around common ones."""

import numpy as np
import numpyro
import numpyro.distributions as dist

GROUPS, EACH, NOISE = 3, 6, 0.5
GROUP = np.repeat(np.arange(GROUPS), EACH)
ENGINES = ("nuts", "emcee")


def model(x, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with numpyro.plate("group", GROUPS):
        a = numpyro.sample("a", dist.Normal(mean[0], spread[0]))
        b = numpyro.sample("b", dist.Normal(mean[1], spread[1]))
    numpyro.sample("y", dist.Normal(a[GROUP] + b[GROUP] * x, NOISE), obs=y)


def dataset(rng):
    x = np.tile(np.linspace(-1, 1, EACH), GROUPS)
    a, b = (rng.normal(0, 2) + np.abs(rng.normal()) * rng.standard_normal(GROUPS) for _ in range(2))
    return {"x": x, "y": a[GROUP] + b[GROUP] * x + NOISE * rng.standard_normal(len(x))}


def exact(x, y):
    """All but the spreads is normal, and the spreads have a grid."""
    from benchmarks.truth.exact import averaged, normals, on_grid

    member = np.eye(GROUPS)[GROUP]
    design = np.column_stack([np.zeros((len(x), 2)), member, member * x[:, None]])
    # Columns: both means, the offsets, and the slopes, each of which is its mean and an amount of its own.
    own = [np.r_[1.0, 0.0, np.ones(GROUPS), np.zeros(GROUPS)], np.r_[0.0, 1.0, np.zeros(GROUPS), np.ones(GROUPS)]]

    def given(spread):
        prior = 4.0 * sum(np.outer(each, each) for each in own) + np.zeros((len(spread), 1, 1))
        for k in range(2):
            places = 2 + GROUPS * k + np.arange(GROUPS)
            prior[:, places, places] += np.maximum(spread[:, [k]], 1e-5) ** 2
        return normals(np.broadcast_to(design, (len(spread), *design.shape)), y, NOISE, prior)

    grid = on_grid(lambda spread: given(spread)[0] - 0.5 * (spread**2).sum(axis=1), [(0, 7)] * 2, cells=120)
    _, mean, variance = given(grid.centres)
    names = ("mean[0]", "mean[1]", *(f"{site}[{k}]" for site in "ab" for k in range(GROUPS)), "spread[0]", "spread[1]")
    none = np.zeros_like(grid.centres)
    return averaged(names, grid.share, np.hstack([mean, grid.centres]), np.hstack([variance, none]))
