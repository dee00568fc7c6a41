"""TOML files as typed, frozen values, with errors that name the file, the key and what is valid there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chainsweep.config.old_keys import OLD_KEYS
from chainsweep.errors import ConfigError


class Section(BaseModel):
    """A table of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """Return the tables of a TOML file; ``expected`` tells an error message what should have been there.

    Raises
    ------
    ConfigError
        The file cannot be read, is not UTF-8, or is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def validated(kind: type[SectionT], raw: dict[str, Any], origin: str) -> SectionT:
    """Return ``raw`` as a ``kind``, or raise ``ConfigError`` that names ``origin``, the key and what is valid there."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(problem, kind, origin) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _explain(problem: Any, kind: type[Section], origin: str) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        if key in OLD_KEYS:
            return f"{origin}: {OLD_KEYS[key]}"
        valid = _valid_keys(kind, location[:-1])
        where = f"table [{'.'.join(location[:-1])}]" if location[:-1] else "the top level"
        return f"{origin}: unknown key '{location[-1]}' in {where}; valid keys: {', '.join(valid)}"
    if problem["type"] == "missing":
        return f"{origin}: missing key '{key}'; it has no default and must be given"
    return f"{origin}: key '{key}': {problem['msg']}, got {problem['input']!r}"


def _valid_keys(kind: type[Section], location: list[str]) -> list[str]:
    section: Any = kind
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
