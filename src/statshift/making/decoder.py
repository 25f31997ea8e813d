"""Train a decoder of a model's features at a cut.

Reference: Shu et al., "Encoding Robustness to Image Style via Adversarial Feature Perturbations" (NeurIPS 2021),
    section 3; Huang and Belongie, "Arbitrary Style Transfer in Real-time" (ICCV 2017), section 6.1.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from statshift._core import processes
from statshift._core.errors import InputError, unknown
from statshift._core.identity import differing, flat
from statshift._core.randomness import Draws
from statshift._core.storage import alone_with
from statshift.data import ImageData, load_data, loading_options
from statshift.decoding import choices
from statshift.decoding.codec import (
    VERB,
    Codec,
    codec_from,
    describe_encoder,
    encoder_of,
    read_decoder_record,
    save_decoder,
    stride_of,
)
from statshift.decoding.decoder import Decoder
from statshift.decoding.losses import DECODER_LOSSES
from statshift.hardening.trainer import train
from statshift.hardening.training import Step
from statshift.making.decoder_options import DecoderOptions
from statshift.making.reconstruction import Reconstruction, feature_moments, judge, lesson, without_size
from statshift.making.shards import FOUND
from statshift.measuring.loading import find_device, fit_to_model, load
from statshift.models import PixelModel, check_writable
from statshift.results.provenance import describe_data, describe_environment, describe_model
from statshift.shifts.attacks import attackable
from statshift.tasks.classification import Classification, check_labels

STANDARDISED_BY = 64
"""Images of which the features' mean and deviation are taken."""

HELD_OUT = 1000
"""Images held out at most."""


@dataclass(frozen=True)
class Unlabelled(Classification):
    """Images alone: whatever labels they have are not looked at."""

    def labels_of(self, data: ImageData) -> NDArray[np.int64]:
        """Return zeros (N,)."""
        return np.zeros(len(data), np.int64)

    def labels(self, data: ImageData, positions: NDArray[np.int64]) -> Tensor:
        """Return zeros (B,)."""
        return torch.zeros(len(positions), dtype=torch.int64)

    def width(self, logits: Tensor) -> int:
        """Return the second size of logits of any kind."""
        return logits.shape[1]

    def check_labels(self, data: ImageData, width: int | None) -> None:
        """Any will do."""


DEFAULT_OPTIONS = DecoderOptions()


