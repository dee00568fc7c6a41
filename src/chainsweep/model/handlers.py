"""Effect handlers that adapt a user's NumPyro model without a change of its code.

Only ``chainsweep.model`` uses these; a user's model never sees a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpyro.distributions import Delta, ExpandedDistribution, ImproperUniform, Independent, MaskedDistribution
from numpyro.primitives import Messenger

from chainsweep.errors import ModelError

UNWRAPPED = "_unwrapped"
"""The suffix that NumPyro's ``CircularReparam`` adds to the name of a site."""


def written(function: Any) -> Any:
    """The function that a user wrote, without the effect handlers that decorate it."""
    while isinstance(function, Messenger) and function.fn is not None:
        function = function.fn
    return function


def unusable(distribution: Any) -> str | None:
    """The reason why a prior cannot be sampled, with what to write instead; None where it can be sampled."""
    while isinstance(distribution, ExpandedDistribution | Independent | MaskedDistribution):
        distribution = distribution.base_dist
    if isinstance(distribution, Delta):
        return (
            "is fixed to a value (Delta), so there is nothing to infer: write the value itself, or "
            "numpyro.deterministic(name, value)"
        )
    if isinstance(distribution, ImproperUniform):
        return (
            "has an improper prior (ImproperUniform), which cannot be drawn from: give it a proper one, "
            "for example a wide dist.Normal(0, 100) or dist.HalfNormal(100)"
        )
    if distribution.support.is_discrete:
        return (
            f"is discrete ({type(distribution).__name__}); the engines need continuous parameters: sum it out in the "
            "model, for example by dist.MixtureSameFamily"
        )
    return None


class RefusePriors(Messenger):
    """Raise ``ModelError`` at a latent site whose prior cannot be sampled, before it is; ``path`` names the file."""

    def __init__(self, fn: Callable, path: Path) -> None:
        self.path = path
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Check the distribution of a site that is to be drawn."""
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        if isinstance(msg["fn"], ImproperUniform) and msg["name"].endswith(UNWRAPPED):
            raise ModelError(
                f"{self.path}: CircularReparam unwraps '{msg['name'].removesuffix(UNWRAPPED)}' onto a line without a "
                "proper prior, on which its posterior repeats without end: leave the reparametrisation out, since "
                "dist.VonMises is sampled as it is"
            )
        if (reason := unusable(msg["fn"])) is not None:
            raise ModelError(f"{self.path}: latent site '{msg['name']}' {reason}")


class ExpandObserved(Messenger):
    """Give observed sites the shape of the data while they are simulated.

    A site whose distribution has no axis of points, such as ``Normal(a, s)`` of two numbers, draws one value where it
    gets no data; here it draws one for each point. ``shapes`` maps the name of a site to the shape of its data.
    """

    def __init__(self, fn: Callable, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Expand the distribution of a site that is to be drawn."""
        if msg["type"] != "sample" or msg["value"] is not None or msg["name"] not in self.shapes:
            return
        shape = self.shapes[msg["name"]]
        msg["fn"] = msg["fn"].expand(shape[: len(shape) - msg["fn"].event_dim])


class MaskObserved(Messenger):
    """Remove padding points from the log density of observed sites.

    ``mask`` is boolean of shape ``(point,)``; ``axes`` maps the name of an observed site to the axis of its
    ``batch_shape`` that runs over points (negative, counted from the right). Padding must hold valid values:
    a masked NaN would still make the gradient NaN.
    """

    def __init__(self, fn: Callable, mask: Any, axes: Mapping[str, int]) -> None:
        self.mask = mask
        self.axes = axes
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Mask the distribution of an observed site that runs over points."""
        if msg["type"] != "sample" or not msg["is_observed"] or msg["name"] not in self.axes:
            return
        axis = self.axes[msg["name"]]
        shape = self.mask.shape + (1,) * (-axis - 1)
        msg["fn"] = msg["fn"].mask(self.mask.reshape(shape))
