"""A line with heavy-tailed errors of unknown size, and some outliers."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def model(x, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Normal(0.0, 3.0))
    size = numpyro.sample("size", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.StudentT(3.0, a + b * x, size), obs=y)


def dataset(rng):
    x = np.linspace(-1, 1, 14)
    line = rng.normal(0, 3) + rng.normal(0, 3) * x
    return {"x": x, "y": line + np.abs(rng.normal()) * rng.standard_t(3, 14) + 8 * (rng.random(14) < 0.1)}


def exact(x, y):
    from benchmarks.truth.exact import averaged, on_grid

    def log_density(theta):
        a, b, size = theta[:, :1], theta[:, 1:2], np.exp(theta[:, 2:])
        likelihood = -2 * np.log1p(((y - a - b * x) / size) ** 2 / 3).sum(axis=1) - len(y) * theta[:, 2]
        return -(a[:, 0] ** 2 + b[:, 0] ** 2) / 18 - 0.5 * size[:, 0] ** 2 + theta[:, 2] + likelihood

    grid = on_grid(log_density, [(-20, 20), (-20, 20), (-7, 2)])
    columns = np.column_stack([grid.centres[:, :2], np.exp(grid.centres[:, 2])])
    return averaged(("a", "b", "size"), grid.share, columns)
