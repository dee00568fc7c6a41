"""The structure of a model that ``init`` found by tracing it, as a campaign keeps it: it is not traced again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Parameter:
    """A latent site: its name and shape in the constrained and in the unconstrained space."""

    name: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of scalars in the constrained space."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def unconstrained_size(self) -> int:
        """Number of scalars in the unconstrained space."""
        return int(np.prod(self.unconstrained_shape, dtype=int))

    @property
    def columns(self) -> tuple[str, ...]:
        """Flat column names: ``l``, or ``theta[0]``, ``theta[1,2]`` for arrays."""
        return tuple(f"{self.name}[{','.join(map(str, i))}]" if i else self.name for i in np.ndindex(self.shape))


@dataclass(frozen=True)
class Structure:
    """The structure of a model from its trace: its latent sites and how its observed sites run over points."""

    parameters: tuple[Parameter, ...]
    observed_sites: Mapping[str, str]
    """The name of the sample site that each observed argument is passed to unchanged."""
    point_axes: Mapping[str, int]
    """The (negative) axis of the batch shape of each observed site that runs over points."""
    paddable: bool
    """False when an observed site does not factorise over points, so padding cannot be masked out."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Constants that the model takes as numbers, not as symbols; all data sets have these values."""
    expanded: tuple[str, ...] = ()
    """Observed sites that draw a single value where they get no data, and must be expanded to one for each point."""
    no_simulator: str = ""
    """The reason why a NumPyro model draws no observations like the data; empty where it does."""
    second_derivatives: str = "forward"
    """The way in which second derivatives are computed: a name of ``derivatives.WAYS``."""
    loops: bool = False
    """True where the density has a loop whose length depends on the point, as for a differential equation, and only
    reverse-mode derivatives exist."""
    still: tuple[int, ...] = ()
    """Flat columns that are the same in every draw: the upper half of a Cholesky factor, a correlation's diagonal."""

    def plain(self) -> dict[str, Any]:
        """The fields as plain values for JSON; ``from_plain`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Structure:
        """The structure that ``plain`` gave."""
        parameters = tuple(
            Parameter(p["name"], tuple(p["shape"]), tuple(p["unconstrained_shape"])) for p in plain["parameters"]
        )
        return cls(
            parameters,
            dict(plain["observed_sites"]),
            dict(plain["point_axes"]),
            plain["paddable"],
            # The structures of campaigns of earlier versions lack the following fields.
            dict(plain.get("fixed", {})),
            tuple(plain.get("expanded", ())),
            plain.get("no_simulator", ""),
            plain.get("second_derivatives", "forward"),
            plain.get("loops", False),
            tuple(plain.get("still", ())),
        )
