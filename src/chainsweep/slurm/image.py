"""The handling of Apptainer images: completeness, identity, signature, and commands that run inside an image.

A campaign remembers the SHA-256 of the images it was submitted with (``submit/images.json``), with the file's size and
times from ``stat``: an image of several GB is read again only if these have changed.
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

from chainsweep.errors import ConfigError, UnavailableError
from chainsweep.machine.programs import CACHE_VARIABLE
from chainsweep.publish import publish_text
from chainsweep.slurm.site import Site
from chainsweep.tasks.provenance import IMAGE_VARIABLE

VERIFY_TIMEOUT_S = 600
ABSENT = "0" * 64
"""The placeholder in a plan for the SHA-256 of an image that is not on this machine."""
PASSED_ON = (
    "SLURM_*",
    "PMI*",
    "CUDA_VISIBLE_DEVICES",
    "MPI4PY_LIBMPI",
    "MPIR_CVAR_*",
    IMAGE_VARIABLE,
    CACHE_VARIABLE,
)
"""The variables that a command sees inside an image, as patterns of bash, in addition to those of the site file."""
# The SIF format: a header of these fields, then descriptors of fixed length. Source: the sif project's documentation.
_HEADER = struct.Struct("<32s10s3s3s16s8q")
_MAGIC = b"SIF_MAGIC\0"
_DESCRIPTOR = struct.Struct("<i?IIIqq")
_DESCRIPTOR_BYTES = 585


@dataclass(frozen=True)
class Image:
    """An image file, identified by its content; ``stamp`` is the output of ``stat -L -c '%s %Y %Z'``."""

    path: Path
    sha256: str
    stamp: str


def examine(path: Path, remembered: Mapping[str, Image]) -> Image:
    """Return the image at ``path``; its content is read unless the stamp is that of the remembered image.

    Raises
    ------
    ConfigError
        There is no such file, or it is not a complete image.
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
    """Raise unless every part named in the file's header lies inside the file."""
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
    """Return the image of each kind of job that has one; a signature is verified if the site asks for one.

    With ``absent_too``, a missing file is not an error, because a plan may be made on another machine.

    Raises
    ------
    ConfigError
        A file is missing, is not a complete image, or is not signed as the site says.
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
    """Return the images that earlier submissions used, by their path."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: Image(Path(name), entry["sha256"], entry["stamp"]) for name, entry in content.items()}


def remember(path: Path, images: Iterable[Image]) -> None:
    """Record the images that a submission uses."""
    known = read_remembered(path) | {str(image.path): image for image in images}
    content = {name: {"sha256": image.sha256, "stamp": image.stamp} for name, image in sorted(known.items())}
    publish_text(path, json.dumps(content, indent=1))


def hand_over(site: Site) -> str:
    """Return bash that runs a command inside an image with its variables; Apptainer removes all other variables."""
    names = "|".join((*PASSED_ON, *sorted(site.environment)))
    return (
        f'for name in $(compgen -e); do case $name in {names}) export "APPTAINERENV_$name=${{!name}}";; esac; done; '
        'exec "$@"'
    )


def inside(
    site: Site, image: Path | str, gpu: bool, folder: Path | None = None, frozen: Sequence[Path] = ()
) -> list[str]:
    """Return the words that, placed before a command, run it inside ``image``.

    The command sees ``folder`` (``frozen`` files of it read-only), the site's binds and its MPI library, and an empty
    private /tmp, but neither the user's home nor any other folder of the host.
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
    """Return the option that makes an image see ``path`` under the same path."""
    fields = ["type=bind", *(_csv(f"{name}={path}") for name in ("source", "destination")), *options]
    return "--mount=" + ",".join(fields)


def _csv(field: str) -> str:
    """Return one field of ``--mount``, which Apptainer reads as a line of CSV."""
    return '"' + field.replace('"', '""') + '"' if re.search(r'[",\s]', field) else field


def host_variables() -> dict[str, str]:
    """Return this process's environment without variables that would change what an image sees."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("APPTAINER", "SINGULARITY"))}
