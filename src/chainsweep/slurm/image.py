"""Apptainer images: is the file a whole one, which one is it, who signed it, and how a command runs inside it.

A campaign remembers the SHA-256 of the images it was submitted with (``submit/images.json``), with what ``stat`` said
of the file then: only where that has changed is an image of several GB read again.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from chainsweep.config.site import Site
from chainsweep.errors import ConfigError, UnavailableError
from chainsweep.machine.programs import CACHE_VARIABLE
from chainsweep.publish import publish_text
from chainsweep.tasks.provenance import IMAGE_VARIABLE

VERIFY_TIMEOUT_S = 600
ABSENT = "0" * 64
"""Stands in a plan for the SHA-256 of an image that is not here."""
PASSED_ON = (
    "SLURM_*",
    "PMI*",
    "CUDA_VISIBLE_DEVICES",
    "MPI4PY_LIBMPI",
    "MPIR_CVAR_*",
    IMAGE_VARIABLE,
    CACHE_VARIABLE,
)
"""Variables that the work sees inside an image, as patterns of bash; those of the site file beside them."""
# The SIF format: a header of these fields, then descriptors of fixed length. Source: the sif project's documentation.
_HEADER = struct.Struct("<32s10s3s3s16s8q")
_MAGIC = b"SIF_MAGIC\0"
_DESCRIPTOR = struct.Struct("<i?IIIqq")
_DESCRIPTOR_BYTES = 585


@dataclass(frozen=True)
class Image:
    """An image file by its content; ``stamp`` is what ``stat -L -c '%s %Y %Z'`` said of it."""

    path: Path
    sha256: str
    stamp: str


def examine(path: Path, remembered: Mapping[str, Image]) -> Image:
    """Which image ``path`` is; its content is read unless it is the file that is remembered.

    Raises
    ------
    ConfigError
        There is no such file, or it is no whole image.
    """
    try:
        found = path.stat()
        stamp = f"{found.st_size} {found.st_mtime_ns // 10**9} {found.st_ctime_ns // 10**9}"
        known = remembered.get(str(path))
        if known is not None and known.stamp == stamp:
            return known
        _check_whole(path, found.st_size)
        with path.open("rb") as handle:
            return Image(path, file_digest(handle, "sha256").hexdigest(), stamp)
    except OSError as error:
        raise ConfigError(
            f"{path}: expected an Apptainer image that can be read, got: {error.strerror}; the site file names it "
            "(image). Build one with: make image-cpu-mpi"
        ) from error


def _check_whole(path: Path, size: int) -> None:
    """Raise unless every part that the file's header names lies inside the file."""
    with path.open("rb") as handle:
        head = handle.read(_HEADER.size)
        if len(head) < _HEADER.size or head[32:42] != _MAGIC:
            raise ConfigError(f"{path}: expected an Apptainer image (SIF file), got a file of another kind")
        *_, total, offset, _, _, _ = _HEADER.unpack(head)
        handle.seek(offset)
        table = handle.read(total * _DESCRIPTOR_BYTES)
    needed = offset + total * _DESCRIPTOR_BYTES
    for start in range(0, len(table) - _DESCRIPTOR_BYTES + 1, _DESCRIPTOR_BYTES):
        _, used, _, _, _, begin, length = _DESCRIPTOR.unpack_from(table, start)
        needed = max(needed, begin + length) if used else needed
    if size < needed:
        raise ConfigError(
            f"{path}: a truncated image: expected at least {needed} bytes, got {size}; copy or build it again"
        )


def images_of(
    site: Site, kinds: Iterable[str], remembered: Mapping[str, Image], absent_too: bool = False
) -> dict[str, Image]:
    """The image of each kind of job that has one; a signature that the site asks for is verified.

    With ``absent_too``, a file that is not here is no error: a plan may be made on another machine.

    Raises
    ------
    ConfigError
        A file is missing, no whole image, or not signed as the site says.
    UnavailableError
        A signature is to be verified, and there is no Apptainer here.
    """
    paths = {kind: path for kind in kinds if (path := site.image_of(kind)) is not None}
    images = {}
    for path in sorted(set(paths.values())):
        if absent_too and not path.exists():
            images[path] = Image(path, ABSENT, "")
            continue
        images[path] = examine(path, remembered)
        if site.image_fingerprint is not None:
            verify(path, site)
    return {kind: images[path] for kind, path in paths.items()}


