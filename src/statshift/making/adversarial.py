"""A data set of adversarial images against a model, on the disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.making.shards import Arrays, Written, write_in_parts
from statshift.measuring.loading import find_device, load
from statshift.results.provenance import answers_of, describe_data, describe_environment, describe_model
from statshift.shifts.attacks import (
    AutoAttack,
    PixelAttack,
    attack_images,
    attackable,
    describe_attack,
    logits_of,
    parse_attack,
)
from statshift.tasks.classification import check_labels


def write_adversarial(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    attack: str | PixelAttack | AutoAttack,
    *,
    out: str | Path,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device = "auto",
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> Written:
    """Write the images that an attack makes of a data set, labelled as these, with what the model makes of them.

    The record's `found` are accuracies and mean distances: of the clean images, of the adversarial ones, and of these
    as they are stored, in 8 bits.

    Args:
        model: a spec, a `PixelModel`, or a module, which is taken to want ImageNet's mean and deviation; it is left as
            it was found.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        attack: the numbers, or "NAME:EPSILON[:STEPS]".
        out: folder, made if need be; the same call goes on where an earlier one was stopped.
        batch_size: images at once.
        seed: seed of the random starts and targets.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        data_options: further arguments of `load_data`, where `data` is not loaded.
        progress: called with (images done, images in all).

    Raises:
        InputError: something that cannot be used, or a folder that holds something else, told in one line.
    """
    if (world := processes.join()[1]) > 1:
        raise InputError(f"Expected one process, but got {world}: measure shares attacks out, this does not.")
    if batch_size < 1:
        raise InputError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
    chosen = parse_attack(attack) if isinstance(attack, str) else attack
    where = find_device(device)
    pixel_model, images = load(model, data, where, data_options, split=None)
    if images.has_maps:
        raise InputError(
            f"Expected one class an image to write adversarial images, but {images.spec} has label maps: attack them "
            "in `measure`, by `shifts` such as pgd-linf:1/255, or by `attack_images`."
        )
    if images.labels is None:
        raise InputError(f"Expected labelled images to attack, but {images.spec} has no labels.")
    labels = images.labels
    with attackable(pixel_model), torch.no_grad():
        first = next(images.batches(1, which=[0]))[0].to(where).float() / 255
        check_labels(images, logits_of(pixel_model, first).shape[1])

    def make(numbers: Sequence[int], on_batch: Callable[[float], None]) -> Iterator[Arrays]:
        for pixels, positions in images.batches(batch_size, which=numbers):
            clean = pixels.to(where).float().div_(255)
            own, indices = (torch.from_numpy(one[positions]).to(where) for one in (labels, images.indices))
            found = attack_images(pixel_model, clean, own, chosen, seed=seed, indices=indices)
            stored = found.mul(255).round_().to(torch.uint8)
            rounded = stored.float() / 255
            yield {
                "images": stored.permute(0, 2, 3, 1).cpu().contiguous().numpy(),
                "labels": labels[positions],
                "indices": images.indices[positions],
                "accuracy_clean": _right(pixel_model, clean, own),
                "accuracy": _right(pixel_model, found, own),
                "accuracy_rounded": _right(pixel_model, rounded, own),
                "l2_distance": _numpy((found - clean).flatten(1).norm(dim=1)),
                "linf_distance": _numpy((found - clean).flatten(1).abs().amax(1)),
            }
            on_batch(len(positions))

    identity = {
        "model": describe_model(pixel_model),
        "answers": answers_of(pixel_model, images.shape),
        "data": describe_data(images, labels),
        "attack": {**describe_attack(chosen, batch_size), "seed": seed, "batch_size": batch_size},
    }
    return write_in_parts(Path(out), identity, describe_environment(where), len(images), batch_size, make, progress)


def _right(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    with attackable(model), torch.no_grad():
        logits = logits_of(model, images)
        if broken := len(logits) - int(logits.isfinite().all(1).sum()):
            raise InputError(
                f"The model's output is not finite for {broken} of {len(logits)} images: check its weights."
            )
        return _numpy(logits.argmax(1) == labels)


def _numpy(values: Tensor) -> Any:
    return values.double().cpu().numpy()
