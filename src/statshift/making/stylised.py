"""A data set of stylised images: each has the style of one image of a folder, by AdaIN.

Reference: Huang & Belongie, ICCV 2017; Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (ICLR 2019),
    section 2.2 and appendix A.3.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from statshift._core.errors import InputError
from statshift.data import ImageData, load_data
from statshift.decoding.codec import Codec
from statshift.decoding.opening import open_codec
from statshift.decoding.styles import Styles, read_styles
from statshift.making.choices import STYLE_BATCH, STYLE_SIZE
from statshift.making.shards import Written
from statshift.making.trees import Groups, MadeBatch, write_trees
from statshift.measuring.loading import find_device, place
from statshift.results.provenance import describe_data, describe_environment
from statshift.shifts.shift import under
from statshift.shifts.stylised import Stylised, describe_stylised

STYLE_TREE = "stylised"


def write_stylised(
    encoder: str | Path | nn.Module | None,
    decoder: str | Path | Codec,
    styles: str | Path | Styles,
    data: str | Dataset[Any] | ImageData,
    *,
    out: str | Path,
    alpha: float = 1.0,
    style_size: int = STYLE_SIZE,
    batch_size: int = STYLE_BATCH,
    seed: int = 0,
    device: str | torch.device = "auto",
    data_options: Mapping[str, Any] | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> Written:
    """Write the images of a data set, each with the style of one of a folder's.

    The folder gets `stylised/CLASS/NUMBER.png`, to be read as `folder:`, and `batches.npz`, which says by image
    (`indices`) which file its style is of (`style`). Which style an image gets depends on its place in the whole data
    set and the seed alone. Batches are kept as they are finished: the same call goes on where an earlier one was
    stopped, and several processes share the images out.

    Args:
        encoder: see `open_codec`; a module is used in evaluation mode and left as it was found.
        decoder: its decoder.
        styles: folder of the style images, or what `read_styles` made of it.
        data: a spec (see `load_data`), a torch `Dataset`, or loaded data; with labels. Photographs are resized to 256
            px and their central 224 are taken, as for Stylized-ImageNet, unless `data_options` say otherwise.
        out: folder, made if need be.
        alpha: how far features go to a style's statistics, in [0,1].
        style_size: side of a style image, px; its central square is taken.
        batch_size: images at once.
        seed: seed of the choice of styles.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N", or a `torch.device`.
        data_options: further arguments of `load_data`, where `data` is not loaded.
        progress: called with (images done, images in all).

    Raises:
        InputError: something that cannot be used, or a folder that holds something else, told in one line.

    Differs:
        What is made is not Stylized-ImageNet, whose choice of paintings is not published.
    """
    where = find_device(device)
    images = data
    if not isinstance(images, ImageData):
        images = load_data(images, **{"cache_bytes": 0, **(data_options or {})})  # each is read once
    if images.labels is None:
        lacking = "label maps, and no class an image" if images.has_maps else "no labels"
        raise InputError(f"Expected labelled images, but {images.spec} has {lacking}.")
    if not isinstance(styles, Styles):
        model = place(encoder, where) if isinstance(encoder, nn.Module) else encoder
        codec = open_codec(model, decoder, where, style_size)
        styles = read_styles(styles, codec, size=style_size, device=where)
    shift = Stylised(styles, alpha)
    names = np.array(styles.names)

    def make(groups: Groups) -> Iterator[MadeBatch]:
        for pixels, positions in images.groups(groups):
            clean = pixels.to(where).float().div_(255)
            indices = torch.from_numpy(images.indices[positions])
            made = under(shift, clean, 0, seed=seed, indices=indices)
            chosen = styles.chosen(seed, indices).numpy()
            yield MadeBatch({STYLE_TREE: made}, {"indices": images.indices[positions], "style": names[chosen]})

    identity = {
        **describe_stylised(styles, alpha),
        "data": describe_data(images, images.labels),
        "seed": seed,
        "batches": {"size": batch_size},
        "trees": [STYLE_TREE],
    }
    environment = describe_environment(where)
    return write_trees(Path(out), identity, environment, images, [STYLE_TREE], batch_size, make, progress)
