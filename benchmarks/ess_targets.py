"""Posteriors in 1 to 10 dimensions with a known density and exact draws, in place of a model's, for benchmarks/ess.py.

Every target is a mixture of two Student-t distributions (or normal ones) in ``x``, skewed by a normal distribution
function, bent to a banana, and then moved and correlated: ``z = mean + root @ bent(x)``. Each step but the last has the
Jacobian 1, so the density is normalised, and the true weights of a proposal are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, log_ndtr
from scipy.special import gammaln as np_gammaln
from scipy.special import log_ndtr as np_log_ndtr

NORMAL = 1e9
"""Degrees of freedom from which on a Student-t distribution is written as a normal one."""
FAMILIES = ("normal", "student-t", "skewed", "banana", "mixture")
FAR = 12.0
"""The standard deviation of the prior, which the last part of an adapted proposal knows, in sds of the posterior."""


@dataclass(frozen=True)
class Posterior:
    """A target: its degrees of freedom, skewness, bend, two centres along the first axis, the first one's share."""

    family: str
    freedom: float
    skew: float
    bend: float
    centres: tuple[float, float]
    share: float
    mean: Any
    root: Any

    def log_density(self, z: Any, jnp_: bool = False) -> Any:
        """The log density at ``z`` ``(draw, n)``, by NumPy or by JAX."""
        xp, normal_cdf = (jnp, log_ndtr) if jnp_ else (np, np_log_ndtr)
        return _log_density(self.parameters(), z, xp, normal_cdf)

    def parameters(self) -> tuple[Any, ...]:
        """The numbers of the target, of one shape per dimension."""
        inverse = np.linalg.inv(self.root)
        shares = np.log(np.array([self.share, 1.0 - self.share]) + 1e-300)
        return self.freedom, self.skew, self.bend, np.array(self.centres), shares, self.mean, inverse

    def draw(self, rng: np.random.Generator, count: int) -> Any:
        """Exact and independent draws ``(draw, n)``."""
        n = len(self.mean)
        x = rng.standard_normal((count, n))
        if self.freedom < NORMAL:
            x /= np.sqrt(rng.chisquare(self.freedom, (count, 1)) / self.freedom)
        if self.skew:
            x *= np.where(np.log(rng.uniform(size=count)) > np_log_ndtr(self.skew * x[:, 0]), -1.0, 1.0)[:, None]
        x[:, 0] += np.where(rng.uniform(size=count) < self.share, *self.centres)
        if n > 1:
            x[:, 1] += self.bend * (x[:, 0] ** 2 - 1.0)
        return self.mean + x @ self.root.T


def _log_density(parameters: tuple[Any, ...], z: Any, xp: Any, normal_cdf: Any) -> Any:
    freedom, skew, bend, centres, shares, mean, inverse = parameters
    n = z.shape[-1]
    x = (z - mean) @ inverse.T
    first, rest = x[..., 0], x[..., 1:]
    squares = 0.0
    if n > 1:
        second = rest[..., 0] - bend * (first**2 - 1.0)
        squares = second**2 + (rest[..., 1:] ** 2).sum(axis=-1)
    squares = squares + xp.stack([(first - centres[k]) ** 2 for k in range(2)])
    gamma = gammaln if xp is jnp else np_gammaln
    nu = xp.minimum(freedom, 1e6)
    constant = gamma((nu + n) / 2) - gamma(nu / 2) - n / 2 * xp.log(nu * math.pi)
    student = constant - (nu + n) / 2 * xp.log1p(squares / nu)
    normal = -n / 2 * math.log(2 * math.pi) - squares / 2
    parts = xp.where(freedom < NORMAL, student, normal)
    both = xp.logaddexp(shares[0] + parts[0], shares[1] + parts[1])
    # The skewed families have one centre, so the factor keeps the mass 1.
    skewed = xp.where(skew != 0.0, math.log(2.0) + normal_cdf(skew * first), 0.0)
    return both + skewed + xp.log(xp.abs(xp.linalg.det(inverse)))


@jax.jit
def _curvature(parameters: tuple[Any, ...], z: Any) -> Any:
    def one(point: Any) -> Any:
        return -_log_density(parameters, point[None], jnp, log_ndtr)[0]

    return jax.vmap(jax.hessian(one))(z)


def posterior(family: str, n: int, rng: np.random.Generator) -> Posterior:
    """A target of the ``family`` in ``n`` dimensions; a banana in one dimension is a skewed normal distribution."""
    freedom, skew, bend, centres, share = NORMAL, 0.0, 0.0, (0.0, 0.0), 1.0
    if family == "student-t":
        freedom = float(rng.choice([3.0, 5.0, 10.0]))
    elif family == "skewed" or (family == "banana" and n == 1):
        skew, freedom = rng.uniform(1.0, 8.0), float(rng.choice([NORMAL, 8.0]))
    elif family == "banana":
        bend = rng.uniform(0.2, 1.0)
    elif family == "mixture":
        apart, share = rng.uniform(2.0, 8.0), rng.uniform(0.1, 0.9)
        centres = (-apart / 2, apart / 2)
    rotation = np.linalg.qr(rng.standard_normal((n, n)))[0]
    root = rotation * np.exp(rng.normal(0, 0.5, n))
    return Posterior(family, freedom, skew, bend, centres, share, rng.normal(0, 1, n), root)


class Posteriors:
    """Several targets of one dimension, with the part of a BatchedProblem that the inference of SNPE uses."""

    def __init__(self, members: list[Posterior], ids: list[str]) -> None:
        self.members = members
        n = len(members[0].mean)
        self.batch = _Ids(tuple(ids))
        self.problem = SimpleNamespace(has_likelihood=True, has_jax_likelihood=True, ndim_unconstrained=n)
        self.failures: dict[int, str] = {}

    def take(self, rows: Any) -> Posteriors:
        """The targets at ``rows``."""
        return Posteriors([self.members[row] for row in rows], [self.batch.ids[row] for row in rows])

    def log_density_unconstrained(self, z: Any) -> Any:
        """The log densities ``(dataset, draw)`` at ``z`` ``(dataset, draw, n)``."""
        return np.stack([member.log_density(part) for member, part in zip(self.members, np.asarray(z), strict=True)])

    def curvature(self, z: Any) -> Any:
        """The Hessians of the negative log densities, ``(dataset, draw, n, n)``."""
        parts = zip(self.members, np.asarray(z), strict=True)
        return np.stack([np.asarray(_curvature(member.parameters(), part)) for member, part in parts])

    def sample_prior(self, keys: Any, draws: int) -> Any:
        """Normal draws, `FAR` sds of the posterior wide."""
        n = self.problem.ndim_unconstrained
        seeds = [np.random.default_rng(np.asarray(key, np.uint32)) for key in keys]
        return np.stack([FAR * rng.standard_normal((draws, n)) for rng in seeds])

    def unconstrain(self, theta: Any) -> Any:
        """The space of these targets is unconstrained already."""
        return theta


@dataclass(frozen=True)
class _Ids:
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)
