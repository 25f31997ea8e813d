"""A data set of images whose feature statistics are the worst case, and of the same images merely decoded.

Reference: Shu et al., the ICLR 2021 submission, appendix A.1 (ImageNet-AdvBN) and Table 7.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.decoding.codec import Codec
from statshift.making.choices import ADVBN_BATCH, ADVBN_EPSILON, ADVBN_STEP_SIZE, ADVBN_STEPS, DECODED, REST
from statshift.making.shards import Written
from statshift.making.trees import Groups, MadeBatch, write_trees
from statshift.making.worst import Adversary, decibels, find_adversary
from statshift.measuring.loading import find_device, load
from statshift.models import PixelModel
from statshift.results.provenance import answers_of, describe_data, describe_environment, describe_model
from statshift.shifts.attacks import FeatureAttack, attackable, logits_of
from statshift.tasks.classification import check_labels

WORST_TREE, CONTROL_TREE = "advbn", "reconstructed"

IMAGENET_ADVBN = FeatureAttack(ADVBN_STEPS, ADVBN_STEP_SIZE, ADVBN_EPSILON)
"""The numbers of ImageNet-AdvBN."""


def write_advbn(
    model: str | nn.Module,
    decoder: str | Path | Codec,
    data: str | Dataset[Any] | ImageData,
    *,
    out: str | Path,
    attack: FeatureAttack = IMAGENET_ADVBN,
    loss: str | nn.Module = REST,
    control: bool = True,
    batch_size: int = ADVBN_BATCH,
    device: str | torch.device = "auto",
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> Written:
    """Write the images of a data set with the worst statistics of their features, and beside them the control.

    The folder gets `advbn/CLASS/NUMBER.png`, the worst cases, and `reconstructed/CLASS/NUMBER.png`, the same images
    with factors of one; read either as `folder:`. `batches.npz` holds `factors` (batches,2,C) of mean and deviation,
    and by image `indices`, `batch` and the PSNR in dB of both. Each batch is kept as it is finished; the same call goes
    on where an earlier one was stopped, and several processes take whole batches in turn.

    The statistics are those of a batch, in the data's order: so an image depends on its batch.

    Args:
        model: a spec, a `PixelModel`, or a module, which is taken to want ImageNet's mean and deviation; it is used in
            evaluation mode and left as it was found.
        decoder: a file that `train_decoder` wrote for this model, whose cut is the place of the attack; or encoder and
            decoder.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        out: folder, made if need be.
        attack: the numbers; every process perturbs the statistics of its own batches.
        loss: "rest", of the rest of the encoder's own network on the features; "decoded", of the model on the decoded
            image; or another model's on that, a spec or a module.
        control: write the control.
        batch_size: images whose statistics are perturbed together.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        data_options: further arguments of `load_data`, where `data` is not loaded; sized as the model's authors do.
        progress: called with (images done, images in all).

    Raises:
        InputError: something that cannot be used, or a folder that holds something else, told in one line.

    Reference:
        Shu et al., the ICLR 2021 submission, appendix A.1: 6 steps of 0.2 within 1.1, batches of 32, not shuffled.

    Differs:
        PNG, so that nothing but the decoder changes them; clamped at zero behind a ReLU, see `perturb`.
    """
    attack = replace(attack, perturbation="local")
    where = find_device(device)
    given = data_options if isinstance(data, ImageData) else {"cache_bytes": 0, **(data_options or {})}  # read once
    pixel_model, images = load(model, data, where, given, split=None)
    labels = _labels_of(images)
    some = next(images.batches(1, which=[0]))[0].to(where).float() / 255
    adversary = find_adversary(pixel_model, decoder, loss, some)
    _check_classes(adversary.judge or pixel_model, images, some)

    def make(groups: Groups) -> Iterator[MadeBatch]:
        numbers = {int(group[0]): number for number, group in enumerate(images.batch_positions(batch_size))}
        with adversary.ready():
            for pixels, positions in images.groups(groups):
                clean = pixels.to(where).float().div_(255)
                own = torch.from_numpy(labels[positions]).to(where)
                size = (clean.shape[-2], clean.shape[-1])
                features = adversary.features(clean)
                factors = adversary.factors(features, own, attack, size)
                made = {WORST_TREE: adversary.images(features, factors, attack, size)}
                if control:
                    made[CONTROL_TREE] = adversary.images(features, None, attack, size)
                made = {name: _rounded(one) for name, one in made.items()}
                arrays = {f"psnr_{name}": decibels(one, clean).numpy() for name, one in made.items()}
                number = torch.full((len(positions),), numbers[int(positions[0])]).numpy()
                arrays |= {"factors": factors[None].cpu().numpy(), "indices": images.indices[positions]}
                yield MadeBatch(made, {**arrays, "batch": number})

    trees = [WORST_TREE, *([CONTROL_TREE] if control else [])]
    identity = {
        "model": describe_model(pixel_model),
        "answers": answers_of(pixel_model, images.shape),
        "data": describe_data(images, labels),
        "decoder": {"at": adversary.codec.at, **adversary.codec.record},
        "attack": {**asdict(attack), "epsilon": attack.bound, "loss": describe_loss(adversary, pixel_model)},
        "batches": {
            "size": batch_size,
            "order": "that of the data",
            "meaning": f"The statistics are those of a batch of {batch_size}: an image depends on its batch.",
        },
        "trees": trees,
    }
    return write_trees(
        Path(out),
        identity,
        describe_environment(where),
        images,
        trees,
        batch_size,
        make,
        progress,
    )


def describe_loss(adversary: Adversary, model: PixelModel) -> Any:
    """Return "rest", "decoded", or which other model's loss of decoded images the attack takes."""
    if adversary.judge is None:
        return REST
    return DECODED if adversary.judge is model else describe_model(adversary.judge)


def _labels_of(images: ImageData) -> Any:
    if images.labels is None:
        lacking = "label maps, and no class an image" if images.has_maps else "no labels"
        raise InputError(f"Expected labelled images, but {images.spec} has {lacking}.")
    return images.labels


@torch.no_grad()
def _check_classes(model: nn.Module, images: ImageData, some: Tensor) -> None:
    with attackable(model):
        check_labels(images, logits_of(model, some).shape[1])


def _rounded(images: Tensor) -> Tensor:
    """Return images in [0,1] as 8 bits hold them."""
    return images.mul(255).round_().div_(255)
