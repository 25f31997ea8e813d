"""Data sets of the robust or the non-robust features that a model has learned, extracted into images.

Reference: Ilyas et al., "Adversarial Examples Are Not Bugs, They Are Features" (NeurIPS 2019), sections 3.1 and 3.2;
    Benz et al., "Batch Normalization Increases Adversarial Vulnerability" (ICLR 2021 submission), section 4.2.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import InputError, unknown
from statshift.data import ImageData
from statshift.making import choices
from statshift.making.features import draw_starts, feature_distance, find_head, match_features, row_distances
from statshift.making.shards import Arrays, Make, Written, write_in_parts
from statshift.measuring.loading import find_device, load
from statshift.models import PixelModel
from statshift.results.provenance import answers_of, describe_data, describe_environment, describe_model
from statshift.shifts.attacks import (
    PixelAttack,
    attack_images,
    attackable,
    check_gradient,
    cross_entropy,
    logits_of,
)
from statshift.tasks.classification import check_labels


@dataclass(frozen=True)
class Kind:
    """What the images of a data set are made to be.

    Attributes:
        meaning: meaning of the images and their labels, and which model or data it takes.
        steps: its own number.
        target: target of the attack, as `PixelAttack` names it; None where features are matched.
    """

    meaning: str
    steps: int
    target: str | None = None


KINDS: dict[str, Kind] = {
    "robust": Kind("features of an adversarially trained model, from an image of another class", 1000),
    "nonrobust": Kind("features of a standard model, from an image of another class", 1000),
    "random": Kind("adversarial examples for another class each, drawn for it, which is the label", 100, "random"),
    "deterministic": Kind("adversarial examples for the class after the image's, which is the label", 100, "next"),
    "conflict": Kind("as deterministic, of data that are of the kind robust", 100, "next"),
}
"""The kinds by name: D_R, D_NR, D_rand, D_det and D_Conflict of the papers. What tells "robust" from "nonrobust", and
"deterministic" from "conflict", are the model and the data, which the user names and the record keeps."""


@dataclass(frozen=True)
class ExtractionOptions:
    """How features are extracted; the defaults are those of Ilyas et al. and Benz et al.

    Attributes:
        steps: steps of the ascent; default the kind's own, 1000 where features are matched and else 100.
        step_size: length of each, in L2 and the units of pixels in [0,1].
        epsilon: radius in L2 of the adversarial examples; features are matched without one.
        batch_size: images at once, and in each part that is kept.
        seed: seed of the images begun at, and of the random targets.

    Raises:
        InputError: values that cannot be, all told together.

    Reference:
        Benz et al., ICLR 2021 submission, appendix B.3; Ilyas et al., NeurIPS 2019, sections 3.1 and 3.2.
    """

    steps: int | None = None
    step_size: float = choices.STEP_SIZE
    epsilon: float = choices.EPSILON
    batch_size: int = choices.BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        faults = []
        for name, value in (("steps", self.steps), ("batch_size", self.batch_size)):
            if not (isinstance(value, int) and value >= 1) and (name, value) != ("steps", None):
                faults.append(f"Expected `{name}` to be an integer of at least 1, but got {value}.")
        for name in ("step_size", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                faults.append(f"Expected `{name}` above 0, but got {getattr(self, name)}.")
        if faults:
            raise InputError(" ".join(faults))

    def describe(self, kind: str) -> dict[str, Any]:
        """Return the numbers in force for a record; what the kind does not use is left out."""
        chosen = KINDS[kind]
        own = {} if chosen.target is None else {"target": chosen.target, "epsilon": self.epsilon}
        return {
            "kind": kind,
            "meaning": chosen.meaning,
            "steps": self.steps or chosen.steps,
            "step_size": self.step_size,
            **own,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


DEFAULTS = ExtractionOptions()


def extract(
    model: str | nn.Module,
    data: str | Dataset[Any] | ImageData,
    kind: str,
    options: ExtractionOptions = DEFAULTS,
    *,
    out: str | Path,
    device: str | torch.device = "auto",
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> Written:
    """Write a data set in which a model's features are the only ones, or those of another class than the picture.

    The folder gets `images.npz`: `images` uint8 (N,H,W,3), `labels` (N,), `source_labels` (N,) of the images that they
    were begun at, and `indices` (N,) of the images in the whole of the data, in the data's order. Batches are kept as
    they are finished, and the same call goes on where an earlier one was stopped.

    Whether features are robust the model decides: "robust" and "nonrobust" are one procedure, for an adversarially
    trained model and for a standard one. "conflict" is "deterministic" on a data set of the kind "robust".

    Args:
        model: a spec, a `PixelModel`, or a module, which is taken to want ImageNet's mean and deviation; it is used in
            evaluation mode and left as it was found.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels.
        kind: one of `KINDS`.
        options: the numbers.
        out: folder, made if need be.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        data_options: further arguments of `load_data`, where `data` is not loaded; by default the training split of
            data that have one, sized as the model's authors do.
        progress: called with (images done, images in all) as it begins and after each step, which counts as its share
            of its batch; never if all was finished before.

    Raises:
        InputError: something that cannot be used, or a folder that holds something else, told in one line.

    Reference:
        Ilyas et al., NeurIPS 2019, sections 3.1 and 3.2; Benz et al., ICLR 2021 submission, appendix B.3 equation 3 and
        appendix E.

    Differs:
        Ilyas et al. draw the random target from all classes, the image's own among them, and the image that features
        are matched from out of all images; here, as Benz et al. say of the latter, both are of another class. Images
        are stored in 8 bits.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if KINDS[kind].target is None and options.epsilon != DEFAULTS.epsilon:
        raise InputError(f"Expected no `epsilon` for the kind {kind}, whose images may go anywhere in [0,1].")
    if (world := processes.join()[1]) > 1:
        raise InputError(f"Expected one process, but got {world}: extraction is not shared out. Start it by itself.")
    where = find_device(device)
    pixel_model, images = load(model, data, where, data_options)
    make = _maker(pixel_model, images, kind, options, where)
    identity = {
        "model": describe_model(pixel_model),
        "answers": answers_of(pixel_model, images.shape),
        "data": describe_data(images, images.labels),
        "extraction": options.describe(kind),
    }
    return write_in_parts(
        Path(out), identity, describe_environment(where), len(images), options.batch_size, make, progress
    )


