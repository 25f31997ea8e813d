"""What the networks of the zoo have in common: their norm, width and activation, and how they begin."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from statshift._core.errors import InputError, unknown
from statshift.models.exchange import NORMS, make_norm

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "selu": nn.SELU}

GAINS = {"relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + 0.01**2)), "selu": 1.0}
"""What keeps the scale of features: He et al. (ICCV 2015), equations 10 and 15; Klambauer et al. (2017), section 3."""


@dataclass(frozen=True)
class Style:
    """How a network is built.

    Attributes:
        norm: one of `NORMS`.
        width: multiplies numbers of channels.
        activation: one of `ACTIVATIONS`.

    Raises:
        InputError: an unknown norm or activation, or a width that is no positive number.
    """

    norm: str = "batch"
    width: float = 1.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        number = isinstance(self.width, int | float) and not isinstance(self.width, bool)
        if not (number and 0 < self.width < math.inf):
            raise InputError(f"Expected `width` to be a positive number, but got {self.width!r}.")

    def channels(self, count: int) -> int:
        """Return `count` times the width, rounded to an even number of at least 2; at width 1 `count` itself."""
        return count if self.width == 1 else max(2, 2 * round(count * self.width / 2))

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        cardinality: int = 1,
        bias: bool | None = None,
    ) -> nn.Conv2d:
        """Return a convolution that keeps the resolution but for its stride; it has a bias where no norm shifts."""
        bias = self.norm == "none" if bias is None else bias
        padding = dilation * (kernel // 2)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, cardinality, bias)

    def normalisation(self, channels: int) -> nn.Module:
        """Return the norm for features of so many channels."""
        return make_norm(self.norm, channels)

    def act(self) -> nn.Module:
        """Return the activation."""
        return ACTIVATIONS[self.activation]()

    def initialise(self, modules: Iterable[nn.Module], fan: str) -> None:
        """Draw convolutions' weights from a normal distribution of deviation gain / sqrt(fan), and zero their biases.

        Args:
            modules: to look at.
            fan: "fan_in" keeps the scale of features, "fan_out" that of gradients.

        Reference: He et al., "Delving Deep into Rectifiers" (ICCV 2015), section 2.2.
        """
        for module in modules:
            if isinstance(module, nn.Conv2d):
                positions = module.weight[0, 0].numel()
                count = module.weight.shape[1] if fan == "fan_in" else module.out_channels
                with torch.no_grad():
                    module.weight.normal_(0, GAINS[self.activation] / math.sqrt(count * positions))
                    if module.bias is not None:
                        module.bias.zero_()


def check_depth(depth: int, step: int, rest: int) -> int:
    """Return n of a depth of `step` n + `rest` layers.

    Raises:
        InputError: another depth.
    """
    blocks, left = divmod(depth - rest, step) if isinstance(depth, int) and not isinstance(depth, bool) else (0, 0)
    if left or blocks < 1:
        raise InputError(f"Expected `depth` to be {step}n+{rest} for a positive integer n, but got {depth!r}.")
    return blocks


def check_count(name: str, value: int) -> None:
    """Check that an argument is a positive integer.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"Expected `{name}` to be a positive integer, but got {value!r}.")


def check_flag(name: str, value: bool) -> None:
    """Check that an argument is True or False: text such as "false" would count as True.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"Expected `{name}` to be True or False, but got {value!r}.")
