"""The function ``chainsweep.open(DIR)``, which gives a campaign's results in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainsweep.campaign.campaign import Campaign
from chainsweep.errors import CampaignError

if TYPE_CHECKING:
    import xarray as xr


class OpenCampaign(Campaign):
    """A campaign folder, with its merged results as DataFrame and xarray objects."""

    def posterior(self, dataset_id: str, engine: str) -> Any:
        """Return the unpadded draws of one data set: groups ``posterior``, ``sample_stats``, dims ``(chain, draw)``.

        The type is the one that the installed ArviZ works with: ``xarray.DataTree``, or ``arviz.InferenceData`` before
        ArviZ 1.0. Without ArviZ it is a ``DataTree``.

        Raises
        ------
        InputError
            No such data set or engine, or it has no draws.
        CampaignError
            Nothing is merged yet.
        """
        from chainsweep.store.draws import read_draws
        from chainsweep.store.export import draws_tree, for_arviz

        self._require_merged()
        return for_arviz(draws_tree(read_draws(self.paths.posterior, dataset_id, engine)))

    def draws(self, engine: str) -> xr.Dataset:
        """Return the draws of all data sets of one engine, loaded lazily.

        The dims are ``(dataset, chain, draw)``, with NaN after ``n_draws``.

        Raises
        ------
        CampaignError
            Nothing is merged yet, or nothing of this engine.
        """
        import xarray as xr

        self._require_merged()
        try:
            return xr.open_dataset(self.paths.posterior, group=f"{engine}/posterior", engine="h5netcdf")
        except (OSError, KeyError) as error:
            raise CampaignError(f"{self.paths.posterior}: has no draws of engine '{engine}' ({error})") from error

    def _require_merged(self) -> None:
        if not self.paths.posterior.exists():
            raise CampaignError(f"{self.paths.posterior}: not there; run: chainsweep merge {self.paths.root}")


def open_campaign(folder: str | Path) -> OpenCampaign:
    """Open a campaign folder. Raises ``CampaignError`` where there is none."""
    return OpenCampaign(Path(folder))
