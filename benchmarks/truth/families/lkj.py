"""The covariance of two quantities: sds, and a Cholesky factor of their correlations."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

POINTS, CONCENTRATION = 20, 1.5
ENGINES = ("nuts", "emcee")


def model(y=None):
    sd = numpyro.sample("sd", dist.HalfNormal(2.0).expand([2]).to_event(1))
    root = numpyro.sample("root", dist.LKJCholesky(2, CONCENTRATION))
    with numpyro.plate("point", POINTS if y is None else y.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=sd[:, None] * root), obs=y)


def dataset(rng):
    rho, sd = 2 * rng.beta(CONCENTRATION, CONCENTRATION) - 1, np.abs(rng.normal(0, 2, 2))
    correlated = rng.standard_normal((POINTS, 2)) @ np.array([[1, rho], [0, np.sqrt(1 - rho**2)]])
    return {"y": correlated * sd}


def exact(y):
    """A grid of the logs of both sds and of the correlation."""
    from benchmarks.truth.exact import averaged, on_grid

    squares = y.T @ y

    def log_density(theta):
        first, second, rho = np.exp(theta[:, 0]), np.exp(theta[:, 1]), theta[:, 2]
        chi = squares[0, 0] / first**2 + squares[1, 1] / second**2 - 2 * rho * squares[0, 1] / (first * second)
        likelihood = -0.5 * chi / (1 - rho**2) - len(y) * (theta[:, 0] + theta[:, 1] + 0.5 * np.log1p(-(rho**2)))
        prior = -(first**2 + second**2) / 8 + theta[:, 0] + theta[:, 1] + (CONCENTRATION - 1) * np.log1p(-(rho**2))
        return prior + likelihood

    grid = on_grid(log_density, [(-7, 3), (-7, 3), (-1, 1)])
    rho = grid.centres[:, 2]
    columns = np.column_stack([np.exp(grid.centres[:, :2]), rho, np.sqrt(1 - rho**2)])
    return averaged(("sd[0]", "sd[1]", "root[1,0]", "root[1,1]"), grid.share, columns)
