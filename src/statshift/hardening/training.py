"""The one trainer: descent on the losses of a method, over addressed images, resumable to the bit on a CPU."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from statshift._core import processes
from statshift._core.errors import InputError, unknown
from statshift._core.randomness import keys
from statshift._core.resumption import Checkpoint, Stateful, interruptible
from statshift.data import ImageData
from statshift.hardening.augmentation import AUGMENTATIONS, augmentation_for
from statshift.hardening.batch import Batch, Losses, takes_channels_last
from statshift.hardening.batches import Batches
from statshift.hardening.optimisation import OPTIMIZERS, SCHEDULES, WITH_MOMENTUM, optimizer_of, rate_at
from statshift.measuring.evaluate import DTYPES
from statshift.measuring.loading import fit_to_model
from statshift.models import extract_logits
from statshift.norms.layers import evaluating, run
from statshift.norms.synchronisation import synchronised
from statshift.splitting.branches import Branches
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

CHECKED_EVERY = 10  # steps: the losses are looked at, which waits for a GPU


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the defaults fine-tune as Shu et al. do.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step, over all processes and parts; a last batch that is smaller is left out.
        learning_rate: the highest.
        schedule: "step" multiplies it by `decay_factor` half-way, or after the `decay_epochs`; "one-cycle" raises it
            for a fifth of the steps and lowers it to nothing along a cosine, so that running statistics settle;
            "constant" leaves it; "cosine" lowers it to nothing from the first step on.
        decay_epochs: numbers of epochs done, ascending, for the schedule "step"; None is half-way.
        decay_factor: factor of the schedule "step".
        optimizer: one of `OPTIMIZERS`.
        momentum: momentum of SGD; the others keep the default, which they do not use.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: weight decay of all parameters.
        accumulate: parts that each process's share of a batch is cut into; statistics are then each part's.
        augment: one of `AUGMENTATIONS`.
        dtype: what the model runs in, by autocast unless "float32".
        channels_last: lay the model and its features out channels last while it trains, which convolutions prefer;
            not on a CPU for a method that takes gradients of gradients, see `takes_channels_last`.
        gamma: weight of the adversarial branch's loss.
        seed: seed of order, augmentation and every other draw.
        checkpoint_every: seconds between checkpoints within an epoch, at the end of which there always is one.

    Raises:
        InputError: values that cannot be, all told together.

    Reference:
        Shu et al., NeurIPS 2021, section 5.1; gamma: the ICLR 2021 submission, appendix E.
    """

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    schedule: str = "step"
    decay_epochs: tuple[int, ...] | None = None
    decay_factor: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    accumulate: int = 1
    augment: str = "standard"
    dtype: str = "float32"
    channels_last: bool = True
    gamma: float = 1.0
    seed: int = 0
    checkpoint_every: float = 300.0

    def __post_init__(self) -> None:
        faults = [
            f"Expected `{name}` to be an integer of at least {least}, but got {getattr(self, name)}."
            for name, least in (("epochs", 1), ("batch_size", 2), ("accumulate", 1))
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least
        ]
        if not 0 < self.learning_rate < math.inf:
            faults.append(f"Expected `learning_rate` above 0, but got {self.learning_rate}.")
        faults += [
            f"Expected `{name}` to be at least 0, but got {getattr(self, name)}."
            for name in ("momentum", "weight_decay", "gamma")
            if not 0 <= getattr(self, name) < math.inf
        ]
        if not self.checkpoint_every >= 0:
            faults.append(f"Expected `checkpoint_every` to be at least 0, but got {self.checkpoint_every}.")
        if self.nesterov and self.momentum == 0:
            faults.append("Expected `momentum` above 0 for Nesterov's, but got 0.")
        choices: tuple[tuple[str, Iterable[str]], ...] = (
            ("schedule", SCHEDULES),
            ("optimizer", OPTIMIZERS),
            ("augment", AUGMENTATIONS),
            ("dtype", DTYPES),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                faults.append(str(unknown(name, getattr(self, name), known)))
        faults += self._faults_of_decay()
        if self.optimizer in OPTIMIZERS and self.optimizer not in WITH_MOMENTUM:
            faults += [
                f"Expected no `{name}` for the optimizer {self.optimizer}, but got {getattr(self, name)}."
                for name in ("momentum", "nesterov")
                if getattr(self, name) != getattr(TrainingOptions, name)
            ]
        if faults:
            raise InputError(" ".join(faults))
        if self.decay_epochs is not None:
            object.__setattr__(self, "decay_epochs", tuple(self.decay_epochs))

    def _faults_of_decay(self) -> list[str]:
        faults = []
        if not 0 < self.decay_factor < 1:
            faults.append(f"Expected `decay_factor` above 0 and below 1, but got {self.decay_factor}.")
        epochs = self.decay_epochs
        if epochs is not None and not (
            isinstance(epochs, tuple | list)
            and epochs
            and all(isinstance(epoch, int) and epoch >= 1 for epoch in epochs)
            and all(a < b for a, b in pairwise([*epochs, self.epochs]))
        ):
            faults.append(
                f"Expected `decay_epochs` to ascend from 1 to below the {self.epochs} epochs, but got {epochs}."
            )
        faults += [
            f"Expected no `{name}` for the schedule {self.schedule}, but got {getattr(self, name)}."
            for name in ("decay_epochs", "decay_factor")
            if self.schedule in SCHEDULES and self.schedule != "step"
            if getattr(self, name) != getattr(TrainingOptions, name)
        ]
        return faults

    def rate(self, step: int, per_epoch: int) -> float:
        """Return the learning rate of a step, from 0, where an epoch has `per_epoch`."""
        steps = self.epochs * per_epoch
        decays = [-(-steps // 2)] if self.decay_epochs is None else [epoch * per_epoch for epoch in self.decay_epochs]
        return rate_at(self.schedule, step, steps, self.learning_rate, decays=decays, factor=self.decay_factor)


@dataclass(frozen=True)
class Step:
    """How far a training is: `step` of `steps` is done, in `epoch` of `epochs`; `losses` are its last known."""

    step: int
    steps: int
    epoch: int
    epochs: int
    losses: Mapping[str, float]


@dataclass
class _State:
    """How far a training is: steps done, epochs concluded, and the losses of the epoch at work."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0

    @property
    def means(self) -> dict[str, float]:
        return {name: value / self.counted for name, value in self.sums.items()}


class Objective(nn.Module):
    """The losses of a method in one forward, which is what DistributedDataParallel can wrap."""

    def __init__(self, branches: Branches, method: Callable[[Branches, Batch], Losses]) -> None:
        super().__init__()
        self.branches = branches
        self._method = method
        self.training = branches.training

    def forward(self, batch: Batch) -> Losses:
        """Return the mean loss of each branch."""
        mixed = batch.dtype if batch.dtype != torch.float32 else None
        device = batch.images.device.type
        with torch.autocast(device, mixed) if mixed is not None else nullcontext():
            return self._method(self.branches, batch)


def train(
    branches: Branches,
    data: ImageData,
    method: Callable[[Branches, Batch], Losses],
    options: TrainingOptions,
    *,
    task: Task = CLASSIFICATION,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    validate: Callable[[int], Mapping[str, Any]] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> list[dict[str, Any]]:
    """Train branches in place by a method; they are left in evaluation mode.

    Order, augmentation, dropout and every other draw are addressed by seed, epoch and image or step, so a training
    that goes on from a checkpoint ends with the weights of one that was never stopped. Started by torchrun or
    `accelerate launch`, the processes share each batch, and statistics and gradients are the whole batch's.

    Args:
        branches: on the device to train on; their parameters that require a gradient are trained.
        data: with labels.
        method: a `Method`, or another function of the branches and a batch to the losses.
        options: how.
        task: what the labels are of, as it is `fitted` to the data.
        checkpoint: file to keep the state in, replaced atomically; if it is there, training goes on from it.
        identity: what the checkpoint must have been made with.
        validate: called with the number of epochs done after each; what it returns goes into the history.
        progress: called after each step.

    Returns:
        The history: for each epoch the mean losses, the learning rate, and what `validate` returned.

    Raises:
        InputError: labels that do not fit, a batch that cannot be shared out, a loss that is not finite, a checkpoint
            that is another training's or cannot be written. The last checkpoint is kept.
    """
    rank, world = processes.join()
    device = next(branches.parameters()).device
    channels_last = options.channels_last and takes_channels_last(method, device)
    data = fit_to_model(branches.clean, data, device)
    batches = Batches(
        data,
        augmentation_for(options.augment, data, options.seed),
        options.batch_size,
        options.accumulate,
        _count_classes(branches, data, task),
        device,
        DTYPES[options.dtype],
        channels_last,
        task,
    )
    per_epoch = batches.per_epoch
    steps = options.epochs * per_epoch
    if channels_last:
        branches.to(memory_format=torch.channels_last)
    trained = [parameter for parameter in branches.parameters() if parameter.requires_grad]
    optimiser = optimizer_of(
        options.optimizer,
        trained,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.nesterov,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=options.dtype == "float16")
    parts: dict[str, Stateful] = {"branches": branches, "optimiser": optimiser, "scaler": scaler}
    kept = Checkpoint(checkpoint if rank == 0 else None, identity or {}, parts)
    content = processes.from_first(kept.read())
    state = _State() if content is None else _State(**kept.restore(content))
    objective: nn.Module = Objective(branches, method)
    if world > 1:
        objective = DistributedDataParallel(objective)
    norms = [module for module in branches.modules() if isinstance(module, _BatchNorm)]
    saved = f" The last good state is in {checkpoint}." if checkpoint else ""
    learned = [*trained, *(buffer for buffer in branches.buffers() if buffer.is_floating_point())]
    pending: list[tuple[int, NDArray[np.int64], Losses]] = []

    def look() -> None:
        """Look at the losses of the last steps, and stop at the first that is not finite."""
        for number, positions, losses in pending:
            values = {name: float(value) for name, value in losses.items()}
            if not all(map(math.isfinite, values.values())):
                told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                shown = ", ".join(map(str, data.indices[positions][:8].tolist()))
                raise InputError(
                    f"The loss of step {number} is not finite ({told}); its batch begins with the images {shown}. Try "
                    f"a smaller learning rate.{saved}"
                )
            for name, value in values.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            state.counted += 1
        pending.clear()

    def keep() -> None:
        look()
        if not all(torch.stack([tensor.isfinite().all() for tensor in learned]).tolist()):
            if state.step == 0:
                raise InputError("Expected a model with finite weights to train.")
            raise InputError(f"The weights are not finite after step {state.step}. Try a smaller learning rate.{saved}")
        kept.write(vars(state))

    with interruptible() as stop, torch.random.fork_rng([device] if device.type == "cuda" else []), synchronised(norms):
        keep()
        while len(state.history) < options.epochs:
            epoch = len(state.history)
            first = state.step - epoch * per_epoch
            branches.train()
            coming = batches.epoch(epoch, first)
            means: dict[str, float] = {}
            for _ in range(first, per_epoch):
                rate = options.rate(state.step, per_epoch)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.zero_grad()
                torch.manual_seed(_seed_of(options.seed, state.step, rank))
                for number in range(options.accumulate):
                    batch, positions = next(coming)
                    with _unsynchronised(objective, number + 1 < options.accumulate):
                        losses: Losses = objective(batch)
                        weighed = [options.gamma * loss if name == "adv" else loss for name, loss in losses.items()]
                        torch.autograd.backward(scaler.scale(torch.stack(weighed).sum() / options.accumulate))
                    everyones = processes.mean_over_ranks(torch.stack([loss.detach() for loss in losses.values()]))
                    pending.append((state.step + 1, positions, dict(zip(losses, everyones, strict=True))))
                if device.type == "cpu" or (state.step + 1) % CHECKED_EVERY == 0:
                    look()  # before the weights are: a loss that is not finite must not be learned from
                    means = state.means
                scaler.step(optimiser)
                scaler.update()
                state.step += 1
                if progress:
                    progress(Step(state.step, steps, epoch + 1, options.epochs, means))
                stopped = processes.any_rank(stop.is_set())
                if stopped or kept.is_due(options.checkpoint_every):
                    keep()
                if stopped:
                    raise KeyboardInterrupt
            look()
            branches.eval()
            entry: dict[str, Any] = {"epoch": epoch + 1, "learning_rate": options.rate(state.step - 1, per_epoch)}
            entry["losses"] = state.means
            if validate:
                keep()
                entry["validation"] = dict(validate(epoch + 1))
            state.history.append(entry)
            state.sums, state.counted = {}, 0
            keep()
            if stop.is_set():
                raise KeyboardInterrupt
    optimiser.zero_grad()
    if channels_last:  # what rounds as the network in a file does
        branches.to(memory_format=torch.contiguous_format)
    branches.eval()
    return state.history


def _count_classes(branches: Branches, data: ImageData, task: Task) -> int:
    """Return K, the width of the logits.

    Raises:
        InputError: the labels are not what the logits are of.
    """
    images, _ = next(data.batches(1, which=[0]))
    device = next(branches.parameters()).device
    with torch.no_grad(), evaluating(branches.clean):
        classes = task.width(extract_logits(run(branches.clean, images.to(device).float() / 255)))
    task.check_labels(data, classes)
    return classes


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Return what a step's global generators are seeded with, for dropout and whatever else a model draws."""
    low, high = keys(seed, torch.tensor([step]), f"step, process {rank}")[0].tolist()
    return int(low % 2**32 + (high % 2**31) * 2**32)


def _unsynchronised(objective: nn.Module, wanted: bool) -> AbstractContextManager[object]:
    """Leave the exchange of gradients to the last part of a batch."""
    return objective.no_sync() if wanted and isinstance(objective, DistributedDataParallel) else nullcontext()
