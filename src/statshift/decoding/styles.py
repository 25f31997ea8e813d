"""Images as an encoder sees their styles: the channel statistics of their features, taken once each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.randomness import Draws
from statshift.data import ImageData, load_data
from statshift.data.reading import read_headers
from statshift.decoding.codec import Codec
from statshift.norms.adain import adain, check_alpha
from statshift.norms.statistics import ChannelStatistics, instance_statistics


@dataclass(frozen=True, eq=False)
class Styles:
    """Style images, and the statistics of those that were asked for, which take 2 C numbers each.

    Attributes:
        images: squares of one size.
        codec: its encoder.
    """

    images: ImageData = field(repr=False)
    codec: Codec = field(repr=False)
    _kept: dict[int, ChannelStatistics] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        """The files below the folder, in the order of the styles' numbers."""
        return [self.images.source.label_of(index) for index in self.images.indices.tolist()]

    def chosen(self, seed: int, indices: Tensor) -> Tensor:
        """Return the number of the style (B,) of each image, drawn by its place (B,) in its data set."""
        return Draws(seed, indices, "stylised").integers("style", low=0, high=len(self))

    def statistics(self, numbers: Sequence[int], device: torch.device) -> ChannelStatistics:
        """Return the statistics (B,C) of some styles; each is encoded once and alone, so they are always the same.

        Args:
            numbers: (B,) of the styles.
            device: where the encoder is.
        """
        missing = [number for number in dict.fromkeys(numbers) if number not in self._kept]
        for pixels, positions in self.images.groups([np.array([number]) for number in missing]):
            self._kept[int(positions[0])] = instance_statistics(self.encoded(pixels, device))
        found = [self._kept[number] for number in numbers]
        mean, var = (torch.cat([getattr(one, name) for one in found]).to(device) for name in ("mean", "var"))
        return ChannelStatistics(mean, var, found[0].count)

    @torch.no_grad()
    def encoded(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Return the features of style images, uint8 (B,3,H,W)."""
        features: Tensor = self.codec.encode(pixels.to(device).float().div_(255))
        return features

    def describe(self) -> dict[str, Any]:
        """Return what a record says of them: how many, which, and how large."""
        _, size, _ = self.images.shape
        told = (self.images.content_hash(), self.images.bytes_hash)
        return {"images": len(self), "size": size, "content_hash": told[0], "bytes_hash": told[1]}


@torch.no_grad()
def read_styles(folder: str | Path, codec: Codec, *, size: int = 256, device: str | torch.device = "cpu") -> Styles:
    """Return the images of a folder as styles: the shorter side resized to `size` px, the central square cut out.

    Args:
        folder: of image files, or of folders of them.
        codec: whose encoder sees them.
        size: px.
        device: where the encoder is.

    Raises:
        InputError: there are none, one cannot be read or is smaller than the encoder's stride, or squares of `size`
            leave a single value in a channel.
    """
    images = load_data(f"folder:{Path(folder).expanduser()}", resize=size, crop=size, cache_bytes=0)
    styles = Styles(images, codec)
    pixels, _ = next(images.batches(1, which=[0]))
    height, width = styles.encoded(pixels, torch.device(device)).shape[-2:]
    if height * width < 2:
        raise InputError(
            f"Expected styles of more than {size} px, of which {codec.at} leaves {height} x {width}: a style is the "
            "mean and the deviation over positions. Give a larger `style_size`."
        )
    stride = -(-size // height)
    headers = read_headers(images.source, images.indices.tolist())
    for index, header in zip(images.indices.tolist(), headers, strict=True):
        if isinstance(header, InputError):
            raise header
        (wide, high), _ = header
        if min(wide, high) < stride:
            raise InputError(
                f"Expected styles of at least {stride} px, the encoder's stride at {codec.at}, but "
                f"{images.source.name(index)} is {wide}x{high}; remove it."
            )
    return styles


@torch.no_grad()
def stylise(images: Tensor, styles: Styles, numbers: Tensor, alpha: float = 1.0) -> Tensor:
    """Return images (B,3,H,W) in [0,1] with the styles of these numbers, of the same size, not rounded.

    Args:
        images: (B,3,H,W) in [0,1], on the encoder's device.
        styles: to choose from.
        numbers: (B,) of the style of each image.
        alpha: how far to go, in [0,1]; see `adain`.

    Raises:
        InputError: an alpha that is not in [0,1].

    Reference:
        Huang & Belongie, ICCV 2017, equations 11, 12 and 14.
    """
    check_alpha(alpha)
    style = styles.statistics(numbers.tolist(), images.device)
    features = adain(styles.codec.encode(images), style, alpha)
    return styles.codec.decode(features, (images.shape[-2], images.shape[-1]))
