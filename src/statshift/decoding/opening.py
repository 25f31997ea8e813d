"""An encoder and a decoder by what a user names: files, specs, or what is loaded already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from statshift._core.errors import InputError
from statshift._core.randomness import keys, uniform
from statshift.decoding.adain_files import adain_codec
from statshift.decoding.codec import Codec, codec_of, read_decoder_record
from statshift.models import load_model

CHECKPOINTS = (".pth", ".pt", ".safetensors")
ZOOS = ("timm:", "torchvision:", "cifar:", "seg:")
"""Models that a file may name: no code of the user's is run for it."""


def open_codec(
    encoder: str | Path | nn.Module | None, decoder: str | Path | Codec, device: torch.device, size: int
) -> Codec:
    """Return an encoder with its decoder, on a device.

    Args:
        encoder: a model or its spec, whose first part it is; or pytorch-AdaIN's `vgg_normalised.pth`, where the decoder
            is its `decoder.pth`; None is the model that the decoder's file names. By a spec it is loaded with the
            arguments, mean and deviation that the file has.
        decoder: a file that `train_decoder` wrote, pytorch-AdaIN's, or both as one thing, which is returned.
        device: where they run; a module is there already.
        size: side of the square images that a model is read with, px.

    Raises:
        InputError: a file of another kind, or a decoder of another cut or encoder.
    """
    if isinstance(decoder, Codec):
        return decoder
    if encoder is None:
        encoder = str(read_decoder_record(decoder)["encoder"]["spec"])
        if not encoder.startswith(ZOOS):
            raise InputError(f"{decoder} is a decoder of {encoder}, a model of your own: name it by `encoder`.")
    if isinstance(encoder, nn.Module):
        model = encoder
    elif Path(encoder).suffix in CHECKPOINTS:
        return adain_codec(encoder, decoder, device)
    else:
        model = load_model(str(encoder), **_trained_with(decoder)).to(device)
    noise = uniform(keys(0, torch.arange(2), "probe"), 3, size, size).to(device)
    return codec_of(model, decoder, noise)


def _trained_with(decoder: str | Path) -> dict[str, Any]:
    """Return how a decoder's file says that its model was loaded."""
    model: Mapping[str, Any] = read_decoder_record(decoder).get("model", {})
    preprocessing: Mapping[str, Any] = model.get("preprocessing", {})
    given = {"model_args": model.get("arguments"), **{name: preprocessing.get(name) for name in ("mean", "std")}}
    return {name: value for name, value in given.items() if value}


def move(codec: Codec, device: torch.device) -> None:
    """Move an encoder and its decoder to a device, in place."""
    for part in (codec.decoder, codec.encode, codec.split.model if codec.split else None):
        if isinstance(part, nn.Module):
            part.to(device)
