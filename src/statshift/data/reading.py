"""Reading images in batches, in worker processes if wanted; what is damaged comes back as an error."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from statshift._core.errors import InputError
from statshift.data.files import DAMAGE
from statshift.data.preprocessing import preprocess, to_rgb
from statshift.data.sources import Header, Pixels, Source

T = TypeVar("T")


def read_headers(
    source: Source, indices: list[int], *, decode: bool = False, workers: int = 0
) -> list[Header | InputError]:
    """Return ((width, height), mode) of each image, or the error that says why it, or its label map, cannot be read.

    Args:
        source: the images.
        indices: which of them.
        decode: read whole images and label maps, which also finds those that are damaged further on.
        workers: processes that read.
    """
    batches = [indices[start : start + 64] for start in range(0, len(indices), 64)]
    reader = _Headers(source, decode)
    return [header for batch in _load(reader, batches, list, workers) for header in batch]


def read_pixels(
    source: Source, batches: Iterable[list[int]], how: dict[str, Any], workers: int = 0
) -> Iterator[Tensor]:
    """Yield uint8 images (B,3,H,W), one tensor for each batch of indices, preprocessed as `how` says.

    Raises:
        InputError: an image is damaged.
    """
    if isinstance(source, Pixels) and how["resize"] is None and how["crop"] is None:
        yield from (torch.from_numpy(source.images[batch]).permute(0, 3, 1, 2).contiguous() for batch in batches)
        return
    yield from read_made(source, batches, partial(_preprocessed, how), workers)


def read_made(
    source: Source, batches: Iterable[list[int]], make: Callable[[Image.Image, int], Tensor], workers: int = 0
) -> Iterator[Tensor]:
    """Yield what `make` makes of each RGB image and its index, stacked, one tensor for each batch of indices.

    Raises:
        InputError: an image is damaged.
    """
    for images in _load(_Decoder(source, make), batches, _stack, workers):
        if isinstance(images, InputError):
            raise images
        yield images


def read_pairs(
    source: Source,
    batches: Iterable[list[int]],
    make: Callable[[Image.Image, NDArray[np.uint8], int], tuple[Tensor, Tensor]],
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what `make` makes of each RGB image, its label map and its index, both stacked, for each batch of indices.

    Raises:
        InputError: an image or a label map is damaged.
    """
    for pairs in _load(_PairDecoder(source, make), batches, list, workers):
        for pair in pairs:
            if isinstance(pair, InputError):
                raise pair
        images, maps = zip(*pairs, strict=True)
        yield torch.stack(images), torch.stack(maps)


def _preprocessed(how: dict[str, Any], image: Image.Image, index: int) -> Tensor:
    return preprocess(image, **how)


def _attempt(source: Source, index: int, read: Callable[[int], T]) -> T | InputError:
    try:
        return read(index)
    except InputError as error:
        return error
    except DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return InputError(f"Cannot read {source.name(index)} ({reason}); remove it or give `skip_bad`.")


def _load(
    reader: Dataset[Any],
    batches: Iterable[list[int]],
    collate: Callable[[list[Any]], Any],
    workers: int,
) -> Iterator[Any]:
    """Yield what the reader gives of each batch of indices; nothing is read before the first is asked for."""
    if not workers:
        yield from (collate([reader[index] for index in batch]) for batch in batches)
        return
    own = torch.Generator()  # the loader draws a number: not from the global stream
    yield from DataLoader(reader, batch_sampler=batches, collate_fn=collate, num_workers=workers, generator=own)


def _stack(images: list[Tensor | InputError]) -> Tensor | InputError:
    whole = []
    for image in images:
        if isinstance(image, InputError):
            return image
        whole.append(image)
    return torch.stack(whole)


@dataclass
class _Headers(Dataset[Header | InputError]):
    source: Source
    decode: bool

    def __getitem__(self, index: int) -> Header | InputError:
        return _attempt(self.source, index, self._read)

    def _read(self, index: int) -> Header:
        if self.decode:
            with self.source.open(index) as image:
                to_rgb(image).load()
        header = self.source.header(index)
        maps = self.source.maps
        if maps is not None:
            maps.check(index, header[0])
            if self.decode:
                maps.read(index)
        return header


@dataclass
class _Decoder(Dataset[Tensor | InputError]):
    source: Source
    make: Callable[[Image.Image, int], Tensor]

    def __getitem__(self, index: int) -> Tensor | InputError:
        image = _attempt(self.source, index, self._read)
        return image if isinstance(image, InputError) else self.make(image, index)  # whose errors are no damage

    def _read(self, index: int) -> Image.Image:
        return _whole(self.source, index)


@dataclass
class _PairDecoder(Dataset[tuple[Tensor, Tensor] | InputError]):
    source: Source
    make: Callable[[Image.Image, NDArray[np.uint8], int], tuple[Tensor, Tensor]]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | InputError:
        pair = _attempt(self.source, index, self._read)
        return pair if isinstance(pair, InputError) else self.make(*pair, index)

    def _read(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        assert self.source.maps is not None
        return _whole(self.source, index), self.source.maps.read(index)


def _whole(source: Source, index: int) -> Image.Image:
    with source.open(index) as image:
        whole = to_rgb(image)
        whole.load()
        return whole
