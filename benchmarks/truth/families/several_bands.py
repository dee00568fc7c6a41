"""Points in four bands, each with an offset of its own around a common one, and one slope."""

import numpy as np
import numpyro
import numpyro.distributions as dist

BANDS = 4
ENGINES = ("nuts", "emcee")


def model(band, x, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    with numpyro.plate("bands", BANDS):
        offset = numpyro.sample("offset", dist.Normal(mean, 0.5))
    numpyro.sample("y", dist.Normal(offset[band.astype(int)] + slope * x, 0.3), obs=y)


def dataset(rng):
    x, band = np.linspace(0, 1, 20), rng.integers(0, BANDS, 20)
    offset = rng.normal(0, 3) + 0.5 * rng.standard_normal(BANDS)
    return {"band": band, "x": x, "y": offset[band] + rng.normal(0, 2) * x + 0.3 * rng.standard_normal(20)}


def exact(band, x, y):
    from benchmarks.truth.exact import averaged, normals

    design = np.column_stack([np.zeros_like(x), x, np.eye(BANDS)[band]])
    common = np.r_[1.0, 0.0, np.ones(BANDS)]
    prior = 9 * np.outer(common, common) + np.diag(np.r_[0.0, 4.0, np.full(BANDS, 0.25)])
    _, mean, variance = normals(design[None], y, 0.3, prior)
    return averaged(("mean", "slope", *(f"offset[{k}]" for k in range(BANDS))), np.ones(1), mean, variance)
