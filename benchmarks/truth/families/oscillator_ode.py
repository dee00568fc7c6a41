"""A damped oscillation by a differential equation of second order, whose solution is known."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.experimental.ode import odeint

NOISE = 0.15
ENGINES = ("nuts", "emcee")


def model(t, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.4))
    damping = numpyro.sample("damping", dist.HalfNormal(0.3))

    def slope(state, _):
        return jnp.array([state[1], -(rate**2) * state[0] - 2 * damping * state[1]])

    curve = odeint(slope, jnp.array([1.0, 0.0]), t, rtol=1e-8, atol=1e-8, mxstep=2000)
    numpyro.sample("y", dist.Normal(curve[:, 0], NOISE), obs=y)


def swung(rate, damping, t):
    """The solution, of arrays ``rate`` and ``damping`` ``(..., 1)``, oscillating or not."""
    root = np.sqrt(np.asarray(rate**2 - damping**2, complex))
    root = np.where(np.abs(root) < 1e-9, 1e-9, root)
    return np.real(
        np.exp((1j * root - damping) * t) * (0.5 - 0.5j * damping / root)
        + np.exp((-1j * root - damping) * t) * (0.5 + 0.5j * damping / root)
    )


def dataset(rng):
    t = np.linspace(0, 10, 16)
    return {"t": t, "y": swung(rng.lognormal(0, 0.4), np.abs(rng.normal(0, 0.3)), t) + NOISE * rng.standard_normal(16)}


def exact(t, y):
    from benchmarks.truth.exact import averaged, on_grid

    def log_density(theta):
        rate, damping = np.exp(theta[:, :1]), theta[:, 1:]
        squares = (((y - swung(rate, damping, t)) / NOISE) ** 2).sum(axis=1)
        return -0.5 * (theta[:, 0] / 0.4) ** 2 - 0.5 * (theta[:, 1] / 0.3) ** 2 - 0.5 * squares

    grid = on_grid(log_density, [(-3.2, 3.2), (0, 2.4)], cells=200)
    columns = np.column_stack([np.exp(grid.centres[:, 0]), grid.centres[:, 1]])
    return averaged(("rate", "damping"), grid.share, columns)
