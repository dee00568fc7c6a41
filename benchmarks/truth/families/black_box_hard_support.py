"""A black box whose log likelihood is minus infinity beyond an edge that cuts the posterior."""

import numpy as np
import numpyro.distributions as dist

ENGINES = ("emcee",)
prior = {"a": dist.Normal(0.0, 2.0), "b": dist.Normal(0.0, 2.0)}


def log_likelihood(params, x, y):
    a, b = params["a"], params["b"]
    if a < b or a + b > 2.0:
        return -np.inf
    return -0.5 * float(np.sum((y - a - b * x) ** 2))


def dataset(rng):
    x = np.linspace(-1, 1, 8)
    return {"x": x, "y": rng.normal(0, 1.5) + rng.normal(0, 1.5) * x + rng.standard_normal(8)}


def exact(x, y):
    """A grid whose axes are the two edges, so that none of its cells is cut."""
    from benchmarks.truth.exact import averaged, on_grid

    def columns(theta):
        return np.column_stack([(theta[:, 0] + theta[:, 1]) / 2, (theta[:, 0] - theta[:, 1]) / 2])

    def log_density(theta):
        a, b = columns(theta).T[..., None]
        return -(a[:, 0] ** 2 + b[:, 0] ** 2) / 8 - 0.5 * ((y - a - b * x) ** 2).sum(axis=1)

    grid = on_grid(log_density, [(-25, 2), (0, 25)])
    return averaged(("a", "b"), grid.share, columns(grid.centres))
