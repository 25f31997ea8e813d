"""Training-time augmentation addressed by (seed, epoch, image): the same pixels whatever the batch, worker or order."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from statshift._core.errors import InputError, unknown
from statshift._core.randomness import Draws, keys, seeded
from statshift.data import ImageData
from statshift.data.preprocessing import preprocess, to_rgb
from statshift.hardening import choices
from statshift.hardening.fast_autoaugment import fast_autoaugment

AUGMENTATIONS = choices.AUGMENTATIONS
WINDOWS = ("crop", "standard", "cutmix")  # nothing but windows of small images, which tensors do as well
DRAWING = ("autoaugment", "augmix")  # from torch's global generator, which is torchvision's only one
MIXING = ("cutmix",)  # the images of each process's share of a batch with each other
POLICIES = ("cifar10", "imagenet")  # Fast AutoAugment's, of other images and of photographs
LEAST_PHOTOGRAPH = 64  # px; smaller images, as CIFAR's, are too small to take an eighth of


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of one image at a time; a pure function of seed, epoch and index that can be pickled.

    - "none": the evaluation preprocessing.
    - "crop": of photographs (whose `shape` is 64 px or more), a random box of 8 to 100 % of the area and a ratio
      of 3/4 to 4/3, resized to `shape`; of other images, a window of the preprocessed image padded with zeros by an
      eighth of its sides (4 px at 32 px). No flip: for images whose mirror image means something else.
    - "standard": the same crop, then a horizontal flip of every other image.
    - "autoaugment": standard, then AutoAugment's policy for ImageNet (photographs) or CIFAR-10.
    - "fast-autoaugment": Fast AutoAugment's policy for ImageNet (photographs) or CIFAR-10, then standard.
    - "augmix": standard as the first view, and two AugMix views of it.
    - "cutmix": standard; batches are then mixed by `cutmix`.

    Attributes:
        name: one of `AUGMENTATIONS`.
        shape: (3,H,W) of the images after the data's evaluation preprocessing.
        preprocessing: `resize`, `crop` and `interpolation` of the data.
        seed: seed of all draws. Crops and flips are those of "standard" under every name.

    Raises:
        InputError: an unknown name.

    Reference:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6 (box); He et al., Deep Residual Learning,
        CVPR 2016, section 4.2 (window); Cubuk et al., AutoAugment, CVPR 2019, appendix A; Lim et al., Fast
        AutoAugment, NeurIPS 2019, section 4; Hendrycks et al., AugMix, ICLR 2020, section 3 (without the operations
        that resemble the benchmark's corruptions).

    Differs:
        Fast AutoAugment goes before the crop, as its authors', but without their colour jitter and lighting noise.
        AutoAugment and AugMix are torchvision's: discrete magnitudes, AugMix at its severity 3 for all images.
    """

    name: str
    shape: tuple[int, int, int]
    preprocessing: Mapping[str, Any]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in AUGMENTATIONS:
            raise unknown("augmentation", self.name, AUGMENTATIONS)

    @property
    def photographs(self) -> bool:
        """Whether the images are large enough for boxes; others have windows."""
        return min(self.shape[1:]) >= LEAST_PHOTOGRAPH

    @property
    def as_tensors(self) -> bool:
        """Whether it takes the preprocessed images, which may stay decoded, and at most windows of them."""
        return self.name == "none" or (not self.photographs and self.name in WINDOWS)

    @property
    def views(self) -> int:
        """Images that are made of one."""
        return 3 if self.name == "augmix" else 1

    def __call__(self, image: Image.Image, epoch: int, index: int) -> Tensor:
        """Return uint8 (views,3,H,W).

        Args:
            image: PIL image of any mode, before preprocessing.
            epoch: from 0.
            index: the image's place in the whole data set.
        """
        if self.name == "none":
            return preprocess(image, **self.preprocessing)[None]
        if self.name == "fast-autoaugment":
            image = fast_autoaugment(to_rgb(image), POLICIES[self.photographs], Random(self._seeds(epoch, index)[1]))
        image, flipped = self._boxed(image, epoch, index) if self.photographs else self._windowed(image, epoch, index)
        if flipped and self.name != "crop":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views = [image]
        if self.name in DRAWING:
            transform = _transform(self.name, self.photographs)
            with seeded(self._seeds(epoch, index)[1]):
                views = (
                    [transform(image)] if self.name == "autoaugment" else [image, transform(image), transform(image)]
                )
        return torch.from_numpy(np.stack([np.asarray(view) for view in views])).permute(0, 3, 1, 2).contiguous()

    def at(self, epoch: int) -> Callable[[Image.Image, int], Tensor]:
        """Return the augmentation of one epoch, for `ImageData.augmented`: (image, index) to uint8 (views,3,H,W)."""
        return partial(_augment, self, epoch)

    def windows(self, epoch: int, indices: Tensor) -> Tensor:
        """Return the windows (3,B) int64 of small images: top and left in the padded image, and 1 if flipped.

        Args:
            epoch: from 0.
            indices: (B,) int64, the images' places in the whole data set.
        """
        draws = Draws(self.seed, indices, f"augmentation epoch {epoch}").uniform("window", 3).T
        places = torch.tensor([[2 * (side // 8) + 1] for side in self.shape[1:]], device=indices.device)
        flipped = (draws[2:] < 0.5) & (self.name != "crop")
        return torch.cat([(draws[:2] * places).long(), flipped.long()])

    def _seeds(self, epoch: int, index: int) -> tuple[int, int]:
        """Return 32 bits for a photograph's box and flip, and 32 for torchvision's operations."""
        words = keys(self.seed, torch.tensor([index]), f"augmentation epoch {epoch}")[0].tolist()
        return words[0] % 2**32, words[1] % 2**32

    def _boxed(self, image: Image.Image, epoch: int, index: int) -> tuple[Image.Image, bool]:
        rng = Random(self._seeds(epoch, index)[0])
        flipped = rng.random() < 0.5
        image = to_rgb(image)
        resample = Image.Resampling[self.preprocessing["interpolation"].upper()]
        return image.crop(_box(image.size, rng)).resize(self.shape[:0:-1], resample), flipped

    def _windowed(self, image: Image.Image, epoch: int, index: int) -> tuple[Image.Image, bool]:
        _, height, width = self.shape
        top, left, flipped = self.windows(epoch, torch.tensor([index]))[:, 0].tolist()
        top, left = top - height // 8, left - width // 8
        whole = Image.fromarray(preprocess(image, **self.preprocessing).permute(1, 2, 0).numpy())
        # Pillow takes what lies outside as zeros.
        return whole.crop((left, top, left + width, top + height)), bool(flipped)


def augmentation_for(name: str, data: ImageData, seed: int = 0) -> Augmentation:
    """Return an augmentation to the shape and by the preprocessing of the data.

    Raises:
        InputError: an unknown name.
    """
    return Augmentation(name, data.shape, data.preprocessing, seed)


def windowed(images: Tensor, windows: Tensor) -> Tensor:
    """Return the windows of a batch of small images, a new tensor; for a batch what `Augmentation` is for an image.

    Args:
        images: (B,3,H,W) of any type, after the data's evaluation preprocessing.
        windows: (3,B) int64, as `Augmentation.windows` returns them, on the images' device.
    """
    height, width = images.shape[2:]
    down, right = height // 8, width // 8
    padded = F.pad(images, (right, right, down, down))
    top, left, flipped = windows[:, :, None]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    columns = torch.where(flipped.bool(), columns.flip(0), columns)
    places = (top + rows)[:, :, None] * padded.shape[3] + (left + columns)[:, None]
    everywhere = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, everywhere).view(images.shape)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, on the way to which nobody waits for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def cutmix(images: Tensor, targets: Tensor, draws: Draws, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return a batch in which one box of every image comes from another image, and the targets mixed by its area.

    Box and share are those of the first image's address; each image's partner is drawn from the whole batch, itself
    included, every image being a partner once.

    Args:
        images: (B,3,H,W) float.
        targets: (B,K) float, one-hot or soft.
        draws: over the B images' indices; on the CPU, or their device is waited for.
        alpha: the images' own share of the area is drawn from Beta(alpha, alpha), then cut at the border.

    Returns:
        Images (B,3,H,W) and targets (B,K), new tensors.

    Raises:
        InputError: an alpha that is not above 0.

    Reference:
        Yun et al., CutMix, ICCV 2019, equations 1 and 2, algorithm 1.
    """
    if not alpha > 0:
        raise InputError(f"Expected `alpha` to be above 0, but got {alpha}.")
    partners = sent(draws.uniform("partner").argsort(stable=True), images.device)
    first = Draws(draws.seed, draws.indices[:1].cpu(), draws.scope)
    word = int(first.keys("share")[0, 0]) % 2**32
    side = math.sqrt(1 - np.random.default_rng(word).beta(alpha, alpha))
    (top, bottom), (left, right) = (
        (max(0, int(u * length) - int(side * length) // 2), min(length, int(u * length) + int(side * length) // 2))
        for u, length in zip(first.uniform("centre", 2)[0].tolist(), images.shape[2:], strict=True)
    )
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    share = (bottom - top) * (right - left) / images[0, 0].numel()
    return mixed, targets * (1 - share) + targets[partners] * share


def _augment(augmentation: Augmentation, epoch: int, image: Image.Image, index: int) -> Tensor:
    return augmentation(image, epoch, index)


def _box(size: tuple[int, int], rng: Random) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) as torchvision's `RandomResizedCrop` draws it."""
    width, height = size
    for _ in range(10):
        area = (0.08 + 0.92 * rng.random()) * width * height
        ratio = (4 / 3) ** (2 * rng.random() - 1)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@cache
def _transform(name: str, photographs: bool) -> Callable[[Image.Image], Image.Image]:
    from torchvision.transforms import v2

    if name == "augmix":
        mix: Callable[[Image.Image], Image.Image] = v2.AugMix(all_ops=False)
        return mix
    policy = v2.AutoAugmentPolicy.IMAGENET if photographs else v2.AutoAugmentPolicy.CIFAR10
    one: Callable[[Image.Image], Image.Image] = v2.AutoAugment(policy)
    return one
