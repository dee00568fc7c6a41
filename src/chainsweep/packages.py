"""Optional packages: is one here, and which version."""

from __future__ import annotations

from importlib import metadata, util

from chainsweep.errors import UnavailableError


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
    """Installed versions of those ``distributions`` that are here."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
