"""Rectified weights on disk, for the original architecture."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from statshift._core.copying import copied
from statshift._core.errors import InputError
from statshift.adapting.protocols import SOURCE, Protocols, draw_images, full_batches, resolve_protocols
from statshift.adapting.rectify import rewrite
from statshift.adapting.sweep import sweep
from statshift.data import ImageData
from statshift.measuring.adapted import AdaptationOptions, describe_protocols
from statshift.models import PixelModel, check_writable, save_weights, weights_hash
from statshift.norms.selection import select_layers
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
        protocol: a name, or one's own function under its name, as in `measure`.
        options: `samples`, `statistics`, `where` and `unbiased`.
        seed: of the choice of images.
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
    found = resolve_protocols(protocol)
    if len(found) > 1:
        raise InputError(f"Expected one protocol to write, but got {', '.join(one.name for one in found)}.")
    if not found or found[0].kind == "stream":
        raise InputError(
            f"The protocol {found[0].name if found else SOURCE} leaves no statistics to write: "
            f"{'they move with every batch' if found else 'it changes nothing'}. Write those of auto, prior, replace "
            "or full."
        )
    one, adapted = found[0], copied(model)
    images = draw_images(data, 1 if one.kind == "full" else options.samples, seed).to(model.mean.device)
    described = describe_protocols([one], replace(options, include_adaptation=True), model, images[:1], len(data))[
        one.name
    ]
    if one.kind == "full":
        groups = full_batches(len(data))

        def batches() -> Iterator[Tensor]:
            return (part.to(model.mean.device).float() / 255 for part, _ in data.groups(groups))

        sweep(adapted, batches, select_layers(adapted, images, options.where), **options.written)
    elif one.kind == "model":
        adapted = one.function(adapted.eval(), images)
        if not isinstance(adapted, nn.Module):
            raise InputError(f"Expected {one.name} to return the adapted model, but got {type(adapted).__name__}.")
    else:
        given: dict[str, Any] = options.layers | one.numbers
        rewrite(adapted, images, one.function, **given)
    del described["evaluated_on"], described["reset"]
    record: dict[str, Any] = {
        "model": describe_model(model),
        "data": describe_data(data, None),
        "protocol": {"name": one.name, **described},
        "seed": seed,
        "environment": describe_environment(model.mean.device),
    }
    record["changed"] = record["model"]["weights_hash"] != weights_hash(getattr(adapted, "network", adapted))
    save_weights(getattr(adapted, "network", adapted), out, {"statshift": json.dumps(record)})
    return record
