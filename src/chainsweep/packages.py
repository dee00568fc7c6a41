"""The versions of chainsweep and the installed packages, and checks that optional packages are installed."""

from __future__ import annotations

from importlib import metadata, util

from chainsweep.errors import UnavailableError

VERSION = "0.1.0"
"""The version of chainsweep; it is also known in a source tree that is not installed, and packaging reads it here."""


def missing(*modules: str) -> list[str]:
    """Return the names among ``modules`` that cannot be imported."""
    return [module for module in modules if util.find_spec(module) is None]


def require(*modules: str, extra: str) -> None:
    """Raise UnavailableError, naming the extra to install, unless every module can be imported."""
    if absent := missing(*modules):
        raise UnavailableError(
            f"this needs the package {', '.join(absent)}, which is not installed here; "
            f"install it with: pip install 'chainsweep[{extra}]'"
        )


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of the ``distributions`` that are installed; chainsweep's own is always known."""
    found = {}
    for name in distributions:
        try:
            found[name] = VERSION if name == "chainsweep" else metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
