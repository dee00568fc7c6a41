"""The network: sbi's neural spline flow, conditioned on a permutation-invariant embedding of a data set."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chainsweep.engines.snpe.settings import Estimator
from chainsweep.numerics.arrays import Floats, strip_prefix

ESTIMATORS = get_args(Estimator)
AUTOREGRESSIVE = ("nsf", "maf", "bpf")
"""The estimators of which couplings of two halves are a special case."""
PERMUTED = ("nsf", "maf")
"""The estimators whose order of parameters differs between their transforms."""
ATTENTION_LAYERS = 2
SPLINE_BINS = 8
ROWS_PER_CALL = {"cpu": 1 << 11, "cuda": 1 << 17}
"""The points of one pass through the flow at inference: as many as fit a processor's cache, or keep a GPU busy."""
SUMMARIES_PER_CALL = 1 << 10


@dataclass(frozen=True)
class Architecture:
    """All sizes that rebuild a network into which its weights fit."""

    parameters: int
    summary: int
    per_point: int
    width: int
    transforms: int
    hidden: int
    embedding: int
    estimator: int
    """The position of the estimator in `ESTIMATORS`."""
    autoregressive: int
    """1 where each parameter depends on all before it, 0 for couplings, which draw in one pass."""
    attention: int = 0
    """The number of layers in which the points of a data set attend to each other."""
    members: int = 1
    """The number of networks of these sizes; where there are several, their numbers are in the names of the weights."""

    def arrays(self) -> dict[str, NDArray]:
        """The sizes by name, each as an integer array."""
        return {name: np.array(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Architecture:
        """The inverse of `arrays`."""
        return cls(**{name: int(arrays[name]) for name in cls.__dataclass_fields__ if name in arrays})


class SetEmbedding(nn.Module):
    """A network that maps summary features and a set of points to one context vector.

    The set branch is a deep set: each point passes through a small network and, on request, through layers in which all
    points attend to each other; the points are then pooled by mean, maximum and learned attention. The order and the
    number of points have an effect only through the features. Where ``mixed_precision`` is set, it computes in bfloat16
    while it is trained.
    """

    HEADS = 4
    mixed_precision = False

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.sizes = sizes
        channels = max(8, sizes.embedding // 2)
        channels -= channels % self.HEADS
        self.point = nn.Sequential(
            nn.Linear(sizes.per_point, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU()
        )
        self.between = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, self.HEADS, 2 * channels, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(sizes.attention)
        )
        self.score = nn.Linear(channels, self.HEADS)
        pooled = channels * (2 + self.HEADS)
        self.enter = nn.Linear(sizes.summary + pooled, 2 * sizes.hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Linear(2 * sizes.hidden, 2 * sizes.hidden),
                nn.SiLU(),
                nn.Linear(2 * sizes.hidden, 2 * sizes.hidden),
            )
            for _ in range(2)
        )
        self.leave = nn.Sequential(nn.SiLU(), nn.Linear(2 * sizes.hidden, sizes.embedding))

    def forward(self, packed: Tensor) -> Tensor:
        """Map features ``(..., packed)`` to context vectors ``(..., embedding)``."""
        kind, mixed = packed.device.type, self.mixed_precision and self.training
        with torch.autocast(kind, torch.bfloat16, enabled=mixed):
            embedded = self._embed(packed)
        return embedded.to(packed.dtype)

    def _embed(self, packed: Tensor) -> Tensor:
        s = self.sizes
        summary, points, mask = packed.split([s.summary, s.width * s.per_point, s.width], dim=-1)
        points = points.unflatten(-1, (s.width, s.per_point))
        mask = mask.unsqueeze(-1)
        h = self.point(points)
        for layer in self.between:
            padding = (mask == 0).flatten(0, -3).squeeze(-1)
            h = layer(h.flatten(0, -3), src_key_padding_mask=padding).unflatten(0, packed.shape[:-1])
        h = h * mask
        mean = h.sum(-2) / mask.sum(-2)
        highest = (h + (mask - 1) * 1e4).amax(-2)
        scores = (self.score(h) + (mask - 1) * 1e4).transpose(-1, -2)
        attended = (torch.softmax(scores, dim=-1) @ h).flatten(-2)
        x = self.enter(torch.cat([summary, mean, highest, attended], dim=-1))
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


def build_estimator(sizes: Architecture, seed: int) -> Any:
    """An untrained sbi density estimator; the same seed gives the same weights."""
    from sbi.neural_nets import net_builders

    name = ESTIMATORS[sizes.estimator]
    build = getattr(net_builders, f"build_zuko_{name}")
    more: dict[str, Any] = {"num_bins": SPLINE_BINS} if name == "nsf" else {}
    if name in PERMUTED:
        more["randperm"] = True
    if name in AUTOREGRESSIVE and not sizes.autoregressive:
        more["passes"] = 2
    packed = sizes.summary + sizes.width * (sizes.per_point + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(
            torch.zeros(2, sizes.parameters),
            torch.ones(2, packed),
            z_score_x="none",
            z_score_y="none",
            # A list: sbi would repeat a single number once per transform, one hidden layer each.
            hidden_features=[sizes.hidden, sizes.hidden],
            num_transforms=sizes.transforms,
            embedding_net=SetEmbedding(sizes),
            **more,
        )


def load_weights(estimator: Any, weights: Mapping[str, NDArray]) -> None:
    """Set all weights and buffers in place; a missing or superfluous name is an error."""
    estimator.load_state_dict({name: torch.as_tensor(np.asarray(value)) for name, value in weights.items()})


class Sampler:
    """Draws and densities of a trained estimator, in double precision and without gradients.

    In double precision the inverse of a narrow flow and its density agree to many digits, so the importance
    weights carry no rounding.
    """

    def __init__(self, estimator: Any, device: str = "cpu") -> None:
        self.estimator = copy.deepcopy(estimator).to(device).double().eval()
        self.device = device

    def draw(self, packed: NDArray[np.float32], base: Floats) -> tuple[Floats, Floats]:
        """Map normal ``base`` ``(dataset, draw, dim)`` to draws of the same shape, with their log density.

        ``packed`` ``(dataset, packed)`` holds the features. One pass: nothing is rejected.
        """
        return self._blocks(packed, base, self._invert)

    def log_prob(self, packed: NDArray[np.float32], w: Floats) -> Floats:
        """Log density at ``w`` ``(dataset, draw, dim)``, shape ``(dataset, draw)``."""
        return self._blocks(packed, w, self._evaluate)[1]

    def summary(self, packed: NDArray[np.float32]) -> Floats:
        """The context vectors ``(dataset, embedding)`` of data sets, on which the flow is conditioned."""
        rows = range(0, len(packed), SUMMARIES_PER_CALL)
        with torch.no_grad():
            parts = [self.estimator.embedding_net(self._tensor(packed[i : i + SUMMARIES_PER_CALL])) for i in rows]
        return np.concatenate([part.cpu().numpy() for part in parts])

    def _blocks(self, packed: NDArray[np.float32], points: Floats, function: Any) -> tuple[Floats, Floats]:
        datasets, draws, _ = points.shape
        values, densities = np.empty_like(points), np.empty((datasets, draws))
        at_once = ROWS_PER_CALL[torch.device(self.device).type]
        rows, columns = max(1, at_once // draws), min(draws, at_once)
        with torch.no_grad():
            for i in range(0, datasets, rows):
                context = self.estimator.embedding_net(self._tensor(packed[i : i + rows]))
                for j in range(0, draws, columns):
                    block = (slice(i, i + rows), slice(j, j + columns))
                    distribution = self.estimator.net(context.unsqueeze(1))
                    result, density = function(distribution, self._tensor(points[block]))
                    values[block], densities[block] = result.cpu().numpy(), density.cpu().numpy()
        return values, densities

    def _tensor(self, values: NDArray) -> Tensor:
        """A copy of ``values`` as a tensor; torch warns about read-only arrays."""
        return torch.as_tensor(np.array(values, np.float64), device=self.device)

    @staticmethod
    def _invert(distribution: Any, base: Tensor) -> tuple[Tensor, Tensor]:
        w, log_jacobian = invert_couplings(distribution.transform, base)
        log_base = -0.5 * (base.square() + np.log(2 * np.pi)).sum(-1)
        return w, log_base + log_jacobian

    @staticmethod
    def _evaluate(distribution: Any, w: Tensor) -> tuple[Tensor, Tensor]:
        return w, distribution.log_prob(w)


class Ensemble:
    """Several networks as one: their mixture in equal parts. It has all methods of a `Sampler`."""

    def __init__(self, members: Sequence[Sampler]) -> None:
        self.members = members

    def draw(self, packed: NDArray[np.float32], base: Floats) -> tuple[Floats, Floats]:
        """Map the draws of ``base`` by the networks in turn; the density is that of the mixture."""
        w = np.empty_like(base)
        for number, member in enumerate(self.members):
            own = slice(number, None, len(self.members))
            if base[:, own].size:
                w[:, own] = member.draw(packed, np.ascontiguousarray(base[:, own]))[0]
        return w, self.log_prob(packed, w)

    def log_prob(self, packed: NDArray[np.float32], w: Floats) -> Floats:
        """Log density of the mixture at ``w`` ``(dataset, draw, dim)``, shape ``(dataset, draw)``."""
        every = [member.log_prob(packed, w) for member in self.members]
        return np.asarray(np.logaddexp.reduce(every, axis=0) - np.log(len(every)), float)

    def summary(self, packed: NDArray[np.float32]) -> Floats:
        """The context vectors of all networks, joined to ``(dataset, members * embedding)``."""
        return np.concatenate([member.summary(packed) for member in self.members], axis=1)


def sampler_of(sizes: Architecture, weights: Mapping[str, NDArray], device: str) -> Sampler | Ensemble:
    """The sampler of a trained network, or of an ensemble of several."""
    if sizes.members > 1:
        single = replace(sizes, members=1)
        return Ensemble([_sampler(single, strip_prefix(str(k), weights), device) for k in range(sizes.members)])
    return _sampler(sizes, weights, device)


def _sampler(sizes: Architecture, weights: Mapping[str, NDArray], device: str) -> Sampler:
    estimator = build_estimator(sizes, seed=0)
    load_weights(estimator, weights)
    return Sampler(estimator, device)


def invert_couplings(transform: Any, base: Tensor) -> tuple[Tensor, Tensor]:
    """Map ``base`` ``(dataset, draw, dim)`` to parameters; return them and ``log |d base / d parameters|``.

    zuko inverts a coupling in two passes over its network and computes the Jacobian in a third. The first pass
    serves only the half that depends on the context alone, so it is the same for all draws; the second already gives
    the Jacobian. So one pass per coupling and draw is enough. Other transforms are inverted as zuko does.
    """
    from zuko.transforms import AutoregressiveTransform

    point, log_jacobian = base, torch.zeros(base.shape[:-1], dtype=base.dtype, device=base.device)
    for part in reversed(transform.transforms):
        conditional = part
        if isinstance(part, AutoregressiveTransform) and part.passes == 2:
            first = part.meta(torch.zeros_like(point[:, :1]))
            conditional = part.meta(first.inv(point))
        inverse = conditional.inv(point)
        log_jacobian = log_jacobian + conditional.log_abs_det_jacobian(inverse, point)
        point = inverse
    return point, log_jacobian
