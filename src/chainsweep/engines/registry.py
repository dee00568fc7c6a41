"""The engines by name. A new engine needs a folder of its own and one line in ``ENGINES``."""

from __future__ import annotations

from chainsweep.engines.emcee.entry import EMCEE
from chainsweep.engines.entry import Engine
from chainsweep.engines.nuts.entry import NUTS
from chainsweep.engines.snpe.entry import SNPE

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        EMCEE,
        NUTS,
        SNPE,
    )
}
_NEEDED = [package for engine in ENGINES.values() for package in engine.needs]
PACKAGES = tuple(dict.fromkeys(("chainsweep", "numpy", *_NEEDED, "h5py")))
"""The packages whose versions a campaign and the files of its tasks record."""
DEFAULT_ENGINES = ("emcee", "nuts", "snpe")
"""The engines of a campaign that names none."""