def _maker(model: PixelModel, data: ImageData, kind: str, options: ExtractionOptions, device: torch.device) -> Make:
    """Return what makes batches, given their numbers and what to call with the images done of the one at work.

    Raises:
        InputError: the data or the model cannot be used.
    """
    if data.labels is None:
        lacking = "label maps, and no class an image" if data.has_maps else "no labels"
        raise InputError(f"Expected labelled images, but {data.spec} has {lacking}.")
    labels, size = data.labels, options.batch_size
    some = _pixels(next(data.batches(8, which=[0]))[0], device)
    with attackable(model):
        classes = logits_of(model, some[:1]).shape[1]
        check_labels(data, classes)
        check_gradient(model, some)
    target, steps = KINDS[kind].target, options.steps or KINDS[kind].steps
    head, attack, starts = None, None, np.arange(len(data))
    if target is None:
        head, starts = find_head(model, some[:1]), draw_starts(labels, data.indices, options.seed)
    elif classes < 2:
        raise InputError(f"Expected a model of at least two classes for targets, but got {classes}.")
    else:
        attack = PixelAttack(options.epsilon, options.step_size, steps, norm="l2", target=target, random_start=False)

    def make(numbers: Sequence[int], on_step: Callable[[float], None]) -> Iterator[Arrays]:
        groups = [np.arange(k * size, min((k + 1) * size, len(data))) for k in numbers]
        loaded = data.groups([part for group in groups for part in ([group] if attack else [group, starts[group]])])
        for positions in groups:
            images = _pixels(next(loaded)[0], device)
            begun = images if attack else _pixels(next(loaded)[0], device)
            own, indices = (torch.from_numpy(one[positions]).to(device) for one in (labels, data.indices))
            step = _counter(on_step, len(positions) / steps)
            if attack:
                found, made = _attacked(model, images, own, attack, options.seed, indices, step)
                name, measure = "taken_for_target", partial(_taken, model, made)
            else:
                assert head is not None
                made = own
                found = match_features(
                    model, head, images, begun, steps=steps, step_size=options.step_size, on_step=step
                )
                name, measure = "feature_distance", partial(feature_distance, model, head, images)
            stored = found.mul(255).round_().to(torch.uint8)
            rounded = _pixels(stored, device)
            measures = {f"{name}_rounded": measure(rounded), f"{name}_final": measure(found)}
            if not attack:
                measures[f"{name}_initial"] = measure(begun)
            measures["l2_distance"] = row_distances(rounded, begun)
            for one in measures.values():
                if not one.isfinite().all():
                    worst = data.indices[positions[int(one.isfinite().logical_not().nonzero()[0])]]
                    raise InputError(
                        f"The model's output for image {worst} is not finite, so nothing can be extracted."
                    )
            yield {
                "images": stored.permute(0, 2, 3, 1).cpu().contiguous().numpy(),
                "labels": made.cpu().numpy(),
                "source_labels": labels[starts[positions]],
                "indices": data.indices[positions],
                **{measured: values.double().cpu().numpy() for measured, values in measures.items()},
            }

    return make


def _pixels(images: Tensor, device: torch.device) -> Tensor:
    """Return uint8 images as floats in [0,1] on a device."""
    return images.to(device).float().div_(255)


def _counter(on_step: Callable[[float], None], share: float) -> Callable[[], None]:
    """Return what calls `on_step` with `share`, twice it, and so on."""
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        on_step(taken * share)

    return step


def _attacked(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    attack: PixelAttack,
    seed: int,
    indices: Tensor,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Return adversarial examples (B,3,H,W) and the targets (B,) that they were driven to."""
    targets = labels

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        nonlocal targets
        targets = wanted
        on_step()
        return cross_entropy(logits, wanted)

    return attack_images(model, images, labels, attack, seed=seed, indices=indices, loss=loss), targets


def _taken(model: PixelModel, targets: Tensor, images: Tensor) -> Tensor:
    """Return 1 (B,) where the model takes an image for its target, else 0; NaN where its logits are not finite."""
    with attackable(model), torch.no_grad():
        logits = logits_of(model, images)
    return torch.where(logits.isfinite().all(1), (logits.argmax(1) == targets).float(), torch.nan)