def verify(path: Path, site: Site) -> None:
    """Raise unless the image is signed by the key whose fingerprint the site names, which must be in the keyring."""
    line = [*site.apptainer, "verify", "--local", "--all", "--json", str(path)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=VERIFY_TIMEOUT_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            f"the site names image_fingerprint, and {path} could not be verified: {error}"
        ) from error
    wanted = str(site.image_fingerprint).replace(" ", "").upper()
    signers = [key["Signer"] for key in _signer_keys(done.stdout)]
    good = {(key["Partition"], key["Fingerprint"].upper()) for key in signers if key["DataCheck"] and key["KeyCheck"]}
    if done.returncode != 0 or not signers or not {(key["Partition"], wanted) for key in signers} <= good:
        said = (done.stderr.strip().splitlines() or ["no valid signature"])[-1]
        raise ConfigError(
            f"{path}: expected an image signed by {wanted} (image_fingerprint of site {site.name}), got: "
            + (f"signed by {', '.join(sorted({key for _, key in good}))}" if good else said)
        )


def _signer_keys(text: str) -> list[dict]:
    try:
        return list(json.loads(text[text.index("{") :]).get("SignerKeys") or [])
    except ValueError:
        return []


def read_remembered(path: Path) -> dict[str, Image]:
    """Images that earlier submissions used, by their path."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: Image(Path(name), entry["sha256"], entry["stamp"]) for name, entry in content.items()}


def remember(path: Path, images: Iterable[Image]) -> None:
    """Write down which images a submission uses."""
    known = read_remembered(path) | {str(image.path): image for image in images}
    content = {name: {"sha256": image.sha256, "stamp": image.stamp} for name, image in sorted(known.items())}
    publish_text(path, json.dumps(content, indent=1))


def hand_over(site: Site) -> str:
    """Bash that gives a command inside an image the variables it may see, and runs it: Apptainer strips all others."""
    names = "|".join((*PASSED_ON, *sorted(site.environment)))
    return (
        f'for name in $(compgen -e); do case $name in {names}) export "APPTAINERENV_$name=${{!name}}";; esac; done; '
        'exec "$@"'
    )


def inside(
    site: Site, image: Path | str, gpu: bool, folder: Path | None = None, frozen: Sequence[Path] = ()
) -> list[str]:
    """The words in front of a command that runs it inside ``image``.

    It sees ``folder`` (``frozen`` files of it read-only), the site's binds and its MPI library, and an empty /tmp of
    its own; not the user's home, and no other folder of the host.
    """
    words = ["bash", "-c", hand_over(site), "inside", *site.apptainer, "exec"]
    words += ["--containall", "--no-home", "--cleanenv", "--pwd", "/tmp", *(["--nv"] if gpu else [])]
    if folder is not None:
        words += [mount(folder), *(mount(path, "ro") for path in frozen)]
    if site.mpi_library is not None:
        words.append(mount(Path(site.mpi_library).parent, "ro"))
    for bind in site.binds:
        words += ["--bind", bind]
    return [*words, str(image)]


def mount(path: Path, *options: str) -> str:
    """The word that has an image see ``path`` where it lies."""
    fields = ["type=bind", *(_csv(f"{name}={path}") for name in ("source", "destination")), *options]
    return "--mount=" + ",".join(fields)


def _csv(field: str) -> str:
    """One field of ``--mount``, which is read as a line of CSV."""
    return '"' + field.replace('"', '""') + '"' if re.search(r'[",\s]', field) else field


def host_variables() -> dict[str, str]:
    """This process's environment without what would change what an image sees."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("APPTAINER", "SINGULARITY"))}