def train_decoder(
    model: str | nn.Module,
    at: str,
    data: str | Dataset[Any] | ImageData,
    *,
    out: str | Path,
    loss: str = "features",
    options: DecoderOptions = DEFAULT_OPTIONS,
    validation: str | Dataset[Any] | ImageData | None = None,
    device: str | torch.device = "auto",
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> dict[str, Any]:
    """Train a decoder of the features of a model's first part, which stays as it is, and write it to a file.

    The state is kept beside the file, from which the same call goes on where an earlier one stopped; if the decoder is
    finished, its record is returned.

    Args:
        model: a spec, a `PixelModel`, or a module, which is taken to want ImageNet's mean and deviation; with batch
            norm or without; left as found.
        at: the cut, as `statshift layers` lists them.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; labels are not needed.
        out: the .safetensors file.
        loss: one of `DECODER_LOSSES`.
        options: what it is and how it is trained.
        validation: images to judge it on; by default a tenth of the data, at most 1,000, which it is not trained on.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        data_options: further arguments of `load_data`, where `data` is not loaded; by default the training split of
            data that have one, sized as the model's authors do. Those of preprocessing hold for `validation` too.
        progress: called after each step.

    Returns:
        The record: encoder, decoder, data and training, the `history`, and what was `found` on images that it has not
        seen, see `judge`.

    Raises:
        InputError: something that cannot be used, or a file that is another decoder's, told in one line.

    Reference:
        Shu et al., NeurIPS 2021, section 3 (the loss "pixels").

    Differs:
        Adam with one cycle of the learning rate; they do not print how they train.
    """
    if loss not in DECODER_LOSSES:
        raise unknown("loss", loss, DECODER_LOSSES)
    path = Path(out).expanduser()
    check_writable(path)
    where = find_device(device)
    pixel_model, images = load(model, data, where, data_options)
    images, judged = _parted(pixel_model, images, validation, data_options, options.seed)
    example = _pixels(next(images.batches(2, which=[0]))[0], where)
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.default_generator.manual_seed(options.seed)
        learner, codec, record = _prepared(pixel_model, at, example, loss, options)
    record |= {"data": describe_data(images, None), "judged_on": describe_data(judged, judged.labels)}
    identity = json.loads(json.dumps(record))
    rank, _ = processes.join()
    with alone_with(path) if rank == 0 else nullcontext(), attackable(pixel_model):
        kept = path.with_name(f"{path.stem}.checkpoint.pt")
        if processes.from_first(path.exists()):
            return _finished(path, identity)
        _standardise(learner, codec, images, where)
        history = train(
            learner,
            replace(images, labels=None),
            lesson,
            options.training,
            task=Unlabelled(),
            checkpoint=kept,
            identity=identity,
            progress=progress,
        )
        learner.decoder.requires_grad_(False)
        record |= {"history": history, FOUND: judge(codec, pixel_model, judged, options.batch_size)}
        if rank == 0:
            assert isinstance(learner.decoder, Decoder)
            save_decoder(path, learner.decoder, record)
            kept.unlink(missing_ok=True)
    return record | {"environment": describe_environment(where)}


def _parted(
    model: PixelModel, data: ImageData, validation: Any, data_options: Mapping[str, Any] | None, seed: int
) -> tuple[ImageData, ImageData]:
    """Return the images to train on and those to judge by."""
    if data.has_maps:
        raise InputError(f"Expected images without label maps, but {data.spec} has them: give them as folder:DIR.")
    if validation is None:
        if len(data) < 3:
            raise InputError(f"Expected at least 3 images, of which one is held out, but {data.spec} has {len(data)}.")
        order = Draws(seed, torch.from_numpy(data.indices), "held out").uniform("order").argsort(stable=True).numpy()
        count = min(HELD_OUT, -(-len(data) // 10))
        data, judged = data.subset(np.sort(order[count:])), data.subset(np.sort(order[:count]))
    elif isinstance(validation, ImageData):
        judged = fit_to_model(model, validation, model.mean.device)
    else:
        given = {name: value for name, value in (data_options or {}).items() if name not in ("limit", "seed", "split")}
        options = loading_options(validation, given, model.loading_options, split=None)
        judged = fit_to_model(model, load_data(validation, **options), model.mean.device)
    check_labels(judged, model.num_classes)
    return data, judged


def _prepared(
    model: PixelModel, at: str, example: Tensor, loss: str, options: DecoderOptions
) -> tuple[Reconstruction, Codec, dict[str, Any]]:
    """Return a fresh decoder at its training, the codec that it is to be part of, and what a record says of both."""
    found = encoder_of(model, at, example)
    assert found.cut is not None
    stride = stride_of(found, example)
    decoder = Decoder(found.cut.shape[0], stride, options.width, options.depth).to(example.device)
    free = without_size(model)
    images = model.resized(example)
    crop, crops = (images.shape[2], images.shape[3]), images
    wanted = max(options.crop or choices.CROP, 2 * stride)
    smaller = min(-(-wanted // stride) * stride, crop[0]), min(-(-wanted // stride) * stride, crop[1])
    if smaller != crop:
        try:
            part = images[:, :, : smaller[0], : smaller[1]]
            inner = encoder_of(free, at, part)
            crop, crops = smaller, part
        except InputError as error:
            if options.crop is not None:
                raise InputError(f"The network takes no crops of {smaller[0]} x {smaller[1]} px: {error}") from error
    if crops is images:
        inner = encoder_of(free, at, images)
    described = {"encoder": describe_encoder(found, at, example)}
    record: dict[str, Any] = {
        "verb": VERB,
        "decoder": decoder.config,
        **described,
        "model": describe_model(model),
        "training": {
            "loss": loss,
            "meaning": DECODER_LOSSES[loss].meaning,
            **{name: value for name, value in asdict(options).items() if name != "checkpoint_every"},
            "crop": list(crop),
        },
    }
    codec = codec_from(found, at, decoder, example, described)
    learner = Reconstruction(codec_from(inner, at, decoder, crops, described), model, DECODER_LOSSES[loss], crop)
    return learner, codec, record


def _standardise(learner: Reconstruction, codec: Codec, data: ImageData, device: torch.device) -> None:
    """Give the decoder mean and deviation of the features of some images."""
    some = np.linspace(0, len(data) - 1, min(STANDARDISED_BY, len(data))).astype(np.int64)
    batches = data.groups([some[start : start + 8] for start in range(0, len(some), 8)])
    mean, std = feature_moments(codec.encode, (_pixels(images, device) for images, _ in batches))
    assert isinstance(learner.decoder, Decoder)
    learner.decoder.mean.copy_(mean)
    learner.decoder.std.copy_(std)


def _finished(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a decoder that is there.

    Raises:
        InputError: it is none, or was made with something else.
    """
    record = read_decoder_record(path)
    theirs = {name: record.get(name) for name in identity}
    if names := differing(flat(theirs), flat(identity)):
        raise InputError(f"{path} is another decoder: it differs in {', '.join(names[:3])}. Choose another `out`.")
    return record


def _pixels(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float().div_(255)
