"""Training-time augmentation of an image and its label map together, addressed by (seed, epoch, image)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from statshift._core.errors import InputError
from statshift._core.randomness import keys
from statshift.data import ImageData
from statshift.data.maps import preprocess_map
from statshift.data.preprocessing import preprocess
from statshift.hardening.augmentation import Augmentation, augmentation_for
from statshift.hardening.training import PAIR_OPTIONS, USUAL_SCALE, TrainingOptions

PAIR_AUGMENTATIONS = ("none", "crop", "standard")
"""Those of `AUGMENTATIONS` that label maps have."""

GREY = (124, 116, 104)
"""ImageNet's mean colour, of models that do not say which is theirs."""


@dataclass(frozen=True)
class PairAugmentation:
    """Augmentation of one image and its label map at a time; a pure function of seed, epoch and index.

    - "none": the evaluation preprocessing.
    - "crop": the preprocessed image is scaled by a random factor, and a window is cut out at a random place. Where the
      window is larger, the image lies at a random place in it, and the rest is `fill`, which no loss counts.
    - "standard": the same, then a horizontal flip of every other image.

    Labels are scaled by the nearest pixel; only the image has other colours.

    Attributes:
        name: one of `PAIR_AUGMENTATIONS`.
        window: (height, width) of what is cut out, px.
        preprocessing: `resize`, `crop` and `interpolation` of the data.
        fill: colour, 8 bits a channel, where there is no image.
        ignore_index: label where there is no image.
        scale: the least and the greatest factor; all are as likely.
        aspect: width over height changes by a factor from 1 / aspect to aspect; of its logarithm all are as likely.
        colour: brightness, contrast and saturation are multiplied by factors from 1 - colour to 1 + colour each.
        seed: seed of all draws.

    Raises:
        InputError: another name.

    Reference:
        Pan et al., "Two at Once" (IBN-Net, ECCV 2018), section 4.2: random scale, aspect ratio and mirror, then a crop.

    Differs:
        their ranges are not printed: the scale's default is that of Zhao et al. (PSPNet, CVPR 2017), section 5.1.
    """

    name: str
    window: tuple[int, int]
    preprocessing: Mapping[str, Any]
    fill: tuple[int, int, int] = GREY
    ignore_index: int = 255
    scale: tuple[float, float] = USUAL_SCALE
    aspect: float = 1.0
    colour: float = 0.0
    seed: int = 0

    views = 1
    as_tensors = False

    def __post_init__(self) -> None:
        if self.name not in PAIR_AUGMENTATIONS:
            raise InputError(
                f"Expected an augmentation that label maps have ({', '.join(PAIR_AUGMENTATIONS)}), but got {self.name}."
            )

    def __call__(self, image: Image.Image, labels: NDArray[np.uint8], epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Return uint8 (1,3,h,w) and uint8 (h,w).

        Args:
            image: PIL image of any mode, before preprocessing.
            labels: (H,W), its label map, before preprocessing.
            epoch: from 0.
            index: the image's place in the whole data set.
        """
        pixels = preprocess(image, **self.preprocessing)
        how = self.preprocessing
        truth = preprocess_map(labels, resize=how["resize"], crop=how["crop"])
        if self.name == "none":
            return pixels[None], torch.from_numpy(truth)
        rng = Random(int(keys(self.seed, torch.tensor([index]), f"augmentation epoch {epoch}")[0, 0]) % 2**32)
        flipped = rng.random() < 0.5 and self.name == "standard"
        whole = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        part = Framing.drawn(whole.size, self.window, self.scale, self.aspect, rng)
        resample = Image.Resampling[how["interpolation"].upper()]
        seen = part.framed(self._coloured(part.cut(whole, resample), rng), self.fill)
        known = part.framed(part.cut(Image.fromarray(truth), Image.Resampling.NEAREST), self.ignore_index)
        if flipped:
            seen, known = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (seen, known))
        return torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None].contiguous(), torch.from_numpy(np.array(known))

    def at(self, epoch: int) -> Callable[[Image.Image, NDArray[np.uint8], int], tuple[Tensor, Tensor]]:
        """Return the augmentation of one epoch, for `augmented_pairs`."""
        return partial(_augment, self, epoch)

    def describe(self) -> dict[str, Any]:
        """Return what a record has of it beside the training's options: what these leave open."""
        if self.name == "none":
            return {"ignore_index": self.ignore_index}
        return {"window": list(self.window), "scale": list(self.scale), "fill": list(self.fill)}

    def _coloured(self, image: Image.Image, rng: Random) -> Image.Image:
        if self.colour == 0:
            return image
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(1 + self.colour * (2 * rng.random() - 1))
        return image


@dataclass(frozen=True)
class Framing:
    """What a window shows of a scaled image, and where in the window that lies.

    Attributes:
        window: (height, width), px.
        box: left, upper, right and lower edge of what is shown, px of the unscaled image, fractions too.
        size: (width, height) of what is shown, px of the window.
        place: left and upper edge of it in the window, px.
    """

    window: tuple[int, int]
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    place: tuple[int, int]

    @classmethod
    def drawn(
        cls,
        size: tuple[int, int],
        window: tuple[int, int],
        scale: tuple[float, float],
        aspect: float,
        rng: Random,
    ) -> "Framing":
        """Return a part of an image of (width, height) `size`, drawn as `PairAugmentation` says."""
        factor = scale[0] + (scale[1] - scale[0]) * rng.random()
        stretch = aspect ** (rng.random() - 0.5)
        edges, lengths, places = [], [], []
        for side, wanted, by in zip(size, window[::-1], (factor * stretch, factor / stretch), strict=True):
            scaled = max(1, round(side * by))
            spare = scaled - wanted
            shift = int(rng.random() * (abs(spare) + 1))
            start, length = (shift, wanted) if spare > 0 else (0, scaled)
            edges.append((start * side / scaled, (start + length) * side / scaled))
            lengths.append(length)
            places.append(0 if spare > 0 else shift)
        (left, right), (top, bottom) = edges
        return cls(window, (left, top, right, bottom), (lengths[0], lengths[1]), (places[0], places[1]))

    def cut(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        """Return what is shown, scaled."""
        return image.resize(self.size, resample, box=self.box)

    def framed(self, shown: Image.Image, fill: Any) -> Image.Image:
        """Return the window, `fill` where nothing is shown."""
        height, width = self.window
        whole = Image.new(shown.mode, (width, height), fill)
        whole.paste(shown, self.place)
        return whole


def augmentation_of(
    options: TrainingOptions, data: ImageData, mean: Tensor | None = None
) -> Augmentation | PairAugmentation:
    """Return the augmentation of data, together with their label maps where they have some.

    Args:
        options: of the training.
        data: to train on.
        mean: (3,1,1), mean colour in [0,1] of the model, for what lies beside an image.

    Raises:
        InputError: an augmentation that label maps do not have, or options that only they have.
    """
    given = [name for name in PAIR_OPTIONS if getattr(options, name) != getattr(TrainingOptions, name)]
    if not data.has_maps:
        if given:
            raise InputError(f"Expected no `{given[0]}` to train on {data.spec}: it is of data with label maps.")
        return augmentation_for(options.augment, data, options.seed)
    if options.augment == "none" and given:
        raise InputError(f"Expected no `{given[0]}` for images that are not augmented: choose crop or standard.")
    if options.augment == "none" and data.several_sizes:
        raise InputError(
            f"Expected images of one size to train on unaugmented, but those of {data.spec} differ: give `resize` and "
            "`crop`, or choose crop or standard."
        )
    red, green, blue = GREY if mean is None else (255 * mean.flatten().cpu()).clamp(0, 255).round().int().tolist()
    return PairAugmentation(
        options.augment,
        options.window or data.shape[1:],
        data.preprocessing,
        (red, green, blue),
        data.ignore_index,
        options.scale or USUAL_SCALE,
        options.aspect,
        options.colour,
        options.seed,
    )


def _augment(
    augmentation: PairAugmentation, epoch: int, image: Image.Image, labels: NDArray[np.uint8], index: int
) -> tuple[Tensor, Tensor]:
    return augmentation(image, labels, epoch, index)
