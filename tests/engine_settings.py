"""Settings of an engine with some values changed, whichever table they are in."""

from __future__ import annotations

from typing import Any, TypeVar

from chainsweep.engines.emcee.settings import EmceeSettings
from chainsweep.engines.nuts.settings import NutsSettings
from chainsweep.engines.snpe.settings import SnpeSettings

SettingsT = TypeVar("SettingsT", EmceeSettings, NutsSettings, SnpeSettings)


def changed(settings: SettingsT, **values: Any) -> SettingsT:
    """A copy of ``settings`` with these values of keys of its table or of its ``tuning``, unchecked."""
    known, own = type(settings.tuning).model_fields, type(settings).model_fields
    assert values.keys() <= known.keys() | own.keys()
    tuning = settings.tuning.model_copy(update={key: value for key, value in values.items() if key in known})
    values = {key: value for key, value in values.items() if key not in known}
    return settings.model_copy(update=values | {"tuning": tuning})
