"""The loss by which AdaIN's decoder learns: stylised images keep their content and show the style.

Reference: Huang & Belongie, ICCV 2017, section 5.2, equations 11 to 13.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from statshift._core.randomness import Draws
from statshift.decoding.codec import Codec
from statshift.norms.adain import adain
from statshift.norms.statistics import instance_statistics

STYLE_WEIGHT = 10.0
STYLE_STAGES = 4
"""Stages of the encoder whose statistics are compared: relu1_1 to relu4_1 of a VGG."""

EPS = 1e-5
"""Added to variances, whose root would have no gradient at zero."""


def stylised_terms(codec: Codec, images: Tensor, draws: Draws) -> dict[str, Tensor]:
    """Return the content and the style error of images that are decoded with the styles of others of their batch.

    Content is the mean squared error at the cut, to what `adain` returns; style is 10 times that of the channels' means
    and deviations, summed over the encoder's first four stages. An image's style is that of the next in the batch,
    whose order is drawn anew in each epoch; that of one alone is its own.

    Args:
        codec: whose decoder is trained.
        images: (B,3,H,W) in [0,1].
        draws: not asked.

    Reference:
        Huang & Belongie, ICCV 2017, equations 12 and 13.

    Differs:
        Styles are other images of the batch; the authors' are paintings.
    """
    with torch.no_grad():
        wanted = codec.stages(images)
        features = list(wanted.values())[-1]
        target = adain(features, instance_statistics(features.roll(1, 0)))
    decoded = codec.decoder(target, (images.shape[2], images.shape[3]))
    found = codec.stages(decoded)
    content = F.mse_loss(list(found.values())[-1].float(), target.float())
    first = list(wanted)[:STYLE_STAGES]
    style = style_error([found[name] for name in first], [wanted[name].roll(1, 0) for name in first])
    return {"content": content, "style": STYLE_WEIGHT * style}


def style_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the squared errors of means and of deviations of channels, each a mean over (B,C), summed over stages.

    Args:
        found: features (B,C,h,w) by stage.
        wanted: those of the styles.
    """
    errors = []
    for ours, theirs in zip(found, wanted, strict=True):
        (mean, deviation), (their_mean, their_deviation) = _moments(ours), _moments(theirs)
        errors.append(F.mse_loss(mean, their_mean) + F.mse_loss(deviation, their_deviation))
    return torch.stack(errors).sum()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(features.float(), dim=(2, 3), correction=0)
    return mean, (var + EPS).sqrt()
