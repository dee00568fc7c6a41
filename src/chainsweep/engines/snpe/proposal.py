"""The proposal of a network's weighted draws: the network, and one wide kernel around it for one draw in five.

A network that is a little narrower than the posterior gives weights with infinite variance: their effective sample size
is overestimated, however many draws there are. With the kernel in the proposal no weight is large where the kernel has
mass.

Reference: T. Hesterberg, Weighted average importance sampling and defensive mixture distributions, Technometrics 37,
185 (1995).
"""

from __future__ import annotations

import math

import numpy as np

from chainsweep.engines.snpe.network import Network
from chainsweep.importance.adaptive import WIDER
from chainsweep.numerics.arrays import Floats, Ints
from chainsweep.numerics.factors import cholesky_factors
from chainsweep.numerics.seeds import Seeds

Positions = Ints

EVERY = 5
"""One draw in this many is the kernel's."""
FREEDOM = 5
PILOT_DRAWS = 100
"""The number of the network's draws that the kernel is fitted to, or four for each parameter if that is more. They have
no other use."""


class Proposal:
    """The network of some data sets and a Student-t kernel around its draws, in unconstrained space.

    The draws and densities of a data set depend on its own features and id alone.
    """

    def __init__(self, network: Network, ids: tuple[str, ...], dim: int, seeds: Seeds) -> None:
        self.network = network
        count = max(PILOT_DRAWS, 4 * dim)
        pilot = np.stack([seeds.generator(name, "network-pilot").standard_normal((count, dim)) for name in ids])
        z = np.nan_to_num(network.draw(pilot)[0])
        self.centre = z.mean(axis=1)
        offset = z - self.centre[:, None]
        covariance = np.einsum("dki,dkj->dij", offset, offset) / (count - 1)
        self.factor = WIDER * cholesky_factors(covariance + 1e-12 * np.eye(dim))

    def draw(self, base: Floats, squares: Floats, first: int, rows: Positions) -> tuple[Floats, Floats]:
        """Return draws ``(row, draw, dim)`` of the data sets ``rows``, from the ``first`` on, and their log density.

        ``base`` ``(row, draw, dim)`` is normal, and ``squares`` ``(row, draw)`` chi-square with `FREEDOM` degrees.
        """
        wide = (first + np.arange(base.shape[1])) % EVERY == EVERY - 1
        z, log_network = np.empty_like(base), np.empty(base.shape[:2])
        z[:, ~wide], log_network[:, ~wide] = self.network.draw(np.ascontiguousarray(base[:, ~wide]), rows)
        if wide.any():
            step = base[:, wide] / np.sqrt(squares[:, wide] / FREEDOM)[..., None]
            z[:, wide] = self.centre[rows, None] + np.einsum("rij,rkj->rki", self.factor[rows], step)
            log_network[:, wide] = self.network.log_density(z[:, wide], rows)
        return z, self._mixed(log_network, z, rows)

    def log_density(self, z: Floats, rows: Positions) -> Floats:
        """The log density ``(row, draw)`` at ``z`` ``(row, draw, dim)`` of the data sets ``rows``."""
        return self._mixed(self.network.log_density(z, rows), z, rows)

    def _mixed(self, log_network: Floats, z: Floats, rows: Positions) -> Floats:
        share = 1.0 / EVERY
        with np.errstate(invalid="ignore"):  # the density of draws that are NaN is NaN too
            return np.logaddexp(np.log1p(-share) + log_network, math.log(share) + self._log_kernel(z, rows))

    def _log_kernel(self, z: Floats, rows: Positions) -> Floats:
        """The log density of the kernels, ``(row, draw)``."""
        dim, factor = z.shape[-1], self.factor[rows]
        scaled = np.linalg.solve(factor, np.swapaxes(z - self.centre[rows, None], 1, 2))
        constant = math.lgamma((FREEDOM + dim) / 2) - math.lgamma(FREEDOM / 2) - dim / 2 * math.log(FREEDOM * math.pi)
        log_volume = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=-1)
        tail = (FREEDOM + dim) / 2 * np.log1p((scaled**2).sum(axis=1) / FREEDOM)
        return np.asarray(constant - log_volume[:, None] - tail, float)
