"""Effect handlers that adapt a user's NumPyro model without the model knowing.

Only ``chainsweep.model`` sees these; a user's model never sees a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpyro.primitives import Messenger


class ExpandObserved(Messenger):
    """Give observed sites the shape of the data while they are simulated.

    A site without a design, ``Normal(a, s)`` of two numbers, draws one value where it is handed none; it is to draw one
    a point. ``shapes`` maps the name of a site to the shape of its data.
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
    a masked NaN would still poison the gradient.
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
