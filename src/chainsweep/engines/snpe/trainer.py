"""The training loop: fresh pairs, decaying rate, averaged weights, a held-out loss, exact resumption.

Maximum likelihood of the parameters given the simulated data, amortised over the campaign's designs::

    loss = - E_{d, theta, y} log q(w(theta) | y, d)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import jax
import numpy as np
import torch
from numpy.typing import NDArray

from chainsweep.engines.snpe.estimator import Architecture, build_estimator
from chainsweep.engines.snpe.job import HISTORY, Job, TrainingProgress
from chainsweep.engines.snpe.settings import SnpeSettings
from chainsweep.engines.snpe.simulator import (
    ROWS_PER_BLOCK,
    VALIDATION_BLOCK,
    Pairs,
    Provider,
    usable_pairs,
)
from chainsweep.errors import ModelError
from chainsweep.numerics.arrays import Arrays

WARMUP_SHARE = 0.05
FINAL_RATE = 1e-3
"""The learning rate at the end, relative to its peak."""
AVERAGING_SHARE = 0.02
"""The time constant of the weight average, relative to the steps done so far."""
AVERAGING_STEPS = 4
"""The number of steps between two updates of the weight average."""
CHECKPOINT_STEPS = 50
"""The number of training steps between two saved states."""
CLIP_NORM = 5.0
VALIDATIONS = 20
VALIDATION_SHARE = 0.25
"""The most held-out simulations in all validations together, relative to those that a network is trained on."""
FEWEST_HELD_OUT = 1024
FIRST_BLOCK = VALIDATION_BLOCK + 1
BLOCKS_OF_A_MEMBER = 1 << 24
"""The block numbers reserved for each network of an ensemble, so that each learns from simulations of its own."""


def steps_per_block(settings: SnpeSettings) -> int:
    """Return the number of training steps that share one block of simulations."""
    return max(1, ROWS_PER_BLOCK // settings.tuning.batch)


class Trainer:
    """One network in training; `step_once` is the whole algorithm, the rest is book-keeping.

    ``member`` numbers the networks of an ensemble, which differ in their first weights and simulations.
    ``keep_best`` is for a bank of simulations, to which a network can overfit: the weights of the lowest
    held-out loss are kept then. On fresh simulations the last weights are the best ones.
    """

    def __init__(
        self,
        provider: Provider,
        sizes: Architecture,
        settings: SnpeSettings,
        seed: int,
        *,
        device: str = "cpu",
        keep_best: bool = False,
        member: int = 0,
    ) -> None:
        self.provider = provider
        self.settings = settings
        self.seed = seed
        self.device = torch.device(device)
        self.first_block = FIRST_BLOCK + member * BLOCKS_OF_A_MEMBER
        self.estimator = build_estimator(sizes, seed + member).to(self.device)
        self.estimator.embedding_net.mixed_precision = settings.tuning.mixed_precision
        self.names = [name for name, _ in self.estimator.named_parameters()]
        self.parameters = [parameter for _, parameter in self.estimator.named_parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=settings.tuning.learning_rate, fused=True)
        self.progress = TrainingProgress()
        self.keep_best = keep_best
        self.best: list[torch.Tensor] = []
        self.block_number = -1
        self.block: tuple[torch.Tensor, torch.Tensor] | None = None
        self.background: ThreadPoolExecutor | None = None
        """The thread that makes the next block while this one is learnt."""
        self.coming: dict[int, Future[Pairs]] = {}

    def fraction(self) -> float:
        """The finished share of the training: by steps, or by time where ``train_minutes`` is set and gives more."""
        done = self.progress.step / self.settings.train_steps
        if self.settings.train_minutes is not None:
            done = max(done, self.progress.seconds / (60 * self.settings.train_minutes))
        return min(done, 1.0)

    def rate(self) -> float:
        """The learning rate: a linear rise, then half a cosine down to `FINAL_RATE` of the peak."""
        fraction = self.fraction()
        rise = min(1.0, (fraction + 1 / self.settings.train_steps) / WARMUP_SHARE)
        fall = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * fraction))
        return self.settings.tuning.learning_rate * rise * fall

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of the current step."""
        batch = self.settings.tuning.batch
        steps = steps_per_block(self.settings)
        number, offset = divmod(self.progress.step, steps)
        if self.block_number != number:
            self.block = self._tensors(self._made(self.first_block + number, steps * batch))
            self.block_number = number
        assert self.block is not None
        rows = slice(offset * batch, (offset + 1) * batch)
        return self.block[0][rows], self.block[1][rows]

    def _made(self, number: int, rows: int) -> Pairs:
        coming = self.coming.get(number)
        made = coming.result() if coming is not None else self.provider.block(number, rows)
        if self.background is not None:
            self.coming = {number + 1: self.background.submit(self.provider.block, number + 1, rows)}
        return made

    def step_once(self) -> None:
        """Make one optimiser step; a step whose loss or gradient is not finite is skipped and counted."""
        packed, w = self.pairs()
        rate = self.rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.estimator.loss(w, packed)
        loss = losses.mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        if len(losses) and bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self.optimiser.step()
            self._update_average()
            self.progress.recent.append(float(loss.detach()))
        else:
            self.progress.skipped += 1
        self.progress.step += 1

    def _update_average(self) -> None:
        if self.progress.step % AVERAGING_STEPS:
            return
        share = min(1.0, AVERAGING_STEPS / (AVERAGING_SHARE * (self.progress.step + 1)))
        with torch.no_grad():
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter, share)

    def _tensors(self, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        packed, w = (_tensor(part, self.device) for part in pairs)
        usable = torch.isfinite(packed).all(dim=1) & torch.isfinite(w).all(dim=1)
        if not usable.any():
            raise ModelError(
                f"snpe: none of {len(w)} simulated data sets has finite observations and parameters; "
                "check the prior and the simulator of the model for NaN and overflow"
            )
        # Unusable rows are replaced by usable ones, so every step has the same shape.
        rows = torch.nonzero(usable).squeeze(1)
        rows = rows[torch.arange(len(w), device=self.device) % len(rows)]
        return packed[rows], w[rows]

    def best_weights(self) -> Arrays:
        """The state of the estimator with averaged weights: the last ones, or those of the lowest held-out loss."""
        chosen = self.best if self.keep_best and self.best else self.average
        state = {name: value.detach().cpu().numpy().copy() for name, value in self.estimator.state_dict().items()}
        for name, value in zip(self.names, chosen, strict=True):
            state[name] = value.cpu().numpy().copy()
        return state

    @cached_property
    def held_out(self) -> Pairs:
        """The usable pairs of the simulations that training never sees."""
        return usable_pairs(*self.provider.block(VALIDATION_BLOCK, ROWS_PER_BLOCK))

    def validation_loss(self) -> float:
        """Mean loss of the averaged weights on held-out simulations: all of them, or fewer in a short training."""
        trained_on = self.settings.train_steps * self.settings.tuning.batch
        rows = max(FEWEST_HELD_OUT, int(VALIDATION_SHARE * trained_on / VALIDATIONS))
        packed, w = self._tensors(tuple(part[:rows] for part in self.held_out))
        current = [parameter.detach().clone() for parameter in self.parameters]
        self.estimator.eval()
        with torch.no_grad():
            self._set_parameters(self.average)
            losses = torch.cat(
                [self.estimator.loss(w[i : i + 1024], packed[i : i + 1024]) for i in range(0, len(w), 1024)]
            )
            self._set_parameters(current)
        self.estimator.train()
        return float(losses[torch.isfinite(losses)].mean())

    def _set_parameters(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def record(self) -> None:
        """Append a line to the history."""
        p = self.progress
        train_loss = float(np.mean(p.recent)) if p.recent else math.nan
        simulations = p.step * self.settings.tuning.batch
        loss = self.validation_loss()
        if self.keep_best and not loss > min((line[2] for line in p.history), default=math.inf):
            self.best = [value.clone() for value in self.average]
        p.history.append((p.step, train_loss, loss, self.rate(), simulations, p.seconds))
        p.recent = []

    def arrays(self) -> Arrays:
        """The complete state, from which `restore` continues bit for bit."""
        state: Arrays = {f"progress/{name}": value for name, value in self.progress.arrays().items()}
        for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
            state[f"weights/{name}"] = parameter.detach().cpu().numpy().copy()
            state[f"average/{name}"] = average.cpu().numpy().copy()
            for moment, value in self.optimiser.state[parameter].items():
                state[f"{moment}/{name}"] = value.cpu().numpy().copy()
        for name, value in zip(self.names, self.best, strict=False):
            state[f"best/{name}"] = value.cpu().numpy().copy()
        return state

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Continue from what `arrays` gave."""
        self.progress = TrainingProgress.from_arrays(
            {name.removeprefix("progress/"): v for name, v in state.items() if name.startswith("progress/")}
        )
        if f"best/{self.names[0]}" in state:
            self.best = [torch.as_tensor(state[f"best/{name}"]).to(self.device) for name in self.names]
        with torch.no_grad():
            for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
                parameter.copy_(torch.as_tensor(state[f"weights/{name}"]))
                average.copy_(torch.as_tensor(state[f"average/{name}"]))
                moments = {
                    moment: torch.as_tensor(np.array(state[f"{moment}/{name}"])).to(self.device)
                    for moment in ("step", "exp_avg", "exp_avg_sq")
                    if f"{moment}/{name}" in state
                }
                if moments:
                    self.optimiser.state[parameter] = moments


def _tensor(part: Any, device: torch.device) -> torch.Tensor:
    """A tensor of ``part`` on ``device``; a JAX array that is there already is not copied."""
    if isinstance(part, jax.Array):
        platform = next(iter(part.devices())).platform
        if (device.type == "cuda") == (platform != "cpu"):
            return torch.from_dlpack(part)
    return torch.as_tensor(np.array(part), device=device)


def fit(trainer: Trainer, job: Job, kept: Arrays, note: str = "training") -> bool:
    """Train to the end of the schedule; return False if the deadline came first (the state is saved then).

    The complete state goes to the sink, together with ``kept``, every ``CHECKPOINT_STEPS`` steps.

    Raises
    ------
    ModelError
        Most steps had a loss or gradient that is not finite.
    """
    with ThreadPoolExecutor(1, "simulations") as background:
        trainer.background = background
        try:
            return _fit(trainer, job, kept, note)
        finally:
            trainer.background = None


def _fit(trainer: Trainer, job: Job, kept: Arrays, note: str) -> bool:
    settings, progress = trainer.settings, trainer.progress
    while trainer.fraction() < 1.0 and not _stands_still(progress, settings.tuning.stop_after):
        if job.deadline():
            job.sink.checkpoint({**kept, **trainer.arrays()})
            return False
        started = time.monotonic()
        trainer.step_once()
        progress.seconds += time.monotonic() - started
        _check_skipped(progress)
        if trainer.fraction() >= min(1.0, (len(progress.history) + 1) / VALIDATIONS):
            trainer.record()
            loss = progress.history[-1][HISTORY.index("validation_loss")]
            job.sink.progress(progress.step, settings.train_steps, f"{note}: validation loss {loss:.3f}")
        if progress.step % CHECKPOINT_STEPS == 0:
            job.sink.checkpoint({**kept, **trainer.arrays()})
    return True


def _stands_still(progress: TrainingProgress, patience: int | None) -> bool:
    """True where the held-out loss has not fallen in the last ``patience`` validations."""
    losses = [line[HISTORY.index("validation_loss")] for line in progress.history]
    return patience is not None and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])


def _check_skipped(progress: TrainingProgress) -> None:
    if progress.step >= 50 and progress.skipped > progress.step / 2:
        raise ModelError(
            f"snpe: {progress.skipped} of {progress.step} training steps had a loss that is no number; "
            "lower [engines.snpe.tuning] learning_rate, or check the model's prior for extreme values"
        )
