"""The token of a campaign folder; a Slurm job belongs to the folder if the job's name holds the token.

Two folders made from the same files hold the same campaign, with the same hash, and a copy of a folder holds the record
of jobs that the copy never sent. The token tells such folders apart. It is random, is made by ``init``, is kept in
``folder.json``, and does not enter the campaign's hash.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from chainsweep.errors import CampaignError, UnavailableError
from chainsweep.publish import check_below, check_folders, write_below

FILE = "folder.json"
TOKEN_BYTES = 5
JOB_NAME = re.compile(r"cs-[0-9a-f]+-(?:(?P<token>[0-9a-f]{10})-)?(?P<submission>\d+)-[a-z]+-\d+")


@dataclass(frozen=True)
class Identity:
    """A folder's token, and the place of the folder when it got the token.

    The names of jobs of the submissions up to number ``tokenless`` hold no token, because an earlier version of
    chainsweep sent them.
    """

    token: str
    path: str
    inode: int
    tokenless: int = 0

    def owns(self, job_name: str) -> bool:
        """Return True if this folder sent the jobs with this name."""
        match = JOB_NAME.fullmatch(job_name)
        if match is None:
            return False
        if match["token"] is None:
            return int(match["submission"]) <= self.tokenless
        return match["token"] == self.token


def require_writable(root: Path) -> None:
    """Raise if results cannot be written to the campaign folder ``root``.

    Raises
    ------
    CampaignError
        A folder in it that is written into is a link.
    UnavailableError
        The folder is on a read-only file system, or this user may not write there.
    """
    check_folders(root, "logs", "submit", "report")
    check_folders(root, "shards", depth=1)
    check_folders(root, "models", depth=2)
    for folder in (root, root / "shards", root / "logs"):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise UnavailableError(
                f"{folder}: user {os.getuid()} cannot write here: a read-only file system, or no permission. "
                "Results and saved states go there; nothing was begun, and nothing is lost"
            )


def token_in(job_name: str) -> str | None:
    """Return the token that a job's name holds; a name without one (None) may belong to another folder."""
    match = JOB_NAME.fullmatch(job_name)
    return None if match is None else match["token"]


def give_token(root: Path, place: Path) -> None:
    """Give the new folder ``root`` a token of its own; it will lie at ``place``."""
    keep(root, Identity(secrets.token_hex(TOKEN_BYTES), str(place), root.stat().st_ino))


def keep(root: Path, identity: Identity) -> None:
    """Write ``identity`` into ``folder.json`` of the folder ``root``, unless that file holds it already."""
    if _read(root) != identity:
        write_below(root, root / FILE, (json.dumps(asdict(identity), indent=1) + "\n").encode())


def identity_of(root: Path, submissions: int, recorded: Iterable[str] = ()) -> Identity:
    """The identity of the campaign folder ``root``, which has sent ``submissions``; nothing is written.

    ``recorded`` are the names of the jobs that its ``jobs.jsonl`` records.

    A folder that was moved still has its inode, and one that was restored from a backup still has its path. A folder
    with another inode and another path is a copy, and the jobs of the first folder are not its own. Copies, and folders
    that an earlier version made, get a token derived from all that tells them apart, so it is the same at each call;
    call ``keep`` before a job's name holds it.

    Raises
    ------
    CampaignError
        ``folder.json`` is a link, is damaged, or is not there although the name of a recorded job holds a token.
    """
    known, inode = _read(root), root.stat().st_ino
    if known is None and (tokens := [token for name in recorded if (token := token_in(name)) is not None]):
        content = json.dumps(asdict(Identity(tokens[-1], str(root), inode)))
        raise CampaignError(
            f"{root / FILE}: is not there, and without it nothing says whether this folder sent the jobs that "
            "jobs.jsonl records, or the folder that it was copied from. Restore the file. If this folder sent them, "
            f"you may write the file again: {content}. If it is a copy, remove its jobs.jsonl"
        )
    if known is not None and (known.path == str(root) or known.inode == inode):
        return known
    made = (root / "resolved.json").stat().st_mtime_ns
    seed = f"{known.token if known is not None else ''} {root} {inode} {made}"
    token = sha256(seed.encode()).hexdigest()[: 2 * TOKEN_BYTES]
    return Identity(token, str(root), inode, submissions if known is None else 0)


def _read(root: Path) -> Identity | None:
    """Return the identity that ``folder.json`` holds, or None if there is no such file."""
    path = root / FILE
    check_below(root, path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CampaignError(f"{path}: is not valid JSON ({error}); {_ADVICE}") from error
    kinds = {"token": str, "path": str, "inode": int, "tokenless": int}
    if not isinstance(content, dict) or {name: type(value) for name, value in content.items()} != kinds:
        raise CampaignError(f"{path}: expected {', '.join(kinds)}, got {str(content)[:100]}; {_ADVICE}")
    if not re.fullmatch(r"[0-9a-f]{10}", content["token"]):
        raise CampaignError(f"{path}: expected a token of 10 hexadecimal digits, got {content['token']!r}; {_ADVICE}")
    return Identity(**content)


_ADVICE = (
    "it says which jobs in the queue are this folder's. Restore it, or remove it: the next command then says what to "
    "do about the jobs that jobs.jsonl records"
)
