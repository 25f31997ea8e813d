"""What a decoder's training lowers, by name; to add one, write a function here or beside it and an entry."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from statshift._core.randomness import Draws
from statshift.decoding.adain_loss import stylised_terms
from statshift.decoding.codec import Codec

Terms = dict[str, Tensor]
"""What is summed, by name."""


@dataclass(frozen=True)
class DecoderLoss:
    """A loss of a decoder.

    Attributes:
        meaning: what it is, for a record.
        terms: of a codec whose decoder is trained, images (B,3,H,W) in [0,1], and draws addressed by epoch and image,
            on the CPU. It encodes without a gradient and decodes by `codec.decoder`, which does not clamp.
    """

    meaning: str
    terms: Callable[[Codec, Tensor, Draws], Terms]


def pixel_terms(codec: Codec, images: Tensor, draws: Draws) -> Terms:
    """Return the mean squared error of pixels, and 1e-8 times the total variation of an image.

    Reference:
        Shu et al., NeurIPS 2021, appendix B; Johnson et al., "Perceptual Losses" (ECCV 2016), section 3.2.
    """
    with torch.no_grad():
        features = codec.encode(images)
    decoded = codec.decoder(features, _size(images)).float()
    return {
        "pixels": (decoded - images).square().mean(),
        "variation": VARIATION_WEIGHT * total_variation(decoded).mean(),
    }


def feature_terms(codec: Codec, images: Tensor, draws: Draws) -> Terms:
    """Return the mean absolute error of pixels, and of the encoder's own features at the end of each of its stages.

    Each is in units of the mean absolute deviation of what it is an error of, by channel over batch and places, so that
    neither the scale of the features nor that of the pixels matters; that of the features is the mean over stages.
    """
    with torch.no_grad():
        wanted = codec.stages(images)
    features = list(wanted.values())[-1]
    decoded = codec.decoder(features, _size(images))
    found = codec.stages(decoded)
    errors = [relative_error(found[name], value) for name, value in wanted.items()]
    return {"pixels": relative_error(decoded, images), "features": torch.stack(errors).mean()}


VARIATION_WEIGHT = 1e-8

DECODER_LOSSES: dict[str, DecoderLoss] = {
    "features": DecoderLoss(
        "L1 of pixels and of the encoder's own features, in units of their deviation", feature_terms
    ),
    "pixels": DecoderLoss(
        "mean squared error of pixels and 1e-8 total variation (Shu et al., NeurIPS 2021)", pixel_terms
    ),
    "adain": DecoderLoss(
        "AdaIN's content at the cut and 10 x style over four stages (Huang & Belongie, ICCV 2017)", stylised_terms
    ),
}
"""The losses by name, as in `choices.LOSSES`."""


def total_variation(images: Tensor) -> Tensor:
    """Return (B,), the sum of absolute differences of neighbouring pixels of images (B,C,H,W) in [0,1]."""
    down, right = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return down.flatten(1).sum(1) + right.flatten(1).sum(1)


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean absolute error of (B,C,h,w) over the mean absolute deviation of `wanted` within its channels."""
    found, wanted = found.float(), wanted.float()
    deviation = (wanted - wanted.mean((0, 2, 3), keepdim=True)).abs().mean()
    return (found - wanted).abs().mean() / deviation.clamp(min=1e-6)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
