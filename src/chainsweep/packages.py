"""The version of chainsweep, and of the packages that are here; is an optional one here?"""

from __future__ import annotations

from importlib import metadata, util

from chainsweep.errors import UnavailableError

VERSION = "0.1.0"
"""The version of chainsweep itself, in a source tree that is not installed too; packaging reads it here."""


def missing(*modules: str) -> list[str]:
    """Those of ``modules`` that cannot be imported."""
    return [module for module in modules if util.find_spec(module) is None]


def require(*modules: str, extra: str) -> None:
    """Raise UnavailableError, naming the extra to install, unless every module can be imported."""
    if absent := missing(*modules):
        raise UnavailableError(
            f"this needs the package {', '.join(absent)}, which is not installed here; "
            f"install it with: pip install 'chainsweep[{extra}]'"
        )


def versions(*distributions: str) -> dict[str, str]:
    """Versions of those ``distributions`` that are here; chainsweep is, always."""
    found = {}
    for name in distributions:
        try:
            found[name] = VERSION if name == "chainsweep" else metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
