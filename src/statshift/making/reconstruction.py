"""A decoder that learns, on the trainer that models are trained by, and how good its reconstructions are."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data import ImageData
from statshift.decoding.codec import Codec
from statshift.decoding.losses import DecoderLoss
from statshift.hardening.batch import Batch, Losses
from statshift.metrics.pictures import WINDOW, psnr, ssim
from statshift.models import PixelModel, extract_logits
from statshift.norms.layers import evaluating, run

MOST_DB = 100.0
"""PSNR of images that are equal, or nearly."""


class Reconstruction(nn.Module):
    """A decoder at its training; what it holds, and so what a checkpoint keeps, is the decoder alone.

    Args:
        codec: encodes and decodes crops, without a size of its own for images.
        model: takes whole images; not a part of the module.
        loss: what is lowered.
        crop: (height, width) of the crops, px.
    """

    def __init__(self, codec: Codec, model: PixelModel, loss: DecoderLoss, crop: tuple[int, int]) -> None:
        super().__init__()
        self.decoder = codec.decoder
        self._codec, self._loss, self._crop = codec, loss, crop
        self._model = (model,)  # in a tuple it is no part of this module

    @property
    def clean(self) -> PixelModel:
        """The model, as the trainer asks for it."""
        return self._model[0]

    def losses(self, batch: Batch) -> Losses:
        """Return the terms of the loss, on a crop of each image."""
        images = self.clean.resized(batch.images)
        return self._loss.terms(self._codec, random_crops(images, self._crop, batch.draws), batch.draws)


def lesson(learner: Reconstruction, batch: Batch) -> Losses:
    """Return what a step of the trainer lowers."""
    return learner.losses(batch)


def random_crops(images: Tensor, size: tuple[int, int], draws: Draws) -> Tensor:
    """Return a random crop (B,C,h,w) of each image, every other one flipped; laid out as the images are.

    Args:
        images: (B,C,H,W).
        size: (h,w), at most (H,W).
        draws: addressed by image, on the CPU.
    """
    tops, lefts = (images.shape[2] - size[0] + 1, images.shape[3] - size[1] + 1)
    crops = []
    for image, (top, left, side) in zip(images, draws.uniform("crop", 3).tolist(), strict=True):
        first, second = int(top * tops), int(left * lefts)
        crop = image[:, first : first + size[0], second : second + size[1]]
        crops.append(crop.flip(2) if side < 0.5 else crop)
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return torch.stack(crops).contiguous(memory_format=layout)


@torch.no_grad()
def judge(
    codec: Codec, model: PixelModel, data: ImageData, batch_size: int, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Return how good reconstructions are, as means over images.

    Args:
        codec: of the model.
        model: told what it sees in images and in their reconstructions; left as found.
        data: images that the decoder has not seen, with labels or without.
        batch_size: images at once.
        progress: called with the number of images done after each batch.

    Returns:
        `images`; `psnr` in dB and `ssim`, None of images too small for it; `agreement`, the share of reconstructions of
        which the model says what it says of the images, of several answers an image the share of these; and where there
        are labels `accuracy`, `accuracy_reconstructed` and `accuracy_kept`, the latter over the former.
    """
    sums: dict[str, float] = {}
    done = 0
    for stored, positions in data.batches(batch_size):
        images = stored.to(model.mean.device).float().div_(255)
        decoded = codec.decode(codec.encode(images), (images.shape[2], images.shape[3]))
        with evaluating(model):
            answers, again = (extract_logits(run(model, one)).argmax(1) for one in (images, decoded))
        values = {
            "psnr": psnr(decoded, images).clamp(max=MOST_DB),
            "agreement": (answers == again)
            .double()
            .flatten(1 if answers.ndim > 1 else 0)
            .view(len(images), -1)
            .mean(1),
        }
        if min(images.shape[2:]) >= WINDOW:
            values["ssim"] = ssim(decoded, images)
        if data.labels is not None:
            labels = torch.from_numpy(data.labels[positions]).to(answers.device)
            values |= {"accuracy": answers == labels, "accuracy_reconstructed": again == labels}
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())
        done += len(positions)
        if progress:
            progress(done)
    means = {name: value / done for name, value in sums.items()}
    found = {"images": done, "psnr": means["psnr"], "ssim": means.get("ssim"), "agreement": means["agreement"]}
    if "accuracy" in means:
        before, after = means["accuracy"], means["accuracy_reconstructed"]
        found |= {
            "accuracy": before,
            "accuracy_reconstructed": after,
            "accuracy_kept": after / before if before else None,
        }
    return found


def without_size(model: PixelModel) -> PixelModel:
    """Return a model over the same network that takes images of any size as they are."""
    if model.preprocessing.input_size is None:
        return model
    return PixelModel(model.network, replace(model.preprocessing, input_size=None), spec=model.spec).to(
        model.mean.device
    )


@torch.no_grad()
def feature_moments(encode: Callable[[Tensor], Tensor], batches: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (C,1,1) of each channel of the features of images, over images and places.

    The deviation of a channel that does not vary is 1.

    Raises:
        InputError: features that are not finite.
    """
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for images in batches:
        features = encode(images).double()
        total = total.to(features.device) + features.sum((0, 2, 3))
        square = square.to(features.device) + features.square().sum((0, 2, 3))
        count += features.shape[0] * features.shape[2] * features.shape[3]
    mean = total / count
    variance = (square / count - mean**2).clamp(min=0)
    if not variance.isfinite().all():
        raise InputError("The features are not finite, so nothing can be decoded.")
    std = torch.where(variance > 1e-12 * (1 + mean**2), variance.sqrt(), 1.0)
    return mean.float()[:, None, None], std.float()[:, None, None]
