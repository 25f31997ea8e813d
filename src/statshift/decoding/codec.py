"""An encoder, which is the first part of a model, and the decoder that makes images of its features."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.decoding.decoder import Decoder
from statshift.decoding.stages import Stages, stages_of
from statshift.models import load_weights, read_header, save_weights, weights_hash
from statshift.norms.layers import evaluating
from statshift.splitting.cuts import INPUT
from statshift.splitting.parts import Split, as_network_takes
from statshift.splitting.sides import prefix_hash
from statshift.splitting.split import split

VERB = "decoder"
"""What the record in a decoder's file is of."""


@dataclass(frozen=True)
class Codec:
    """An encoder, frozen, and the decoder that makes images of its features.

    Gradients pass both; neither changes.

    Attributes:
        at: the cut, as the user named it, or "relu4_1".
        encode: images (B,3,H,W) in [0,1] to features (B,C,h,w).
        decoder: features and a size (H,W) to images (B,3,H,W), not clamped.
        rectified: whether the features end in a ReLU.
        split: the model's two parts; None for pytorch-AdaIN's encoder, which has no rest.
        stages: features by stage, in one pass; see `stages_of`.
        record: where the decoder comes from: its hash, the encoder's id and hash, the cut, and how it was trained.
    """

    at: str
    encode: Callable[[Tensor], Tensor]
    decoder: nn.Module
    rectified: bool
    split: Split | None = field(repr=False)
    stages: Stages = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images (B,3,H,W) in [0,1] of features (B,C,h,w) and a size (H,W)."""
        images: Tensor = self.decoder(features, size)
        return images.clamp(0, 1)


def encoder_of(model: nn.Module, at: str, image: Tensor) -> Split:
    """Return the split whose prefix is an encoder.

    Args:
        model: left as found.
        at: the cut.
        image: (B,3,H,W), what the model is read with.

    Raises:
        InputError: no cut, or features of which there is nothing to decode.
    """
    if at == INPUT:
        raise InputError("Expected `at` to name a layer whose features are decoded, but got 'input'.")
    found = split(model, at, image)
    assert found.cut is not None
    if min(found.cut.shape[1:]) < 2:
        height, width = found.cut.shape[1:]
        raise InputError(
            f"Expected features of at least 2 x 2 px to decode, but those of {at} are {height} x {width} px: choose an "
            "earlier layer or larger images."
        )
    return found


def codec_of(model: nn.Module, decoder_file: str | Path, image: Tensor, *, at: str | None = None) -> Codec:
    """Return a model's first part with a decoder that `train_decoder` wrote for it.

    Args:
        model: left as found; whose weights before the cut are those that the decoder was trained with.
        decoder_file: a .safetensors file.
        image: (B,3,H,W) in [0,1] on the model's device, what the model is read with.
        at: the cut that the decoder must be of; by default its own.

    Raises:
        InputError: a file that is no decoder, or a decoder of another cut or another encoder.
    """
    header = read_decoder_record(decoder_file)
    theirs = header["encoder"]
    name = at if at is not None else theirs["at"]
    try:
        found = encoder_of(model, name, image)
    except InputError as error:
        if at is not None:
            raise
        raise InputError(
            f"{decoder_file} is a decoder of {theirs['at']} of {theirs['spec']}, which this model has not. {error}"
        ) from error
    assert found.cut is not None
    if found.cut.name != theirs["layer"]:
        raise InputError(f"{decoder_file} is a decoder of {theirs['at']}, not of {name}: train one for {name}.")
    if (own := prefix_hash(found, image)) != theirs["hash"]:
        raise InputError(
            f"{decoder_file} is a decoder of another encoder: {theirs['spec']}, whose weights up to {theirs['at']} "
            f"have the hash {theirs['hash']}, and this model's {own}. Train one for this model."
        )
    decoder = Decoder(**header["decoder"])
    load_weights(decoder, decoder_file)
    return codec_from(found, name, decoder.to(image.device).requires_grad_(False).eval(), image, header)


def codec_from(found: Split, at: str, decoder: nn.Module, image: Tensor, record: Mapping[str, Any]) -> Codec:
    """Return a codec of an encoder and its decoder; the record gets the decoder's hash."""
    cut, model = found.cut, found.model
    assert cut is not None

    def encode(images: Tensor) -> Tensor:
        with evaluating(model):
            return found.prefix(images)

    described = {**record, "hash": weights_hash(decoder)}
    return Codec(at, encode, decoder, cut.rectified, found, stages_of(found, image), described)


def read_decoder_record(path: str | Path) -> dict[str, Any]:
    """Return the record of a decoder's file.

    Raises:
        InputError: it is not there, or no file of a decoder.
    """
    if not Path(path).expanduser().is_file():
        raise InputError(f"Expected a file of `train_decoder`, but {path} is not a file.")
    record = read_header(path)
    if not isinstance(record, dict) or record.get("verb") != VERB:
        raise InputError(f"Expected {path} to be a decoder that `train_decoder` wrote, but it is not.")
    return record


def save_decoder(path: str | Path, decoder: Decoder, record: Mapping[str, Any]) -> None:
    """Write a decoder to a .safetensors file, whole or not at all.

    Args:
        path: the file.
        decoder: its weights and configuration.
        record: `encoder` (`spec`, `at`, `layer`, `hash`) and how it was trained, plain data.

    Raises:
        InputError: the file is of another kind or cannot be written.
    """
    header = {**record, "verb": VERB, "decoder": decoder.config}
    save_weights(decoder, path, {"statshift": json.dumps(header)})


def describe_encoder(found: Split, at: str, image: Tensor) -> dict[str, Any]:
    """Return what a decoder's file says of its encoder: the model's spec, the cut and the hash of what lies before."""
    assert found.cut is not None
    return {
        "spec": getattr(found.model, "spec", type(found.model).__name__),
        "at": at,
        "layer": found.cut.name,
        "hash": prefix_hash(found, image),
    }


def stride_of(found: Split, image: Tensor) -> int:
    """Return the least power of two by which features have to grow to be as large as the image that the network gets.

    Args:
        found: the split.
        image: (B,3,H,W), what the model is read with.
    """
    assert found.cut is not None
    height = as_network_takes(found.model, image).shape[2]
    ratio = max(1.0, height / found.cut.shape[1])
    return int(2 ** round(torch.tensor(ratio).log2().item()))
