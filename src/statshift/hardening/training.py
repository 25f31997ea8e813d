"""How to train: epochs, batch, learning rate, augmentation and so on, and what is wrong with them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from statshift._core.errors import InputError, unknown
from statshift.hardening.augmentation import AUGMENTATIONS
from statshift.hardening.optimisation import OPTIMIZERS, SCHEDULES, WITH_MOMENTUM, rate_at
from statshift.measuring.loading import Dtype, dtype_name

USUAL_SCALE = (0.5, 2.0)
"""From what to what images with label maps are scaled."""

PAIR_OPTIONS = ("window", "scale", "aspect", "colour")
"""Those that only data with label maps have."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the defaults fine-tune as Shu et al. do.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step, over all processes and parts; a last batch that is smaller is left out.
        learning_rate: the highest.
        schedule: "step" multiplies it by `decay_factor` half-way, or after the `decay_epochs`; "one-cycle" raises it
            for a fifth of the steps and lowers it to nothing along a cosine, so that running statistics settle;
            "constant" leaves it; "cosine" lowers it to nothing from the first step on, and so does "poly", as the share
            of the steps that are left to the power of 0.9.
        decay_epochs: numbers of epochs done, ascending, for the schedule "step"; None is half-way.
        decay_factor: factor of the schedule "step".
        optimizer: one of `OPTIMIZERS`.
        momentum: momentum of SGD; the others keep the default, which they do not use.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: weight decay of all parameters.
        accumulate: parts that each process's share of a batch is cut into; statistics are then each part's.
        augment: one of `AUGMENTATIONS`; of data with label maps "none", "crop" or "standard", see `PairAugmentation`.
        window: of data with label maps, (height, width) of what is cut out, px; default the images' own size.
        scale: of these, the least and the greatest factor by which they are scaled; default `USUAL_SCALE`.
        aspect: of these, the greatest factor by which width over height changes, at least 1.
        colour: of these, by how much brightness, contrast and saturation change at most, in [0,1).
        dtype: what the model runs in, a name or a `torch.dtype`, by autocast unless float32.
        channels_last: lay the model and its features out channels last while it trains, which convolutions prefer;
            not on a CPU for a method that takes gradients of gradients, see `takes_channels_last`.
        gamma: weight of the adversarial branch's loss.
        seed: seed of order, augmentation and every other draw.
        checkpoint_every: seconds between checkpoints within an epoch, at the end of which there always is one.
        recompute: keep no activations of a branch for its backward pass, which makes them anew: less memory, and one
            forward of each branch more.
        attack_dtype: of a float32 training, what an attack's passes run in, by autocast; None is float32 too. Sign
            steps need no more than the signs of gradients.

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
    window: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    aspect: float = 1.0
    colour: float = 0.0
    dtype: Dtype = "float32"
    channels_last: bool = True
    gamma: float = 1.0
    seed: int = 0
    checkpoint_every: float = 300.0
    recompute: bool = False
    attack_dtype: Dtype | None = None

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
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                faults.append(str(unknown(name, getattr(self, name), known)))
        try:
            object.__setattr__(self, "dtype", dtype_name(self.dtype))
            if self.attack_dtype is not None:
                object.__setattr__(self, "attack_dtype", dtype_name(self.attack_dtype))
                if self.dtype != "float32":
                    faults.append(f"Expected `attack_dtype` only with the dtype float32, but got {self.dtype}.")
        except InputError as error:
            faults.append(str(error))
        faults += self._faults_of_decay() + self._faults_of_pairs()
        if self.optimizer in OPTIMIZERS and self.optimizer not in WITH_MOMENTUM:
            faults += [
                f"Expected no `{name}` for the optimizer {self.optimizer}, but got {getattr(self, name)}."
                for name in ("momentum", "nesterov")
                if getattr(self, name) != getattr(TrainingOptions, name)
            ]
        if faults:
            raise InputError(" ".join(faults))
        for name in ("decay_epochs", "window", "scale"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

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

    def _faults_of_pairs(self) -> list[str]:
        faults = []
        if self.window is not None and not (
            _is_pair(self.window) and all(isinstance(side, int) and side >= 1 for side in self.window)
        ):
            faults.append(f"Expected `window` to be (height, width) in px, but got {self.window}.")
        if self.scale is not None and not (_is_pair(self.scale) and 0 < self.scale[0] <= self.scale[1] < math.inf):
            faults.append(f"Expected `scale` to be the least and the greatest factor above 0, but got {self.scale}.")
        if not 1 <= self.aspect < math.inf:
            faults.append(f"Expected `aspect` to be at least 1, but got {self.aspect}.")
        if not 0 <= self.colour < 1:
            faults.append(f"Expected `colour` in [0,1), but got {self.colour}.")
        return faults

    def rate(self, step: int, per_epoch: int) -> float:
        """Return the learning rate of a step, from 0, where an epoch has `per_epoch`."""
        steps = self.epochs * per_epoch
        decays = [-(-steps // 2)] if self.decay_epochs is None else [epoch * per_epoch for epoch in self.decay_epochs]
        return rate_at(self.schedule, step, steps, self.learning_rate, decays=decays, factor=self.decay_factor)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


@dataclass(frozen=True)
class Step:
    """How far a training is: `step` of `steps` is done, in `epoch` of `epochs`; `losses` are its last known."""

    step: int
    steps: int
    epoch: int
    epochs: int
    losses: Mapping[str, float]
