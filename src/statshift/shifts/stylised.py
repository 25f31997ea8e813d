"""Images with the styles of others, made on the fly: AdaIN, one style an image.

Reference: Huang & Belongie, ICCV 2017; Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (ICLR 2019),
section 2.2, who make Stylized-ImageNet by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.decoding.opening import move, open_codec
from statshift.decoding.styles import Styles, read_styles, stylise
from statshift.norms.adain import check_alpha
from statshift.shifts.shift import CorruptionOptions, Shift


@dataclass(frozen=True, eq=False)
class Stylised(Shift):
    """Each image with the style of one of a folder's, drawn by the image's place in its data set.

    Attributes:
        styles: the styles, see `read_styles`; on the device of the images. None where the run's options name them.
        alpha: how far features go to a style's statistics, in [0,1].
        quantise: whether images are rounded to 8 bits, as `write_stylised` stores them.
        name: by which rows and tables call it.
    """

    styles: Styles | None = None
    alpha: float = 1.0
    quantise: bool = True
    name: str = "stylised"
    family = "style"
    movable: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def configured(self, spec: str, how: CorruptionOptions) -> Shift:
        """Return the shift with the encoder, the decoder and the styles of the run's options; see `Shift.configured`.

        Raises:
            InputError: they name none, or what cannot be used.
        """
        super().configured(spec, how)
        if how.style is None:
            raise InputError(
                f"Expected a decoder and a folder of styles for the shift {self.name}: give `decoder` and `styles`, "
                "as `StyleOptions`."
            )
        given, cpu = how.style, torch.device("cpu")
        check_alpha(given.alpha)
        codec = open_codec(given.encoder, given.decoder, cpu, given.style_size)
        styles = read_styles(given.styles, codec, size=given.style_size)
        return replace(self, styles=styles, alpha=given.alpha, quantise=how.quantise, movable=True)

    def make(
        self,
        images: Tensor,
        severity: int,
        *,
        seed: int,
        indices: Tensor,
        labels: Tensor | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """Return stylised images (B,3,H,W); see `stylise`."""
        assert self.styles is not None
        if self.movable:
            move(self.styles.codec, images.device)
        return stylise(images, self.styles, self.styles.chosen(seed, indices), self.alpha)

    def quantised(self, images: Tensor) -> Tensor:
        """Return images as PNG stores them: rounded to the nearest of 256 levels."""
        return images.mul_(255).round_().div_(255) if self.quantise else images

    def describe(self, batch_size: int) -> Mapping[str, Mapping[str, Any]]:
        """Return what a record says of encoder, decoder and styles."""
        assert self.styles is not None
        return {"stylised": {self.name: describe_stylised(self.styles, self.alpha)}}


def describe_stylised(styles: Styles, alpha: float) -> dict[str, Any]:
    """Return what a record says of images with styles: through what they went, which styles, and how far."""
    codec = styles.codec
    return {"decoder": {"at": codec.at, **codec.record}, "styles": styles.describe(), "alpha": alpha}


STYLISED = Stylised()
