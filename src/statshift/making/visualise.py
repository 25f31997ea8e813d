"""Images as the adversary of feature statistics changes them, by its strength, with what a model says of each.

Reference: Shu et al., NeurIPS 2021, Figures 1 to 3 and section 3, "Visualizing feature shifts".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.decoding.codec import Codec
from statshift.making.advbn import describe_loss
from statshift.making.choices import ADVBN_BATCH, ADVBN_STEP_SIZE, REST, STRENGTHS_SHOWN
from statshift.making.worst import Adversary, decibels, find_adversary
from statshift.measuring.examples import names_by_label
from statshift.measuring.loading import find_device, load
from statshift.models import PixelModel
from statshift.results.provenance import describe_data, describe_model
from statshift.shifts.attacks import FeatureAttack, attackable, logits_of

ORIGINAL_IMAGES = "original"


@dataclass(frozen=True)
class ByStrength:
    """A batch of images as they are, decoded, or decoded with worst-case statistics.

    Attributes:
        name: "original", or "m = 4".
        steps: m, of the attack; 0 is decoded as it is, None the original.
        images: (B,3,H,W) in [0,1], on the CPU, as 8 bits hold them.
        predicted: (B,) the model's class of each.
        score: (B,) its probability.
        psnr: (B,) in dB, against the original; at most 100.
    """

    name: str
    steps: int | None
    images: Tensor
    predicted: Tensor
    score: Tensor
    psnr: Tensor

    def accuracy(self, labels: Tensor) -> float:
        """Return the share of the images that the model takes for their labels (B,)."""
        return float((self.predicted == labels).double().mean())


@dataclass(frozen=True)
class Visualisation:
    """Images by the strength of the attack on the statistics of their batch.

    Attributes:
        columns: the originals first, then by strength.
        labels: (B,) true classes, or None.
        indices: (B,) places of the images in the whole data set.
        class_names: by label, in order or as text, or None.
        record: model, decoder, data and attack.
    """

    columns: tuple[ByStrength, ...]
    labels: Tensor | None
    indices: tuple[int, ...]
    class_names: list[str] | dict[str, str] | None
    record: dict[str, Any]

    def table(self) -> list[dict[str, Any]]:
        """Return by column its name, steps, accuracy and mean PSNR in dB over the batch; None where there is none."""
        return [
            {
                "name": one.name,
                "steps": one.steps,
                "accuracy": None if self.labels is None else one.accuracy(self.labels),
                "psnr": None if one.steps is None else float(one.psnr.double().mean()),
            }
            for one in self.columns
        ]


def visualise(
    model: str | nn.Module,
    decoder: str | Path | Codec,
    data: str | Dataset[Any] | ImageData,
    *,
    steps: Sequence[int] = STRENGTHS_SHOWN,
    step_size: float = ADVBN_STEP_SIZE,
    epsilon: float | None = None,
    loss: str | nn.Module = REST,
    out: str | Path | None = None,
    shown: int = 8,
    batch_size: int = ADVBN_BATCH,
    device: str | torch.device = "auto",
    data_options: Mapping[str, Any] | None = None,
) -> Visualisation:
    """Return a data set's first batch, decoded, and with its worst statistics by strength, and what the model says.

    Args:
        model: a spec, a `PixelModel`, or a module, which is taken to want ImageNet's mean and deviation; it is used in
            evaluation mode and left as it was found.
        decoder: a file that `train_decoder` wrote for this model, or encoder and decoder.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data. Without labels the attack drives away from
            what the model says of the originals.
        steps: m of each column, 0 decodes the images as they are.
        step_size: tau.
        epsilon: how far a factor may go; default m * tau - 0.1 of each.
        loss: "rest", of the rest of the encoder's own network on the features; "decoded", of the model on the decoded
            image; or another model's on that, a spec or a module.
        out: a .png file for one picture of `shown` images, or a folder for it, each image by itself, and
            `worst-cases.json`. In the folder of a run a folder `worst-cases` is made, which its report shows.
        shown: images in the picture, the first of the batch.
        batch_size: images whose statistics are perturbed together.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        data_options: further arguments of `load_data`, where `data` is not loaded; sized as the model's authors do.

    Raises:
        InputError: something that cannot be used, told in one line.

    Reference:
        Shu et al., NeurIPS 2021, section 3 and Figure 3.
    """
    _check_numbers(steps, shown, batch_size)
    attacks = {m: FeatureAttack(m, step_size, epsilon, perturbation="local") for m in steps if m}
    where = find_device(device)
    pixel_model, images = load(model, data, where, data_options, split=None)
    if images.has_maps:
        raise InputError(f"Expected one class an image to visualise, but {images.spec} has label maps.")
    pixels, positions = next(images.batches(batch_size, which=[0]))
    clean = pixels.to(where).float() / 255
    adversary = find_adversary(pixel_model, decoder, loss, clean[:1])
    labels = None if images.labels is None else torch.from_numpy(images.labels[positions])
    columns = by_strength(adversary, pixel_model, clean, labels, attacks, steps)
    found = Visualisation(
        tuple(columns),
        labels,
        tuple(images.indices[positions].tolist()),
        names_by_label(images),
        {
            "model": describe_model(pixel_model),
            "data": describe_data(images, images.labels),
            "decoder": {"at": adversary.codec.at, **adversary.codec.record},
            "attack": {
                "steps": list(steps),
                "step_size": step_size,
                "epsilon": {str(m): attack.bound for m, attack in attacks.items()},
                "loss": describe_loss(adversary, pixel_model),
            },
            "batch": len(positions),
        },
    )
    if out is not None:
        from statshift.making.sheets import write_visualisation

        write_visualisation(found, out, shown)
    return found


def by_strength(
    adversary: Adversary,
    model: PixelModel,
    clean: Tensor,
    labels: Tensor | None,
    attacks: Mapping[int, FeatureAttack],
    steps: Sequence[int],
) -> list[ByStrength]:
    """Return the originals, and the images with the batch's worst statistics after each number of steps.

    Args:
        adversary: encoder, decoder and loss.
        model: says what it sees.
        clean: (B,3,H,W) in [0,1], on the model's device.
        labels: (B,), or None for what the model says of `clean`.
        attacks: by number of steps.
        steps: those wanted, of which 0 needs no attack.
    """
    size = (clean.shape[-2], clean.shape[-1])
    columns = [_look(ORIGINAL_IMAGES, None, clean, clean, model)]
    own = (columns[0].predicted if labels is None else labels).to(clean.device)
    with adversary.ready():
        features = adversary.features(clean)
        factors = {m: adversary.factors(features, own, attack, size) for m, attack in attacks.items()}
        plain = FeatureAttack()
        made = {m: adversary.images(features, factors.get(m), attacks.get(m, plain), size) for m in steps}
    return [*columns, *(_look(f"m = {m}", m, made[m], clean, model) for m in steps)]


@torch.no_grad()
def _look(name: str, steps: int | None, images: Tensor, clean: Tensor, model: PixelModel) -> ByStrength:
    images = images.mul(255).round_().div_(255)
    with attackable(model), torch.no_grad():
        score, predicted = logits_of(model, images).softmax(1).max(1)
    return ByStrength(name, steps, images.cpu(), predicted.cpu(), score.cpu(), decibels(images, clean))


def _check_numbers(steps: Sequence[int], shown: int, batch_size: int) -> None:
    if not steps or any(not isinstance(m, int) or m < 0 for m in steps) or len(set(steps)) < len(steps):
        raise InputError(f"Expected `steps` as different integers from 0 up, but got {list(steps)}.")
    for name, value in (("shown", shown), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"Expected `{name}` to be at least 1, but got {value}.")
