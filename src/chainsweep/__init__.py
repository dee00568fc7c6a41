"""Posterior sweeps: one NumPyro model and many data sets in, verified posteriors of every one of them out."""

from __future__ import annotations

from chainsweep.api import OpenCampaign, open_campaign
from chainsweep.packages import VERSION as __version__

__all__ = ["OpenCampaign", "__version__", "open"]

open = open_campaign
