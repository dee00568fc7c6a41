"""Posterior sweeps: one NumPyro model and many data sets in, verified posteriors of every one of them out."""

from __future__ import annotations

from chainsweep.api import OpenCampaign, open_campaign

__all__ = ["OpenCampaign", "__version__", "open"]
__version__ = "0.1.0"

open = open_campaign
