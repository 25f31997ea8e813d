"""The worst case of a batch's feature statistics, found with one of several losses and seen through a decoder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.decoding.codec import Codec, codec_of
from statshift.making.choices import DECODED, REST
from statshift.measuring.loading import place
from statshift.metrics.pictures import psnr
from statshift.models import PixelModel
from statshift.shifts.attacks import FeatureAttack, attack_features, attackable, batch_moments, perturb
from statshift.shifts.attacks.whitebox import logits_of
from statshift.tasks.classification import CLASSIFICATION

MOST_DECIBELS = 100.0
"""PSNR of equal images, so that means stay finite."""


@dataclass(frozen=True)
class Adversary:
    """What makes worst cases of features, and images of them.

    Attributes:
        codec: the encoder and the decoder.
        judge: whose loss of decoded images the attack lets rise; None: that of the rest of the encoder's own network,
            of the features themselves, so that nothing is decoded in the attack.
    """

    codec: Codec
    judge: PixelModel | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Put all networks into evaluation mode and their weights without gradient; all is put back."""
        networks = {id(one): one for one in (self.codec.decoder, self.judge, self._whole) if one is not None}
        with ExitStack() as stack:
            for network in networks.values():
                stack.enter_context(attackable(network))
            yield

    @property
    def _whole(self) -> nn.Module | None:
        return None if self.codec.split is None else self.codec.split.model

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the features (B,C,h,w) of images (B,3,H,W) in [0,1], without gradient."""
        return self.codec.encode(images)

    def logits(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits (B,K) that the attack takes its loss of: of features, or of their images of a size."""
        if self.judge is not None:
            return logits_of(self.judge, self.codec.decode(features, size))
        assert self.codec.split is not None
        logits = self.codec.split.suffix(features)
        return logits if logits.dtype == torch.float64 else logits.float()

    def factors(self, features: Tensor, labels: Tensor, attack: FeatureAttack, size: tuple[int, int]) -> Tensor:
        """Return the factors (2,C) of mean and deviation at which the batch's mean loss is highest.

        Args:
            features: (B,C,h,w), of the latest call of `features`.
            labels: (B,).
            attack: the numbers.
            size: height and width of the images.

        Reference:
            Shu et al., NeurIPS 2021, section 3, equation 2.
        """
        targets = CLASSIFICATION.targets(labels)
        relu = self.codec.rectified
        return attack_features(features, lambda worst: targets.loss(self.logits(worst, size)), attack, relu=relu)

    @torch.no_grad()
    def images(self, features: Tensor, factors: Tensor | None, attack: FeatureAttack, size: tuple[int, int]) -> Tensor:
        """Return images (B,3,H,W) in [0,1] of features (B,C,h,w) with other statistics; None: with their own."""
        if factors is not None:
            relu = attack.clamp and self.codec.rectified
            features = perturb(features, factors, batch_moments(features, attack), attack, relu=relu)
        return self.codec.decode(features, size)


def decibels(images: Tensor, references: Tensor) -> Tensor:
    """Return the PSNR (B,) in dB of images (B,3,H,W) in [0,1], at most 100, on the CPU."""
    return psnr(images, references).clamp_max(MOST_DECIBELS).cpu()


def find_adversary(model: PixelModel, decoder: str | Path | Codec, loss: str | nn.Module, some: Tensor) -> Adversary:
    """Return what makes worst cases against a model.

    Args:
        model: whose features change, or with pytorch-AdaIN's encoder whose loss of decoded images may rise.
        decoder: a file that `train_decoder` wrote for it, or encoder and decoder.
        loss: "rest", of the rest of the encoder's own network on the features; "decoded", of the model on the decoded
            image; or another model's on that, a spec or a module.
        some: (B,3,H,W), what the model is read with.

    Raises:
        InputError: a decoder of another cut or model, a loss that is none, or "rest" of an encoder that has none.
    """
    codec = decoder if isinstance(decoder, Codec) else codec_of(model, decoder, some)
    if codec.split is not None and codec.split.model is not model:
        raise InputError("Expected the encoder of the model itself, but got that of another: give the decoder's file.")
    if loss == REST:
        if codec.split is None:
            raise InputError(
                f"Expected `loss` {DECODED} or another model with an encoder to {codec.at} alone, which has no rest to "
                "take a loss of."
            )
        return Adversary(codec)
    if loss == DECODED:
        return Adversary(codec, model)
    if isinstance(loss, str) and ":" not in loss:
        raise InputError(f"Expected `loss` to be {REST}, {DECODED} or a model's spec, but got {loss!r}.")
    return Adversary(codec, place(loss, some.device))
