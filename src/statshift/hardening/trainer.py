"""The one trainer: descent on the losses of a method, over addressed images, resumable to the bit on a CPU."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from statshift._core import processes
from statshift._core.errors import InputError
from statshift._core.randomness import keys
from statshift._core.resumption import Checkpoint, Stateful, interruptible
from statshift._core.walking import modules_of
from statshift.data import ImageData
from statshift.hardening.batch import Batch, Losses, takes_channels_last
from statshift.hardening.batches import Batches
from statshift.hardening.optimisation import optimizer_of
from statshift.hardening.pairs import augmentation_of
from statshift.hardening.training import Step, TrainingOptions
from statshift.measuring.loading import DTYPES, count_classes, dtype_name, fit_to_model
from statshift.norms.synchronisation import synchronised
from statshift.tasks.classification import CLASSIFICATION
from statshift.tasks.task import Task

CHECKED_EVERY = 10  # steps: the losses are looked at, which waits for a GPU


class Objective(nn.Module):
    """The losses of a method in one forward, which is what DistributedDataParallel can wrap."""

    def __init__(self, branches: nn.Module, method: Callable[[Any, Batch], Losses]) -> None:
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
    branches: nn.Module,
    data: ImageData,
    method: Callable[[Any, Batch], Losses],
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
        branches: `Branches`, or another module whose `clean` is a model of such images; on the device to train on.
            Their parameters that require a gradient are trained.
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
    training = _Training(branches, data, method, options, task, checkpoint, identity or {})
    norms = [module for module in modules_of(branches) if isinstance(module, _BatchNorm)]
    generators = [training.device] if training.device.type == "cuda" else []
    with interruptible() as stop, torch.random.fork_rng(generators), synchronised(norms):
        training.keep()
        while len(training.state.history) < options.epochs:
            training.epoch(progress, stop.is_set)
            training.conclude(validate)
            if stop.is_set():
                raise KeyboardInterrupt
    return training.end()


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

    def add(self, losses: Mapping[str, float]) -> None:
        """Add a step's losses to the epoch's."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += 1


