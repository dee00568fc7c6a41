r"""The space the network works in: per data set and parameter, the prior is close to a unit normal there.

With :math:`z` the unconstrained parameter and :math:`c, h` the median and half-width (16 % to 84 %) of its
prior for the design of one data set::

    w = (z - c) / h                            or, where the prior of z is logistic (theta uniform),
    w = Phi^-1(sigmoid(1.668 (z - c) / h))

Both maps are monotone and exactly invertible, and their log-scale enters the density. The second one turns
the exponential tails that a hard prior edge leaves in ``z`` into normal ones, which a flow with a normal base
fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtri
from numpy.typing import NDArray

from chainsweep.data.collection import Batch
from chainsweep.model.problem import Problem, observation

Floats = NDArray[np.float64]

LOGISTIC_HALF_WIDTH = 1.6682
"""logit(Phi(1)): half-width of a unit logistic between the quantiles that a normal has at -1 and 1."""

NORMAL_QUANTILES = (0.15865525, 0.5, 0.84134475)
CORE = 6.0
DESIGN_BLOCK = 256
PRIOR_DRAWS = 2048
"""Prior draws per design. All designs share the random numbers, so equal priors give equal numbers."""

LOG_2PI = float(np.log(2 * np.pi))
UNDERFLOW = 1e-300


@dataclass(frozen=True)
class Space:
    """Maps of some data sets: ``centre`` and ``halfwidth`` ``(dataset, dim)``, ``logistic`` ``(dim,)``."""

    centre: Floats
    halfwidth: Floats
    logistic: NDArray[np.bool_]

    def to_working(self, z: Floats) -> tuple[Floats, Floats]:
        """``z`` ``(dataset, draw, dim)`` to ``w``, and ``log |dw/dz|`` ``(dataset, draw)``."""
        w, log_scale = working(z, self.centre[:, None], self.halfwidth[:, None], self.logistic)
        return np.array(w), np.array(log_scale)

    def from_working(self, w: Floats) -> tuple[Floats, Floats]:
        """``w`` ``(dataset, draw, dim)`` to ``z``, and ``log |dw/dz|`` ``(dataset, draw)`` there."""
        z, log_scale = _from_working(w, self.centre[:, None], self.halfwidth[:, None], self.logistic)
        return np.array(z), np.array(log_scale)


def to_working(z: Any, centre: Any, halfwidth: Any, logistic: Any) -> tuple[Any, Any]:
    """Pure JAX form of `Space.to_working`; shapes broadcast over ``(..., dim)``."""
    scaled = (z - centre) / halfwidth
    t = LOGISTIC_HALF_WIDTH * scaled
    # The lower tail keeps full precision, so the upper one is mirrored onto it.
    tail = jnp.maximum(jax.nn.sigmoid(-jnp.abs(t)), UNDERFLOW)
    warped = -jnp.sign(t) * ndtri(tail)
    w = jnp.where(logistic, warped, scaled)
    return w, _log_scale(w, t, halfwidth, logistic)


def from_working(w: Any, centre: Any, halfwidth: Any, logistic: Any) -> tuple[Any, Any]:
    """Pure JAX form of `Space.from_working`; shapes broadcast over ``(..., dim)``."""
    t = log_ndtr(w) - log_ndtr(-w)
    z = centre + halfwidth * jnp.where(logistic, t / LOGISTIC_HALF_WIDTH, w)
    return z, _log_scale(w, t, halfwidth, logistic)


def _log_scale(w: Any, t: Any, halfwidth: Any, logistic: Any) -> Any:
    """``log |dw/dz|`` summed over dimensions: sigmoid'(t) dt/dz = phi(w) dw/dz."""
    log_logistic = jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t)
    log_normal = -0.5 * (w**2 + LOG_2PI)
    slope = jnp.where(logistic, log_logistic - log_normal + np.log(LOGISTIC_HALF_WIDTH), 0.0)
    return jnp.sum(slope - jnp.log(halfwidth), axis=-1)


working = jax.jit(to_working)
_from_working = jax.jit(from_working)


def prior_quantiles(problem: Problem, batch: Batch) -> tuple[Floats, Floats, Floats]:
    """Centre and half-width of the prior, and the gain of calling it logistic, all ``(dataset, dim)``.

    The gain is the log likelihood of the standardised prior draws under a logistic less that under a normal.
    All depend on the design alone. NaN where the prior of a data set is no number (a constant out of range).
    """
    keys = jax.random.split(jax.random.key(0), PRIOR_DRAWS)
    stacked = observation(batch.fields, batch.constants, batch.mask)
    draws = _prior_draws(problem)
    parts = []
    for start in range(0, len(batch), DESIGN_BLOCK):
        block = slice(start, start + DESIGN_BLOCK)
        z = np.asarray(draws(keys, jax.tree.map(lambda values, block=block: values[block], stacked)))
        low, centre, high = np.quantile(z, NORMAL_QUANTILES, axis=1)
        halfwidth = np.where(high > low, (high - low) / 2, np.nan)
        parts.append((centre, halfwidth, logistic_gain((z - centre[:, None]) / halfwidth[:, None])))
    centre, halfwidth, gain = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return centre, halfwidth, gain


def _prior_draws(problem: Problem) -> Any:
    def one(key: Any, obs: Any) -> Any:
        return problem.unconstrain(problem.sample_prior(key, obs), obs)

    return jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(None, 0)))


def logistic_gain(standardised: Floats) -> Floats:
    """Log likelihood ratio, logistic over normal, of draws ``(dataset, draw, dim)``; shape ``(dataset, dim)``.

    Over a core only: one wild draw of a heavy-tailed prior must not decide for the rest.
    """
    t = LOGISTIC_HALF_WIDTH * np.abs(standardised)
    logistic = np.log(LOGISTIC_HALF_WIDTH) - t - 2 * np.log1p(np.exp(-t))
    normal = -0.5 * (standardised**2 + LOG_2PI)
    return np.where(np.abs(standardised) < CORE, logistic - normal, 0.0).sum(axis=1)


def space_of(problem: Problem, batch: Batch, logistic: NDArray[np.bool_]) -> Space:
    """The maps of ``batch`` under the choice that training made."""
    centre, halfwidth, _ = prior_quantiles(problem, batch)
    return Space(centre, halfwidth, logistic)


def fixed_space(z: Floats, datasets: int) -> Space:
    """Affine maps from draws ``z`` ``(draw, dim)`` of one truncated prior, the same for each data set."""
    low, centre, high = np.quantile(z, NORMAL_QUANTILES, axis=0)
    repeat = partial(np.broadcast_to, shape=(datasets, z.shape[-1]))
    return Space(repeat(centre).copy(), repeat((high - low) / 2).copy(), np.zeros(z.shape[-1], bool))
