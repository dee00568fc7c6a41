"""The ``report`` stage: the data that the report needs, read from a campaign's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainsweep.campaign.campaign import Campaign
from chainsweep.campaign.paths import NetworkFiles
from chainsweep.errors import CampaignError
from chainsweep.numerics.arrays import Floats
from chainsweep.stages.networks import has_network, weights_path
from chainsweep.store.draws import equal_weights, read_draws


class ReportSource(Campaign):
    """A campaign with methods that only the report needs: draws, model curves and traces of one data set."""

    def posterior_arrays(self, dataset_id: str, engine: str) -> dict[str, dict[str, NDArray]]:
        """Return draws: in ``posterior`` each ``(chain, draw, *shape)``, in ``sample_stats`` ``(chain, draw)``.

        Raises ``InputError`` where the engine has no draws of this data set.
        """
        draws = read_draws(self.paths.posterior, dataset_id, engine)
        return {"posterior": draws.posterior, "sample_stats": draws.sample_stats}

    def predictive_curves(self, dataset_id: str, engine: str, n: int) -> tuple[Floats, Floats] | None:
        """Return ``x`` ``(point,)`` and the curve at ``n`` evenly chosen draws ``(n, point)``; None without a curve."""
        if self.config.model.curve is None:
            return None
        from chainsweep.model.batched import BatchedProblem

        position = self.collection.position(dataset_id)
        plan, _ = self.locate(position)
        batched = BatchedProblem(self.problem, self.collection.batch(np.array([position]), plan.width))
        draws = equal_weights(read_draws(self.paths.posterior, dataset_id, engine)).posterior
        theta = np.asarray(self.problem.flatten(draws), float).reshape(-1, self.problem.ndim)
        index = np.linspace(0, len(theta) - 1, n).round().astype(int)
        length = int(batched.batch.n_points[0])
        curves = batched.curve(theta[index][None])[0, :, :length]
        name = self.config.model.x
        x = np.arange(length, dtype=float) if name is None else batched.batch.fields[name][0, :length]
        return x, curves

    def trace(self, dataset_id: str, engine: str) -> tuple[Floats, int, int] | None:
        """Return a trace ``(chain, step, ndim)`` with burn-in, its burn-in rows and sampler steps per row, or None."""
        plan, row = self.locate(self.collection.position(dataset_id))
        path = self.paths.trace(engine, plan.index)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as content:
            values = content["trace"][row]
            burn_in, thin = int(content["trace_burn_in"][row]), int(content["trace_thin"][row])
        kept = np.isfinite(values).all(axis=-1)
        values = values[kept][None].astype(float)
        return (values, burn_in, thin) if values.shape[1] > 1 else None

    def calibration(self) -> dict[str, Any] | None:
        """Return the calibration record next to the network, or None if there is none."""
        if not has_network(self):
            return None
        path = NetworkFiles(weights_path(self)).calibration
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def make_report(campaign: Campaign) -> Path:
    """Write the report of the merged results, and return the path of ``index.html``.

    Raises
    ------
    CampaignError
        Nothing is merged yet.
    """
    from chainsweep.packages import require

    require("matplotlib", "corner", extra="report")
    from chainsweep.report.build import build_report

    if not campaign.paths.catalogue.exists():
        raise CampaignError(
            f"{campaign.paths.catalogue}: not there; a report needs a merge: chainsweep merge {campaign.paths.root}"
        )
    return build_report(ReportSource(campaign.paths.root))
