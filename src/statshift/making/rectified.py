"""Rectified weights on disk, for the original architecture."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from statshift._core.copying import copied
from statshift._core.errors import InputError
from statshift.adapting.choosing import Protocols, find, resolve_protocols
from statshift.adapting.drawing import draw_images, whole_batches
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.protocol import Session
from statshift.adapting.registry import SOURCE
from statshift.data import ImageData
from statshift.measuring.loading import fit_sizes
from statshift.models import PixelModel, check_writable, save_weights, weights_hash
from statshift.results.provenance import describe_data, describe_environment, describe_model


def write_rectified(
    model: PixelModel,
    data: ImageData,
    out: str | Path,
    *,
    protocol: Protocols = "auto",
    options: AdaptationOptions | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Rectify a copy of the model to images, and write its weights for the original, unmodified architecture.

    Args:
        model: left as found; on the device where it is to run.
        data: the images, without labels if there are none.
        out: a .safetensors file; its metadata hold the record under "statshift", as JSON.
        protocol: a name, a value, or one's own function under its name, as in `measure`.
        options: `samples`, `statistics`, `where` and `unbiased`.
        seed: seed of the choice of images.
        overwrite: replace a file that is there.

    Returns:
        The record.

    Raises:
        InputError: a file that is there, a protocol whose statistics move with the stream, or what `rectified` and
            `save_weights` raise.
    """
    options = options or AdaptationOptions()
    check_writable(out)
    if Path(out).exists() and not overwrite:
        raise InputError(f"Expected a new file to write, but {out} is there: give another `out`, or `overwrite`.")
    chosen = resolve_protocols(protocol) or {SOURCE: find(SOURCE)}
    if len(chosen) > 1:
        raise InputError(f"Expected one protocol to write, but got {', '.join(chosen)}.")
    ((name, value),) = chosen.items()
    options = value.taking(options)
    fit_sizes(model, data)
    session = _session(name, copied(model), data, options, seed)
    if value.not_exported:
        value.exported(session)
    described = value.describe(name, replace(options, include_adaptation=True), model, session.first(), len(data))
    adapted = value.exported(session)
    del described["evaluated_on"], described["reset"]
    record: dict[str, Any] = {
        "model": describe_model(model),
        "data": describe_data(data, None),
        "protocol": {"name": name, **described},
        "seed": seed,
        "environment": describe_environment(model.mean.device),
    }
    record["changed"] = record["model"]["weights_hash"] != weights_hash(getattr(adapted, "network", adapted))
    save_weights(getattr(adapted, "network", adapted), out, {"statshift": json.dumps(record)})
    return record


def _session(name: str, model: PixelModel, data: ImageData, options: AdaptationOptions, seed: int) -> Session:
    """Return what a protocol adapts: the model itself, to the images as they are."""
    device = model.mean.device

    def whole() -> Iterator[Tensor]:
        return (images.to(device).float() / 255 for images, _ in data.groups(whole_batches(data)))

    return Session(
        name,
        model,
        options,
        few=lambda: draw_images(data, options.samples, seed).to(device),
        first=lambda: draw_images(data, 1, seed).to(device),
        whole=whole,
        images=len(data),
    )
