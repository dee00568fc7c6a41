"""The provenance of a shard (packages, device, precision, image), and the check that an engine has one image only.

A job's script passes the SHA-256 of its image in an environment variable. The first attempt at an engine's shards
writes it to ``image.txt`` next to them; later attempts compare.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from chainsweep.campaign.paths import TaskFiles
from chainsweep.engines.registry import PACKAGES
from chainsweep.errors import CampaignError
from chainsweep.packages import versions
from chainsweep.publish import publish_text

IMAGE_VARIABLE = "CHAINSWEEP_IMAGE_SHA256"
NO_IMAGE = "none"
MIXED = "mixed"
"""The content of ``image.txt`` of an engine for which the user allowed images to differ."""
ADVICE = (
    "Go on with that image, or say that it is all right with --mixed-images (of run, submit and merge): the draws then "
    "come from different software"
)


def provenance() -> dict[str, str | int | float | bool]:
    """Return the entries of a shard's header about the process that made it."""
    import jax

    device = jax.devices()[0]
    precision = str(jax.numpy.zeros(()).dtype)
    packages = versions(*PACKAGES)
    made_by: dict[str, str | int | float | bool] = {f"version_{name}": version for name, version in packages.items()}
    return made_by | {
        "device": f"{device.platform} {device.device_kind}",
        "precision": precision,
        "image": this_image(),
    }


def this_image() -> str:
    """Return the SHA-256 of the image that this process runs in, or ``none``."""
    return os.environ.get(IMAGE_VARIABLE) or NO_IMAGE


def check_image(target: Path, image: str | None = None) -> None:
    """Raise unless ``image`` (default: that of this process) is the one recorded for files in this folder.

    ``target`` is the file that a task publishes.

    Raises
    ------
    CampaignError
        It is another image, and the user has not allowed this.
    """
    noted, mine = _read(TaskFiles(target).image), image or this_image()
    if noted not in (None, MIXED, mine):
        raise CampaignError(f"{target.parent}: begun in {_named(str(noted))}, and this is {_named(mine)}. {ADVICE}")


def note_image(target: Path) -> None:
    """Call ``check_image``, and record the image if none is recorded yet."""
    check_image(target)
    if not TaskFiles(target).image.exists():
        publish_text(TaskFiles(target).image, this_image())


def allow_mixed_images(targets: Iterable[Path]) -> None:
    """Record that the files in the folders of ``targets`` may come from different images."""
    for path in sorted({TaskFiles(target).image for target in targets}):
        publish_text(path, MIXED)


def check_same_image(shards: Mapping[Path, str]) -> None:
    """Raise unless the shards of one engine (with the image of each) were all made in the same image.

    Raises
    ------
    CampaignError
        They were not, and the user has not allowed this.
    """
    by_image = {image: path for path, image in sorted(shards.items(), reverse=True)}
    if len(by_image) > 1 and any(_read(TaskFiles(path).image) != MIXED for path in by_image.values()):
        made = "; ".join(f"{path.name} in {_named(image)}" for image, path in by_image.items())
        folder = next(iter(by_image.values())).parent
        raise CampaignError(f"{folder}: shards that were made in different images: {made}. {ADVICE}")


def _named(image: str) -> str:
    return "no image" if image == NO_IMAGE else f"the image with SHA-256 {image}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