class _Training:
    """A training at work: what it descends with, how far it is, and where it is kept."""

    def __init__(
        self,
        branches: nn.Module,
        data: ImageData,
        method: Callable[[Any, Batch], Losses],
        options: TrainingOptions,
        task: Task,
        checkpoint: Path | None,
        identity: Mapping[str, Any],
    ) -> None:
        self.rank, world = processes.join()
        self.device = next(branches.parameters()).device
        self.branches, self.options = branches, options
        self.channels_last = options.channels_last and takes_channels_last(method, self.device)
        self.data = fit_to_model(_clean_of(branches), data, self.device)
        self.batches = Batches(
            self.data,
            augmentation_of(options, self.data, getattr(branches.clean, "mean", None)),
            options.batch_size,
            options.accumulate,
            count_classes(_clean_of(branches), self.data, task),
            self.device,
            DTYPES[dtype_name(options.dtype)],
            self.channels_last,
            task,
            attack_dtype=None if options.attack_dtype is None else DTYPES[dtype_name(options.attack_dtype)],
        )
        if self.channels_last:
            branches.to(memory_format=torch.channels_last)
        trained = [parameter for parameter in branches.parameters() if parameter.requires_grad]
        self.optimiser = optimizer_of(
            options.optimizer,
            trained,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            nesterov=options.nesterov,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.dtype == "float16")
        parts: dict[str, Stateful] = {"branches": branches, "optimiser": self.optimiser, "scaler": self.scaler}
        self.kept = Checkpoint(checkpoint if self.rank == 0 else None, identity, parts)
        content = processes.from_first(self.kept.read())
        self.state = _State() if content is None else _State(**self.kept.restore(content))
        self.objective: nn.Module = Objective(branches, method)
        if world > 1:
            self.objective = DistributedDataParallel(self.objective)
        self.learned = [*trained, *(buffer for buffer in branches.buffers() if buffer.is_floating_point())]
        self.pending: list[tuple[int, NDArray[np.int64], Losses]] = []
        self.saved = f" The last good state is in {checkpoint}." if checkpoint else ""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return self.options.rate(step, self.batches.per_epoch)

    def look(self) -> None:
        """Look at the losses of the last steps, and stop at the first that is not finite."""
        for number, positions, losses in self.pending:
            values = {name: float(value) for name, value in losses.items()}
            if not all(map(math.isfinite, values.values())):
                told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                shown = ", ".join(map(str, self.data.indices[positions][:8].tolist()))
                raise InputError(
                    f"The loss of step {number} is not finite ({told}); its batch begins with the images {shown}. Try "
                    f"a smaller learning rate.{self.saved}"
                )
            self.state.add(values)
        self.pending.clear()

    def keep(self) -> None:
        """Write the checkpoint, if all is finite."""
        self.look()
        if not all(torch.stack([tensor.isfinite().all() for tensor in self.learned]).tolist()):
            if self.state.step == 0:
                raise InputError("Expected a model with finite weights to train.")
            raise InputError(
                f"The weights are not finite after step {self.state.step}. Try a smaller learning rate.{self.saved}"
            )
        self.kept.write(vars(self.state))

    def step(self, coming: Iterator[tuple[Batch, NDArray[np.int64]]]) -> bool:
        """Take a step on the next parts of a batch, and return whether the losses were looked at."""
        options, state = self.options, self.state
        rate = self.rate(state.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        torch.manual_seed(_seed_of(options.seed, state.step, self.rank))
        for number in range(options.accumulate):
            batch, positions = next(coming)
            with _unsynchronised(self.objective, number + 1 < options.accumulate):
                losses: Losses = self.objective(batch)
                weighed = [options.gamma * loss if name == "adv" else loss for name, loss in losses.items()]
                torch.autograd.backward(self.scaler.scale(torch.stack(weighed).sum() / options.accumulate))
            everyones = processes.mean_over_ranks(torch.stack([loss.detach() for loss in losses.values()]))
            self.pending.append((state.step + 1, positions, dict(zip(losses, everyones, strict=True))))
        looked = self.device.type == "cpu" or (state.step + 1) % CHECKED_EVERY == 0
        if looked:
            self.look()  # before the weights are: a loss that is not finite must not be learned from
        self.scaler.step(self.optimiser)
        self.scaler.update()
        state.step += 1
        return looked

    def epoch(self, progress: Callable[[Step], None] | None, is_stopped: Callable[[], bool]) -> None:
        """Take the steps that an epoch still has."""
        options, state, per_epoch = self.options, self.state, self.batches.per_epoch
        epoch = len(state.history)
        first = state.step - epoch * per_epoch
        self.branches.train()
        means: dict[str, float] = {}
        with closing(self.batches.epoch(epoch, first)) as coming:
            for _ in range(first, per_epoch):
                if self.step(coming):
                    means = state.means
                if progress:
                    progress(Step(state.step, options.epochs * per_epoch, epoch + 1, options.epochs, means))
                stopped = processes.any_rank(is_stopped())
                if stopped or self.kept.is_due(options.checkpoint_every):
                    self.keep()
                if stopped:
                    raise KeyboardInterrupt
        self.look()
        self.branches.eval()

    def conclude(self, validate: Callable[[int], Mapping[str, Any]] | None) -> None:
        """Write an epoch into the history."""
        state = self.state
        done = len(state.history) + 1
        entry: dict[str, Any] = {"epoch": done, "learning_rate": self.rate(state.step - 1), "losses": state.means}
        if validate:
            self.keep()
            entry["validation"] = dict(validate(done))
        state.history.append(entry)
        state.sums, state.counted = {}, 0
        self.keep()

    def end(self) -> list[dict[str, Any]]:
        """Leave the branches in evaluation mode, and return the history."""
        self.optimiser.zero_grad()
        if self.channels_last:  # what rounds as the network in a file does
            self.branches.to(memory_format=torch.contiguous_format)
        self.branches.eval()
        return self.state.history


def _clean_of(branches: nn.Module) -> nn.Module:
    found = branches.clean
    assert isinstance(found, nn.Module)
    return found


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Return what a step's global generators are seeded with, for dropout and whatever else a model draws."""
    low, high = keys(seed, torch.tensor([step]), f"step, process {rank}")[0].tolist()
    return int(low % 2**32 + (high % 2**31) * 2**32)


def _unsynchronised(objective: nn.Module, wanted: bool) -> AbstractContextManager[object]:
    """Leave the exchange of gradients to the last part of a batch."""
    return objective.no_sync() if wanted and isinstance(objective, DistributedDataParallel) else nullcontext()
