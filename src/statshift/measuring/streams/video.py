"""A video: few scenes in many frames each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statshift._core.errors import InputError
from statshift.data import ImageData
from statshift.measuring.images import Images
from statshift.measuring.streams.course import Course, Member, Order, placed
from statshift.measuring.streams.film import SENSOR_NOISE, film, most_moved
from statshift.shifts.conditions import Condition


@dataclass(frozen=True)
class Video(Course):
    """Scene after scene, in an order that is drawn, each in many frames that differ little.

    The data give one scene to every `copies` images, drawn by the seed, so that there are about as many frames as
    images; source and protocols are measured on the same frames, whatever the draw.

    Attributes:
        copies: frames of each scene, at least 2.
    """

    name = "video"

    copies: int = 16

    @property
    def spec(self) -> str:
        """With its number."""
        return f"{self.name}:{self.copies}"

    def fitted(self, images: Images, seed: int) -> Images:
        """Return the frames of every condition's images.

        Raises:
            InputError: fewer images than frames of one scene.
        """

        def filmed(data: ImageData) -> ImageData:
            return film(data.subset(self._scenes(data, seed)), self.copies, seed)

        base = filmed(images.base)

        def read(condition: Condition) -> ImageData:
            found = images.read(condition)
            return base if found is images.base else filmed(found)

        sets = {condition: filmed(data) for condition, data in images.sets.items()}
        return replace(images, base=base, sets=sets, read=read)

    def _scenes(self, data: ImageData, seed: int) -> NDArray[np.int64]:
        scenes = len(data) // self.copies
        if not scenes:
            raise InputError(
                f"Expected at least {self.copies} images for the stream {self.spec}, but {data.spec} has {len(data)}: "
                "give more images, or fewer copies."
            )
        return np.sort(Member(Condition("", 0), data.indices).shuffled(seed, "scenes")[:scenes])

    def stretches(self, members: Sequence[Member], seed: int, draw: int) -> list[Order]:
        """Return a stretch of each condition: the scenes in the same order, and the frames of each in theirs."""
        found = []
        for number, one in enumerate(members):
            turns = one.draws(seed, f"scene order draw {draw}")[:: self.copies].argsort(kind="stable")
            frames = turns[:, None] * self.copies + np.arange(self.copies)
            found.append(placed(number, frames.reshape(-1)))
        return found

    def describe(self, images: Images, members: Sequence[Member], size: int) -> dict[str, Any]:
        """Return beside its number those of the scenes, of the noise's grey levels, and of the px that frames move."""
        return super().describe(images, members, size) | {
            "scenes": len(images.base) // self.copies,
            "noise": SENSOR_NOISE,
            "moved": most_moved(images.base.shape),
        }
