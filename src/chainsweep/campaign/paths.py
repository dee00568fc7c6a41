"""Every path of a campaign folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chainsweep.store.network import CALIBRATION, NETWORK


@dataclass(frozen=True)
class Paths:
    """Every path of a campaign folder."""

    root: Path

    @property
    def config(self) -> Path:
        """``campaign.toml`` as the user gave it."""
        return self.root / "campaign.toml"

    @property
    def model(self) -> Path:
        """The model file as the user gave it."""
        return self.root / "model.py"

    @property
    def resolved(self) -> Path:
        """``resolved.json``: the configuration with every default, the shards and every hash."""
        return self.root / "resolved.json"

    @property
    def data(self) -> Path:
        """The frozen data sets."""
        return self.root / "data.h5"

    @property
    def quarantine(self) -> Path:
        """The data sets that ``init`` left out, and the reason for each."""
        return self.root / "quarantine.csv"

    @property
    def starts(self) -> Path:
        """Draws of another campaign that chains start from; present only if the configuration names one."""
        return self.root / "starts.h5"

    @property
    def network(self) -> Path:
        """A trained network of another campaign; present only if the configuration names one."""
        return self.root / NETWORK

    @property
    def frozen(self) -> tuple[Path, ...]:
        """The files that ``init`` writes and that no later step changes."""
        always = self.config, self.model, self.resolved, self.data, self.quarantine
        return (*always, *(path for path in (self.starts, self.network) if path.exists()))

    @property
    def posterior(self) -> Path:
        """The merged draws."""
        return self.root / "posterior.h5"

    @property
    def catalogue(self) -> Path:
        """The table with a row for each data set and engine."""
        return self.root / "catalogue.parquet"

    @property
    def report(self) -> Path:
        """Folder of the HTML report and its figures."""
        return self.root / "report"

    @property
    def logs(self) -> Path:
        """Folder of one log file a task."""
        return self.root / "logs"

    @property
    def ranks(self) -> Path:
        """``ranks.json``: the last submission's choice, with its reason, of what the MPI ranks of emcee share out."""
        return self.root / "ranks.json"

    @property
    def pilot(self) -> Path:
        """``pilot.json``: run times of a few data sets, used only to predict costs."""
        return self.root / "pilot.json"

    @property
    def jobs(self) -> Path:
        """``jobs.jsonl``: every job that was sent to Slurm."""
        return self.root / "jobs.jsonl"

    @property
    def submissions(self) -> Path:
        """Folder of the scripts of each submission."""
        return self.root / "submit"

    @property
    def images(self) -> Path:
        """``images.json``: the images that submissions used."""
        return self.submissions / "images.json"

    def submission(self, number: int) -> Path:
        """Folder of the scripts of submission ``number``, counted from 1."""
        return self.submissions / str(number)

    @property
    def cache(self) -> Path:
        """The default cache of compiled programs of this campaign's jobs, next to its folder and kept without it."""
        return self.root.parent / "chainsweep-cache"

    @property
    def report_page(self) -> Path:
        """The first page of the report."""
        return self.report / "index.html"

    @property
    def submit_lock(self) -> Path:
        """The file that one submission at a time holds."""
        return self.submissions / ".lock"

    def log(self, stage: str, index: int) -> Path:
        """The log of one task, to which every attempt appends."""
        return self.logs / f"{stage}-{index:05d}.log"

    def shard(self, engine: str, shard: int) -> Path:
        """The published draws of one shard."""
        return self.root / "shards" / engine / f"{shard:05d}.h5"

    def trace(self, engine: str, shard: int) -> Path:
        """The thinned traces of one shard with burn-in, used only for plots, never for results."""
        return self.root / "shards" / engine / f"{shard:05d}.trace.npz"

    def trained(self, engine: str, key: str) -> Path:
        """The network that the campaign trains, in a folder named by the hash of all that the network depends on."""
        return self.root / "models" / f"{engine}-{key[:16]}" / NETWORK


@dataclass(frozen=True)
class NetworkFiles:
    """The files next to a trained network, ``weights``."""

    weights: Path

    @property
    def calibration(self) -> Path:
        """The calibration of the network on held-out simulations."""
        return self.weights.with_name(CALIBRATION)

    @property
    def allowed(self) -> Path:
        """The file by which the user allows the network in spite of its failed calibration."""
        return self.weights.with_name("uncalibrated.txt")

    def member(self, number: int) -> Path:
        """The network number ``number`` of an ensemble."""
        return self.weights.with_name(f"member-{number:02d}.safetensors")

    def history(self, network: Path) -> Path:
        """The history of the training of ``network``, which is ``weights`` or a member."""
        name = "history" if network == self.weights else f"history-{network.stem}"
        return self.weights.with_name(f"{name}.csv")

    def simulations(self, part: int) -> Path:
        """The part number ``part`` of the bank that the network is trained on."""
        return self.weights.parent / "simulations" / f"{part:05d}.h5"


@dataclass(frozen=True)
class TaskFiles:
    """The files next to the one that a task publishes, ``target``: records of its attempts."""

    target: Path

    @property
    def attempt(self) -> Path:
        """The number and the owner of the last attempt."""
        return self.target.with_name(f".attempt-{self.target.stem}.json")

    @property
    def state(self) -> Path:
        """The state from which the next attempt continues."""
        return self.target.with_name(f".state-{self.target.stem}.npz")

    @property
    def failure(self) -> Path:
        """The failure of the last attempt."""
        return self.target.with_name(f".failed-{self.target.stem}.json")

    @property
    def progress(self) -> Path:
        """The progress of requeued attempts."""
        return self.target.with_name(f".progress-{self.target.stem}.json")

    @property
    def suspects(self) -> Path:
        """The data sets in whose calls dead attempts ended."""
        return self.target.with_name(f".suspects-{self.target.stem}.json")

    def suspect(self, attempt: int, rank: int) -> Path:
        """The data set whose function one rank of an attempt is calling."""
        return self.target.with_name(f".suspect-{self.target.stem}-{attempt}-{rank}")

    def suspect_notes(self, attempt: int | None = None) -> Iterator[Path]:
        """The files of ``suspect`` of all ranks, of one attempt or of all."""
        return self.target.parent.glob(f".suspect-{self.target.stem}-{'' if attempt is None else f'{attempt}-'}*")

    @property
    def image(self) -> Path:
        """The image that the files in the folder of ``target`` were made in."""
        return self.target.with_name("image.txt")
