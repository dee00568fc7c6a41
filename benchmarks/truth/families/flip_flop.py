"""A drug that is absorbed and eliminated: with the two rates exchanged the curve is the same, in another volume.

Times and dose are those of theophylline, and so is the prior, which is wide. The absorption rate is left out of what
is compared: a ten-thousandth of its mass makes most of its variance. Its mode, which is compared, says enough of it.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

TIMES, DOSE = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 24.0]), 4.5
CENTRES = np.log([1.0, 0.04, 0.5])
ENGINES = ("nuts", "emcee")

DATASETS = 2


def model(time, y=None):
    ka = numpyro.sample("ka", dist.LogNormal(CENTRES[0], 2.0))
    cl = numpyro.sample("cl", dist.LogNormal(CENTRES[1], 2.0))
    v = numpyro.sample("v", dist.LogNormal(CENTRES[2], 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    ke = cl / v
    mu = DOSE / v * ka / (ka - ke) * (jnp.exp(-ke * time) - jnp.exp(-ka * time))
    numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def curve(ka, ke, time):
    """The concentration of a dose in a volume of 1, of rates ``(..., 1)``."""
    apart = np.where(np.abs(ka - ke) < 1e-12, 1e-12, ka - ke)
    return DOSE * ka / apart * (np.exp(-ke * time) - np.exp(-ka * time))


def dataset(rng):
    ka, cl, v = np.exp(np.log([1.5, 0.04, 0.45]) + 0.4 * rng.standard_normal(3))
    noise = rng.uniform(0.3, 1.0) * rng.standard_normal(len(TIMES))
    return {"time": TIMES, "y": curve(ka, cl / v, TIMES) / v + noise}


def exact(time, y):
    """The logs of both rates have a grid; given them the volume is summed over around its best value.

    The sd of the errors is summed over for each sum of squares.
    """
    from benchmarks.truth.exact import Exact, averaged, on_grid

    sigma, squares = np.exp(np.linspace(np.log(0.01), np.log(12), 600)), np.exp(np.linspace(-7, 12, 800))
    logs = -0.5 * (sigma / 2) ** 2 - (len(y) - 1) * np.log(sigma) - 0.5 * squares[:, None] / sigma**2
    top = logs.max(axis=1)
    mass = np.exp(logs - top[:, None])
    evidence = top + np.log(mass.sum(axis=1))
    first, second = ((mass * sigma**power).sum(axis=1) / mass.sum(axis=1) for power in (1, 2))

    def given(rates):
        """Log density, and means and variances of the columns."""
        ka, ke = np.exp(rates[:, :1]), np.exp(rates[:, 1:])
        unit = curve(ka, ke, time)
        both, own = unit @ y, (unit**2).sum(axis=1)
        height = np.maximum(both / own, 1e-4)
        width = np.sqrt((y @ y - 2 * height * both + height**2 * own) / len(y) / own) / height
        around = np.minimum(width, 0.5)[:, None] * np.linspace(-9, 9, 91)
        volume = np.exp(around - np.log(height)[:, None])
        at = np.log(y @ y - 2 * both[:, None] / volume + own[:, None] / volume**2)
        log_cl = np.log(ke) + np.log(volume)
        prior = (rates[:, :1] - CENTRES[0]) ** 2 + (log_cl - CENTRES[1]) ** 2 + (np.log(volume) - CENTRES[2]) ** 2
        inner = np.interp(at, np.log(squares), evidence, right=-np.inf) - prior / 8
        top = inner.max(axis=1, keepdims=True)
        share = np.exp(inner - top)
        total = share.sum(axis=1)
        share /= total[:, None]
        v, v2 = ((share * volume**power).sum(axis=1) for power in (1, 2))
        s, s2 = ((share * np.interp(at, np.log(squares), moment)).sum(axis=1) for moment in (first, second))
        mean = np.column_stack([ke[:, 0] * v, v, s])
        variance = np.column_stack([ke[:, 0] ** 2 * (v2 - v**2), v2 - v**2, s2 - s**2])
        return top[:, 0] + np.log(total * np.minimum(width, 0.5)), mean, variance

    grid = on_grid(lambda rates: given(rates)[0], [(-7, 9), (-10, 5)], cells=150)
    _, mean, variance = given(grid.centres)
    found = averaged(("cl", "v", "sigma"), grid.share, mean, variance)
    flipped = float(grid.share[grid.centres[:, 0] < grid.centres[:, 1]].sum())
    return Exact(
        found.mean, found.sd, (1 - flipped, flipped), lambda draws: (draws["ka"] < draws["cl"] / draws["v"]).astype(int)
    )
