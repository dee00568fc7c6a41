r"""Posterior predictive check: does the model describe the data set at all?

The discrepancy is the deviance :math:`D(y, \theta) = -2 \log p(y \mid \theta)` and the p-value the share of
posterior draws with :math:`D(y_{rep}, \theta) \ge D(y, \theta)`. Small values mean misfit (a doublet, an
edge, errors too small); values near 1 mean that the errors are too large.

Reference: Gelman, Meng & Stern 1996, Statistica Sinica 6, 733.
"""

from __future__ import annotations

import numpy as np

from chainsweep.numerics.arrays import Floats


def predictive_pvalue(log_likelihood_replica: Floats, log_likelihood: Floats) -> Floats:
    """Share of draws, ``(dataset,)``, whose replica is no likelier than the data; NaN without usable draws.

    Both arguments have shape ``(dataset, draw)``; a draw that is NaN in either is left out. Ties count half,
    so discrete data do not shift the value.
    """
    usable = ~(np.isnan(log_likelihood_replica) | np.isnan(log_likelihood))
    worse = np.where(log_likelihood_replica < log_likelihood, 1.0, 0.0)
    worse = np.where(log_likelihood_replica == log_likelihood, 0.5, worse)
    count = usable.sum(axis=1)
    total = np.where(usable, worse, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
